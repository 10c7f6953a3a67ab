"""The Hub double as a process, and Python processes that talk to it as they would to the Hub."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compactbert.hub.clean_process import BLOCK_PACKAGES


TOKEN = "hf_tester"


class HubServer:
    def __init__(self, url: str, homes: Path):
        self.url, self.homes = url, homes

    def environment(self, home: str, **variables: str) -> dict[str, str]:
        """The environment of a process whose `HF_HOME` is its own; processes with the same `home` share a cache."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        # Without Xet, which the double does not speak: files go up as the double's own LFS objects.
        environment |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.homes / home), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "HOME": str(self.homes / home)}
        environment |= {"TRANSFORMERS_VERBOSITY": "error", "NO_COLOR": "1", "COLUMNS": "200"}
        return environment | variables

    def run(self, *command: str | Path, home: str = "mine", **variables: str) -> subprocess.CompletedProcess[str]:
        """A command that talks to the double; variables that are empty are set so."""
        (self.homes / home).mkdir(exist_ok=True)
        arguments, environment = [str(part) for part in command], self.environment(home, **variables)
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 300}
        process = subprocess.run(arguments, env=environment, **options)
        for token in filter(None, {TOKEN, environment["HF_TOKEN"]}):
            assert token not in process.stdout + process.stderr, "a token was printed"
        return process

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process that talks to the double, and to this one in lines."""
        (self.homes / "mine").mkdir(exist_ok=True)
        options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(part) for part in command], env=self.environment("mine"), **options)

    def python(self, code: str, *arguments: str | Path, home: str = "mine", **variables: str) -> Any:
        """What code prints in its last line, as JSON, in a process in which our packages can be imported."""
        return _last_line(self.run(sys.executable, "-P", "-c", code, *arguments, home=home, **variables))

    def stranger(self, code: str, *arguments: str | Path, home: str, **variables: str) -> Any:
        """The same in a process that lacks our packages, and our token."""
        variables = {"HF_TOKEN": "", **variables}
        code = BLOCK_PACKAGES + code
        return _last_line(self.run(sys.executable, "-P", "-c", code, *arguments, home=home, **variables))

    def fail(self, *failures: dict[str, Any]) -> None:
        """Failures of the requests to come, see `hub_failures.py`; none to have no more of them."""
        body = json.dumps(failures).encode()
        request = urllib.request.Request(f"{self.url}/_double/failures", body, method="POST")
        urllib.request.urlopen(request).close()

    def commit_of_someone_else(self, repo_id: str) -> dict[str, Any]:
        """The `call` of a failure: a file is added by a commit that does not come from the client under test."""
        content = base64.b64encode(b"not by the client").decode()
        lines = [{"key": "header", "value": {"summary": "Someone else's"}}]
        lines.append({"key": "file", "value": {"path": "elsewhere.txt", "content": content, "encoding": "base64"}})
        path, headers = f"/api/models/{repo_id}/commit/main", {"authorization": f"Bearer {TOKEN}"}
        return {"method": "POST", "path": path, "headers": headers, "body": "\n".join(map(json.dumps, lines))}

    def failures_left(self) -> int:
        """How many of the requests that were to fail have not come."""
        return sum(failure.get("times", 1) for failure in self.get("/_double/failures"))

    def get(self, path: str) -> Any:
        """The JSON at a path of the double, as its owner sees it."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def text(self, repo_id: str, path: str) -> str:
        """A text file of a model repository."""
        with urllib.request.urlopen(f"{self.url}/{repo_id}/resolve/main/{path}") as answer:
            return answer.read().decode()

    def tree(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, str]:
        """The files of a repository: path -> git's name of the content."""
        entries = self.get(f"/api/{kind}/{repo_id}/tree/{revision.replace('/', '%2F')}?recursive=true")
        return {entry["path"]: entry["oid"] for entry in entries if entry["type"] == "file"}

    def commits(self, repo_id: str, revision: str = "main", kind: str = "models") -> list[str]:
        """The commits of a revision, the last one first."""
        return [commit["id"] for commit in self.get(f"/api/{kind}/{repo_id}/commits/{revision.replace('/', '%2F')}")]

    @contextmanager
    def calls(self):
        """The requests made within: a list of `{"call": "GET /api/...", "query", "status"}`, filled at the end."""
        before, made = len(self.get("/_double/log")), []
        yield made
        made += self.get("/_double/log")[before:]


@contextmanager
def hub_server(homes: Path):
    """The double, running."""
    command = [sys.executable, str(Path(__file__).with_name("hub_double.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield HubServer(process.stdout.readline().strip(), homes)
        finally:
            process.terminate()


def _last_line(process: subprocess.CompletedProcess[str]) -> Any:
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])
