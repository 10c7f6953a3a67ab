"""Publishing, with the real clients and a Hub double; what the double does not prove is said in `hub_double.py`."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from families import build
from peft import PeftModel
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

import compactbert


pytest.importorskip("uvicorn", reason="the Hub double needs starlette and uvicorn, of the extra `dev`")


SCRIPTS = Path(sys.executable).parent
IDS = [[2, 17, 40, 5, 3], [2, 9, 9, 31, 3]]
SPACE = """---
title: Reviews
sdk: gradio
sdk_version: 6.31.0
app_file: app.py
license: apache-2.0
---

# Reviews
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_model, minilm_tokenizer):
    """What the toolkit leaves: a compressed classifier, an adapter of it, a pruned reader; and a Space."""
    folder = tmp_path_factory.mktemp("sources")
    rows = [f"the film is {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    options = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 16, "max_length": 16}
    recipe = {"name": "short", "stages": [{"finetune": options}, {"prune": {"layers": 2}}, {"distill": options}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    data = str(folder / "reviews.csv")
    recipe_file, compressed = str(folder / "recipe.yaml"), folder / "compressed"
    compactbert.compress(str(tiny_model), data, compressed, recipe=recipe_file, shapes=["1x8"])
    adapter = {"options": {"r": 2}, "epochs": 1, "learning_rate": 0.1, "batch_size": 16, "max_length": 16}
    compactbert.adapt(str(compressed), data, folder / "adapter", method="lora", **adapter)
    pruned = build("mobilebert_md-stages", "ForQuestionAnswering", vocab_size=len(minilm_tokenizer))
    pruned.save_pretrained(folder / "pruned")
    minilm_tokenizer.save_pretrained(folder / "pruned")
    (folder / "space").mkdir()
    (folder / "space" / "README.md").write_text(SPACE)
    (folder / "space" / "app.py").write_text("import os\n\nMODEL_ID = os.environ['MODEL_ID']\n")
    (folder / "space" / "requirements.txt").write_text("transformers>=5.20\n")
    return folder


# Calls functions of `compactbert.hub` as they come, one process for all: loading the libraries takes seconds.
PUBLISHER = """
import json, os, sys, time
from typer.testing import CliRunner
import compactbert.hub
from compactbert.cli import app
answers, sys.stdout = sys.stdout, sys.stderr
# The client waits for seconds before it tries again.
time.sleep = lambda seconds: None
# A zoo of all that is on the double.
compactbert.hub.catalogue.find_entry = lambda name: {"name": name, "repo_id": name}
for line in sys.stdin:
    call = json.loads(line)
    os.environ["HF_TOKEN"] = call["token"]
    try:
        if call["function"] == "command":
            result = CliRunner().invoke(app, call["arguments"])
            answer = {"code": result.exit_code, "output": result.output}
        else:
            answer = getattr(compactbert.hub, call["function"])(*call["arguments"], **call["options"])
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer, default=str), file=answers, flush=True)
"""


class Publisher:
    """A process in which `compactbert` publishes."""

    def __init__(self, process):
        self.process = process

    def __call__(self, function, *arguments, token="hf_tester", **options):
        call = {"function": function, "arguments": [str(argument) for argument in arguments]}
        self.process.stdin.write(json.dumps(call | {"token": token, "options": options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def publisher(hub, tmp_path_factory):
    errors = tmp_path_factory.mktemp("publisher") / "stderr"
    with errors.open("w") as file, hub.start(sys.executable, "-P", "-c", PUBLISHER, stderr=file) as process:
        yield Publisher(process)
        process.stdin.close()
    assert "hf_tester" not in errors.read_text(), "a token was printed"


@pytest.fixture(scope="module")
def published(hub, publisher, sources, tmp_path_factory):
    """Everything, published: name -> what `publish` returned; and `staged`, the compressed model as it was staged."""
    staged = tmp_path_factory.mktemp("published") / "staged"
    options = ["--license", "mit", "--language", "en", "--tag", "v1", "--collection", "Small models"]
    command = [SCRIPTS / "compactbert", "publish", sources / "compressed", "tester/reviews", *options]
    one = hub.run(*command, "--output", staged)
    assert one.returncode == 0, one.stderr
    assert hub.commits("tester/reviews")[0] in one.stderr
    options = {"license": "apache-2.0", "max_shard_size": "2MB"}
    results = {"pruned": publisher("publish", sources / "pruned", "tester/pruned", **options)}
    options = {"license": "mit", "base_model": "tester/reviews"}
    results["adapter"] = publisher("publish", sources / "adapter", "tester/adapter", **options)
    options = {"models": ["tester/reviews", "tester/pruned"]}
    results["space"] = publisher("publish", sources / "space", "tester/space", **options)
    assert not any("error" in result for result in results.values()), results
    return results | {"staged": staged}


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_repository_holds_what_was_staged_in_one_commit(hub, published):
    assert set(hub.tree("tester/reviews")) == contents_of(published["staged"]).keys() | {".gitattributes"}
    for name, kind in (("reviews", "models"), ("pruned", "models"), ("adapter", "models"), ("space", "spaces")):
        # The other one is the Hub's own, when it makes the repository.
        assert len(hub.commits(f"tester/{name}", kind=kind)) == 2
    assert sum(path.endswith(".safetensors") for path in hub.tree("tester/pruned")) > 1
    for name in ("pruned", "adapter", "space"):
        result = published[name]
        kind = f"{result['repo_type']}s"
        paths = {file["path"] for file in result["files"]}
        assert set(hub.tree(f"tester/{name}", kind=kind)) == paths | {".gitattributes"}
        assert result["commit"] == hub.commits(f"tester/{name}", kind=kind)[0]
        assert result["url"] == f"{hub.url}/{'spaces/' if kind == 'spaces' else ''}tester/{name}"


def test_the_space_and_the_collection(hub, published):
    variables = {"MODEL_ID": {"value": "tester/reviews,tester/pruned"}}
    assert hub.get("/api/spaces/tester/space/variables") == variables
    info = hub.get("/api/spaces/tester/space")
    assert (info["sdk"], info["models"]) == ("gradio", ["tester/reviews", "tester/pruned"])
    code = """
import json
from huggingface_hub import HfApi
collection = HfApi().create_collection("Small models", exists_ok=True)
print(json.dumps([(item.item_type, item.item_id) for item in collection.items]))
"""
    assert hub.python(code) == [["model", "tester/reviews"]]


def test_the_adapter_is_pinned_to_its_base(hub, publisher, published, sources):
    config = json.loads(hub.text("tester/adapter", "adapter_config.json"))
    assert config["base_model_name_or_path"] == "tester/reviews"
    assert config["revision"] == hub.commits("tester/reviews")[0]
    refused = publisher("publish", sources / "adapter", "tester/lost", license="mit", base_model="tester/absent")
    assert (refused["error"], "no repository 'tester/absent'" in refused["message"]) == ("PermissionError", True)


LOAD = """
import json, sys, torch
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer, pipeline
ids, commit = torch.tensor(json.loads(sys.argv[1])), sys.argv[2]
def outputs(auto_class, name, **options):
    model = auto_class.from_pretrained(name, trust_remote_code=True, **options).eval()
    with torch.no_grad():
        return model(ids)[0].tolist()
reviews = [outputs(AutoModelForSequenceClassification, "tester/reviews", revision=r) for r in ("main", "v1", commit)]
pruned = outputs(AutoModelForQuestionAnswering, "tester/pruned")
adapter = outputs(AutoPeftModelForSequenceClassification, "tester/adapter")
words = [AutoTokenizer.from_pretrained(name, trust_remote_code=True)("a good film")["input_ids"]
    for name in ("tester/reviews", "tester/adapter")]
label = pipeline("text-classification", "tester/reviews", trust_remote_code=True)("a good film")[0]["label"]
space = open(snapshot_download("tester/space", repo_type="space") + "/app.py").read()
print(json.dumps({"reviews": reviews, "pruned": pruned, "adapter": adapter, "words": words, "label": label,
    "space": space}))
"""


@pytest.mark.long
def test_strangers_load_everything_online_and_offline(hub, sources, published, minilm_tokenizer):
    ids = torch.tensor(IDS)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(sources / "compressed").eval()
        reviews = model(ids)[0]
        adapter = PeftModel.from_pretrained(model, sources / "adapter").eval()(ids)[0]
        pruned = AutoModelForQuestionAnswering.from_pretrained(sources / "pruned").eval()(ids)[0]
    assert not torch.allclose(reviews, adapter)
    commit = hub.commits("tester/reviews")[0]
    for offline in ("0", "1"):
        loaded = hub.stranger(LOAD, json.dumps(IDS), commit, home="stranger", HF_HUB_OFFLINE=offline)
        for found in loaded["reviews"]:
            torch.testing.assert_close(torch.tensor(found), reviews)
        torch.testing.assert_close(torch.tensor(loaded["pruned"]), pruned)
        torch.testing.assert_close(torch.tensor(loaded["adapter"]), adapter)
        assert loaded["words"] == [minilm_tokenizer("a good film")["input_ids"]] * 2
        assert loaded["label"] in ("pos", "neg")
        assert loaded["space"] == (sources / "space" / "app.py").read_text()


RUN_SNIPPETS = """
import contextlib, io, json, sys
printed = []
for snippet in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(snippet, "README.md", "exec"), {})
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


@pytest.mark.long
def test_the_snippets_of_the_cards_run_as_printed(hub, published):
    strange, installed = [], []
    for name in ("reviews", "pruned", "adapter"):
        snippets = re.findall(r"^```python\n(.*?)^```", hub.text(f"tester/{name}", "README.md"), re.M | re.S)
        assert len(snippets) == 2
        assert all(f'"tester/{name}"' in snippet for snippet in snippets)
        strange += [snippet for snippet in snippets if "compactbert" not in snippet]
        installed += [snippet for snippet in snippets if "compactbert" in snippet]
    assert (len(strange), len(installed)) == (3, 3)
    printed = hub.stranger(RUN_SNIPPETS, json.dumps(strange), home="reader")
    assert re.search("pos|neg", printed[0])
    # Not even whether it may run its code, which waits for an answer.
    assert printed[1] == ""
    assert "tensor" in printed[2]
    printed = hub.python(RUN_SNIPPETS, json.dumps(installed), home="user", HF_TOKEN="")
    assert re.search("pos|neg", printed[0])
    assert re.search("pos|neg", printed[2])


def test_a_checkpoint_of_the_zoo_is_fetched(hub, publisher, published, tmp_path):
    hub.fail({"match": "(HEAD|GET) /tester/reviews/resolve", "do": "answer", "status": 503, "times": 999, "skip": 3})
    refused = publisher("pull", "tester/reviews", tmp_path / "fetched", revision="v1", token="")
    hub.fail()
    assert refused["error"] == "ConnectionError", refused
    assert not (tmp_path / "fetched").exists()
    publisher("pull", "tester/reviews", tmp_path / "fetched", revision="v1", token="")
    fetched = contents_of(tmp_path / "fetched")
    del fetched[".gitattributes"]
    assert fetched == contents_of(published["staged"])
    for name, revision, error in (("absent", None, "ConnectionError"), ("reviews", "v9", "ValueError")):
        result = publisher("pull", f"tester/{name}", tmp_path / "absent", revision=revision)
        assert (result["error"], f"'tester/{name}'" in result["message"]) == (error, True), result
        assert not (tmp_path / "absent").exists()


def test_a_second_push_changes_what_has_changed(hub, publisher, published, tmp_path):
    folder = tmp_path / "staged"
    shutil.copytree(published["staged"], folder)
    first = publisher("push", folder, "tester/twice")
    with hub.calls() as calls:
        again = publisher("push", folder, "tester/twice")
    assert again["commit"] == first["commit"]
    assert not [call for call in calls if "/commit/" in call["call"] or call["call"].startswith("PUT")]
    before = hub.tree("tester/twice")
    (folder / "report.png").unlink()
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore.\n")
    with hub.calls() as calls:
        second = publisher("push", folder, "tester/twice")
    assert hub.commits("tester/twice")[:2] == [second["commit"], first["commit"]]
    assert not [call for call in calls if call["call"].startswith("PUT")]
    after = hub.tree("tester/twice")
    assert {path for path in before if before[path] != after.get(path)} == {"report.png", "README.md"}
    assert set(after) == set(before) - {"report.png"}


def test_a_dry_run_sends_nothing(hub, publisher, published, sources):
    with hub.calls() as calls:
        result = publisher("push", published["staged"], "tester/dry", dry_run=True)
        command = publisher("command", "publish", sources / "space", "tester/dry", "--dry-run")
    assert calls == []
    sizes = {name: len(content) for name, content in contents_of(published["staged"]).items()}
    assert {file["path"]: file["bytes"] for file in result["files"]} == sizes
    assert command["code"] == 0, command
    assert "requirements.txt" in command["output"]


def test_a_pull_request(hub, publisher, published):
    hub.python("from huggingface_hub import HfApi; HfApi().create_repo('other/theirs'); print(0)", HF_TOKEN="hf_other")
    pull = publisher("push", published["staged"], "other/theirs", create_pr=True)
    assert pull["pull_request"] == f"{hub.url}/other/theirs/discussions/1"
    assert set(hub.tree("other/theirs")) == {".gitattributes"}
    assert hub.tree("other/theirs", "refs/pr/1") == hub.tree("tester/reviews")
    nowhere = publisher("push", published["staged"], "tester/nowhere", create_pr=True)
    assert nowhere["error"] == "PermissionError"
    tagged = publisher("push", published["staged"], "other/theirs", create_pr=True, tag="v1")
    assert (tagged["error"], "leave `tag`" in tagged["message"]) == ("ValueError", True)


def test_a_branch_and_a_tag(hub, publisher, published):
    options = {"revision": "half/done", "tag": "v2", "commit_message": "Half of it"}
    result = publisher("push", published["staged"], "tester/branch", **options)
    assert hub.get("/api/models/tester/branch/commits/half%2Fdone")[0]["title"] == "Half of it"
    assert set(hub.tree("tester/branch")) == {".gitattributes"}
    assert hub.tree("tester/branch", "half/done") == hub.tree("tester/reviews")
    assert hub.commits("tester/branch", "v2")[0] == hub.commits("tester/branch", "half/done")[0] == result["commit"]
    taken = publisher("push", published["staged"], "tester/branch", tag="v2")
    assert (taken["error"], "The tag 'v2' is on" in taken["message"]) == ("ValueError", True)
    assert hub.commits("tester/branch", "v2")[0] == result["commit"]


def test_a_private_repository(hub, publisher, published):
    publisher("push", published["staged"], "tester/private", private=True)
    assert hub.get("/api/models/tester/private")["private"]
    assert not hub.get("/api/models/tester/reviews")["private"]
    load = "from huggingface_hub import hf_hub_download; print(len(hf_hub_download('tester/private', 'config.json')))"
    with pytest.raises(AssertionError, match="401"):
        hub.stranger(load, home="spy")
    assert hub.stranger(load, home="owner", HF_TOKEN="hf_tester") > 0


COMMIT, UPLOAD = "POST .*/commit/", "PUT /_lfs/"
AGAIN = ("ConnectionError", "same command again")
# name -> the failure, and what the publisher hears: nothing, or an error and what to do.
FAILURES = {
    "upload-500-twice": ({"match": UPLOAD, "do": "answer", "status": 500, "times": 2}, None),
    "upload-cut": ({"match": UPLOAD, "do": "cut"}, None),
    "upload-429": ({"match": UPLOAD, "do": "answer", "status": 429, "headers": {"Retry-After": "1"}}, None),
    "upload-always-cut": ({"match": UPLOAD, "do": "cut", "times": 12}, AGAIN),
    "preupload-503": ({"match": "POST .*/preupload/", "do": "answer", "status": 503}, None),
    "create-502": ({"match": "POST /api/repos/create", "do": "answer", "status": 502}, AGAIN),
    "commit-500": ({"match": COMMIT, "do": "answer", "status": 500}, AGAIN),
    "commit-429": ({"match": COMMIT, "do": "answer", "status": 429}, ("ConnectionError", "wait")),
    "commit-401": ({"match": COMMIT, "do": "answer", "status": 401}, ("PermissionError", "hf auth login")),
    "commit-cut": ({"match": COMMIT, "do": "cut"}, AGAIN),
    "commit-lost": ({"match": COMMIT, "do": "lose"}, AGAIN),
    "tag-lost": ({"match": "POST .*/tag/", "do": "lose"}, AGAIN),
}


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failure_the_same_call_ends_in_the_same_repository(hub, publisher, published, name):
    failure, expected = FAILURES[name]
    push = ("push", published["staged"], f"tester/{name}")
    hub.fail(failure)
    first = publisher(*push, tag="v1")
    assert hub.failures_left() == 0
    second = publisher(*push, tag="v1")
    if expected is None:
        assert second["commit"] == first["commit"]
    else:
        assert (first["error"], expected[1] in first["message"]) == (expected[0], True), first
    assert hub.tree(f"tester/{name}") == hub.tree("tester/reviews")
    assert hub.commits(f"tester/{name}")[0] == hub.commits(f"tester/{name}", "v1")[0] == second["commit"]
    # The Hub's own, and ours: at no time was half of it there.
    assert len(hub.commits(f"tester/{name}")) == 2


def test_what_someone_else_commits_is_not_overwritten_unseen(hub, publisher, published):
    push = ("push", published["staged"], "tester/shared")
    hub.fail({"match": COMMIT, "do": "call", "call": hub.commit_of_someone_else("tester/shared")})
    refused = publisher(*push)
    assert refused["error"] == "ConnectionError"
    assert "Somebody else" in refused["message"]
    assert set(hub.tree("tester/shared")) == {".gitattributes", "elsewhere.txt"}
    again = publisher(*push)
    assert hub.tree("tester/shared") == hub.tree("tester/reviews")
    assert again["commit"] == hub.commits("tester/shared")[0]


@pytest.mark.parametrize("match", ["POST .*/variables", "POST /api/collections$", "POST /api/collections/.*/items"])
def test_what_comes_after_the_commit_is_made_up_for(hub, publisher, published, sources, match):
    repo_id = f"tester/after-{len(match)}"
    publish = ("publish", sources / "space", repo_id)
    options = {"models": ["tester/reviews"], "collection": repo_id.split("/")[1]}
    hub.fail({"match": match, "do": "answer", "status": 500})
    failed = publisher(*publish, **options)
    assert hub.failures_left() == 0
    assert (failed["error"], AGAIN[1] in failed["message"]) == ("ConnectionError", True), failed
    done = publisher(*publish, **options)
    assert len(hub.commits(repo_id, kind="spaces")) == 2
    assert hub.get(f"/api/spaces/{repo_id}/variables") == {"MODEL_ID": {"value": "tester/reviews"}}
    assert [item["id"] for item in hub.get(f"/api/collections/{done['collection']}")["items"]] == [repo_id]


@pytest.mark.parametrize("token", ["", "hf_wrong", "hf_reader"])
def test_tokens_that_will_not_do(publisher, published, token):
    result = publisher("push", published["staged"], "tester/no", token=token)
    assert result["error"] == "PermissionError"
    assert "hf auth login" in result["message"]
    assert not token or token not in result["message"]


def test_what_is_others_cannot_be_written_to(publisher, published):
    theirs = publisher("push", published["staged"], "other/no")
    assert (theirs["error"], "may not write to 'other/no'" in theirs["message"]) == ("PermissionError", True)


def test_the_command_line_ends_with_a_line(hub, publisher, published, sources):
    command = ("command", "publish", sources / "space", "tester/command")
    command += ("--model", "tester/reviews", "--model", "tester/pruned")
    hub.fail({"match": COMMIT, "do": "cut"})
    cut, refused = publisher(*command), publisher(*command, token="hf_wrong")
    for result in (cut, refused):
        assert result["code"] == 2
        assert result["output"].splitlines()[-1].startswith("Error: The Hub")
        assert "hf_" not in result["output"]
    assert "401" in refused["output"]
    assert publisher(*command)["code"] == 0
    assert hub.tree("tester/command", kind="spaces") == hub.tree("tester/space", kind="spaces")


@pytest.mark.long
def test_it_is_an_extension_of_the_command_line_of_the_hub(hub, published):
    folder = hub.homes / "extended" / ".local" / "share" / "hf" / "extensions" / "hf-compactbert"
    folder.mkdir(parents=True)
    manifest = {"owner": "someone", "repo": "hf-compactbert", "repo_id": "someone/hf-compactbert", "type": "binary"}
    manifest |= {"short_name": "compactbert", "executable_path": str(SCRIPTS / "hf-compactbert")}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"installed_at": "2026-01-01T00:00:00+00:00"}))
    process = hub.run(SCRIPTS / "hf", "compactbert", "publish", "--help", home="extended")
    assert process.returncode == 0, process.stderr
    assert "--dry-run" in process.stdout
