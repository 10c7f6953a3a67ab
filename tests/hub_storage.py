"""What the Hub double keeps: repositories, their commits and what names them, as in git."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


class Refusal(Exception):
    """An answer with which a request ends."""

    def __init__(self, status: int, message: str, code: str = "Refused", **extra: str):
        self.status, self.body = status, {"error": message, **extra}
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        """git's name of what git keeps: the content, or a pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        data = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        lfs = {"lfs": {"oid": self.sha256, "sha256": self.sha256, "size": size, "pointerSize": 130}} if self.lfs else {}
        names = {"path": path, "rfilename": path, "oid": self.oid, "blobId": self.oid}
        return {"type": "file", "size": size} | names | lfs


Files = dict[str, File]


@dataclass(frozen=True)
class Commit:
    files: Files
    title: str
    parent: str | None


@dataclass
class Repository:
    kind: str
    id: str
    private: bool
    sdk: str | None
    variables: dict[str, str]
    commits: dict[str, Commit] = field(default_factory=dict)
    # "refs/heads/main", "refs/tags/v1", "refs/pr/1", ... -> the commit it is at.
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def resolve(self, revision: str) -> str:
        revision = "main" if revision == "HEAD" else revision
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return revision

    def named(self, prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): sha for name, sha in self.refs.items() if name.startswith(prefix)}

    def commit(self, files: Files, title: str, parent: str | None = None) -> str:
        listing = sorted((path, file.oid) for path, file in files.items())
        sha = hashlib.sha1(json.dumps([len(self.commits), parent, title, listing]).encode()).hexdigest()
        self.commits[sha] = Commit(files, title, parent)
        return sha


def changed(files: Files, lines: list[dict[str, Any]], uploads: dict[str, bytes]) -> Files:
    """The files after a commit."""
    files = dict(files)
    for line in lines:
        path = line["path"]
        if line["key"] == "file":
            files[path] = File(base64.b64decode(line["content"]))
        elif line["key"] == "lfsFile":
            if line["oid"] not in uploads:
                raise Refusal(400, f"{path} was never uploaded.")
            files[path] = File(uploads[line["oid"]], lfs=True)
        elif line["key"] != "deletedFile":
            raise Refusal(501, f"The double does not know {line['key']!r} in a commit.")
        elif files.pop(path, None) is None:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
    return files
