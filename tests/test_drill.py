"""The failure drill, `pytest -n0 -m drill`: jobs killed at random moments, full and read-only disks, Ctrl-C.

`COMPACTBERT_DRILL` says at how many moments each job is killed; two without it. A moment takes some ten seconds.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("uvicorn", reason="the Hub double needs starlette and uvicorn, of the extra `dev`")
pytestmark = pytest.mark.drill
MOMENTS = int(os.environ.get("COMPACTBERT_DRILL", "2"))
RECIPE = """
stages:
  - finetune: {name: teacher, epochs: 2, batch_size: 16, max_length: 32}
  - prune: {every: 2, max_length: 32}
  - distill: {epochs: 2, batch_size: 16, max_length: 32}
baselines:
  first layers: [{prune: {first: 0.5, max_length: 32}}, {finetune: {epochs: 1, max_length: 32}}]
"""
TRANSFER = """
corpus: {sequence_length: 32, held_out: 0}
teacher: {ib_teacher: {model: my-bert, feature_map_size: 64, embedding_size: 32, max_steps: 8, batch_size: 4}}
student: student.json
transfer: {max_steps: 16, batch_size: 4}
"""
JOBS = {
    "compress": "compress --model my-bert --task reviews.csv --output out --recipe recipe.yaml --shape 1x8",
    "transfer": "transfer --text texts.txt --output out --recipe transfer.yaml",
    "adapt": "adapt --model my-model --task reviews.csv --output out --epochs 4 --batch-size 8 --max-length 32",
    "publish": "publish my-model tester/NAME --license apache-2.0 --output out",
}
# Runs commands as they come, each in a process and a terminal of its own; the libraries are loaded once for all.
RUNNER = """
import fcntl, json, os, pty, select, signal, struct, sys, tempfile, termios, time
del os.environ["TQDM_DISABLE"]
from compactbert import adapters, hub, recipes, training
from compactbert.cli import app
from compactbert.training import adaptation
for line in sys.stdin:
    call = json.loads(line)
    process, terminal = pty.fork()
    if process == 0:
        # What a shell starts in the background ignores it, and so would what that starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(call["folder"])
        # For its processes, and for itself.
        os.environ["TMPDIR"] = tempfile.tempdir = call["temporary"]
        try:
            app(call["arguments"])
        except SystemExit as error:
            sys.stdout.flush()
            os._exit(error.code or 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    started, said, code, due = time.monotonic(), b"", None, call["after"]
    while code is None:
        if select.select([terminal], [], [], 0.002)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                time.sleep(0.002)
        passed = time.monotonic() - started
        if due is not None and passed > due:
            due = None
            if call["ctrl_c"]:
                os.write(terminal, b"\\x03")
            else:
                os.kill(process, signal.SIGKILL)
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    while select.select([terminal], [], [], 0)[0]:
        try:
            said += os.read(terminal, 65536)
        except OSError:
            break
    os.close(terminal)
    answer = {"code": code, "seconds": time.monotonic() - started, "said": said.decode(errors="replace")}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def run(hub):
    """Runs a job's command in a folder; with `after`, kills it (or presses Ctrl-C) after so many seconds."""
    with hub.start(sys.executable, "-c", RUNNER, stderr=subprocess.DEVNULL) as process:

        def call(job: str, folder: Path, name: str = "whole", after: float | None = None, ctrl_c: bool = False) -> dict:
            temporary = folder.with_name(f"{folder.name}-tmp")
            temporary.mkdir(exist_ok=True)
            arguments = JOBS[job].replace("NAME", name).split()
            request = {"folder": str(folder), "temporary": str(temporary), "arguments": arguments}
            print(json.dumps(request | {"after": after, "ctrl_c": ctrl_c}), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield call
        process.stdin.close()


def fill(folder: Path, home: Path) -> Path:
    shutil.copytree(home, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "transfer.yaml").write_text(TRANSFER)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file, and of weights what is in them."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            is_weights = path.suffix == ".safetensors"
            files[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes() if is_weights else b"").hexdigest()
    return files


def published(hub, name: str) -> tuple[dict[str, str], str, int]:
    tree = hub.tree(f"tester/{name}")
    tree.pop("README.md")
    text = hub.text(f"tester/{name}", "README.md").replace(name, "NAME")
    return tree, text, len(hub.commits(f"tester/{name}"))


@pytest.fixture(scope="module")
def whole(run, home, hub, tmp_path_factory):
    """What uninterrupted jobs leave, and how long they take."""
    done = {}

    def of(job: str) -> tuple[dict[str, str], float]:
        if job not in done:
            folder = fill(tmp_path_factory.mktemp(job), home)
            answer = run(job, folder)
            assert answer["code"] == 0, answer["said"]
            done[job] = contents(folder), answer["seconds"]
        return done[job]

    return of


def check(job: str, folder: Path, expected: dict[str, str], hub, name: str) -> None:
    assert contents(folder) == expected
    # A killed process cannot take its temporary files with it, but weights are none of them.
    assert not list(folder.with_name(f"{folder.name}-tmp").rglob("*.safetensors"))
    assert not list((hub.homes / "mine" / "assets").rglob("*.safetensors"))
    if job == "publish":
        assert published(hub, name) == published(hub, "whole")


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment(job, moment, run, whole, home, hub, tmp_path):
    expected, seconds = whole(job)
    name = f"killed-{moment}"
    folder = fill(tmp_path / "here", home)
    after = seconds * random.Random(f"{job} {moment}").random()
    killed = run(job, folder, name, after=after)
    again = run(job, folder, name)
    # A job that had come to its end says that its output is there.
    if not (again["code"] == 2 and "exists" in again["said"]):
        assert again["code"] == 0, (killed["said"][-300:], again["said"])
    check(job, folder, expected, hub, name)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, which can be made larger or read-only."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path / "disk")]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")

    (tmp_path / "disk").mkdir()
    mount("size=1g")
    yield tmp_path / "disk" / "here", lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("room", [1, 20, 60])
@pytest.mark.parametrize("job", ["compress", "transfer", "adapt"])
def test_full_disk(job, room, disk, run, whole, home, hub):
    expected, _ = whole(job)
    place, remount = disk
    folder = fill(place, home)
    used = sum(path.stat().st_size for path in folder.rglob("*")) >> 20
    remount(f"size={used + room}m")
    answer = run(job, folder)
    if answer["code"] != 0:
        assert answer["code"] == 2, answer["said"]
        last = answer["said"].rstrip().splitlines()[-1]
        assert "Error: " in last, answer["said"]
        assert "No space left" in last or "disk is full" in last
    remount("size=1g")
    if answer["code"] != 0:
        again = run(job, folder)
        assert again["code"] == 0, again["said"]
    check(job, folder, expected, hub, "whole")


@pytest.mark.parametrize("job", ["compress", "transfer", "adapt"])
def test_read_only_disk(job, disk, run, whole, home, hub):
    expected, _ = whole(job)
    place, remount = disk
    folder = fill(place, home)
    before = contents(folder)
    (folder.with_name("here-tmp")).mkdir()
    remount("ro")
    answer = run(job, folder)
    assert answer["code"] == 2, answer["said"]
    assert "Error: " in answer["said"].rstrip().splitlines()[-1]
    assert "Read-only" in answer["said"].rstrip().splitlines()[-1]
    remount("rw")
    assert contents(folder) == before
    assert run(job, folder)["code"] == 0
    check(job, folder, expected, hub, "whole")


@pytest.mark.parametrize("job", JOBS)
def test_ctrl_c(job, run, whole, home, hub, tmp_path):
    expected, seconds = whole(job)
    for part in (2, 4, 8):
        name = f"stopped-{part}"
        folder = fill(tmp_path / name, home)
        answer = run(job, folder, name, after=seconds / part, ctrl_c=True)
        if answer["code"] != 0:
            break
        # It was done before: the machine was busier when the whole was timed.
    assert answer["code"] == 130, answer["said"]
    assert "Traceback" not in answer["said"]
    last = answer["said"].removesuffix("\n").split("\n")[-1]
    # After what the terminal shows of the keys.
    assert last.removeprefix("^C").startswith("Interrupted. "), answer["said"][-500:]
    assert "same command" in last
    again = run(job, folder, name)
    assert again["code"] == 0, again["said"]
    check(job, folder, expected, hub, name)
