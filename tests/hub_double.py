"""
A test double of the Hugging Face Hub: as much of its HTTP API as publishing and loading need, in memory, on localhost.

    python tests/hub_double.py [PORT]

prints its address. It shows what the real clients do: which requests they send, in which order, what they repeat after
a failure, and what a stranger can load afterwards. It does not prove what the real Hub decides by itself: which
metadata it accepts (here: any YAML), quotas, permissions beyond those of `USERS`, Xet storage, scans, what becomes of a
Space. A request that it does not know is answered with 501, so that none passes in silence. `hub_failures.py` puts
failures in front of it.
"""

import asyncio
import base64
import hashlib
import json
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import uvicorn
import yaml
from hub_failures import Failures
from hub_storage import File, Files, Refusal, Repository, changed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route


# token -> (user, where the user may write)
USERS = {"hf_tester": ("tester", ("tester", "lab")), "hf_reader": ("reader", ()), "hf_other": ("other", ("other",))}
LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".data", ".parquet", ".png")
LFS_SIZE = 10 * 2**20
DATE = "2026-01-01T00:00:00.000Z"


REPOSITORIES: dict[tuple[str, str], Repository] = {}
COLLECTIONS: dict[str, dict[str, Any]] = {}
# repository -> sha256 -> content
UPLOADS: dict[str, dict[str, bytes]] = defaultdict(dict)


class Call:
    """A request with its body, and what it is about."""

    def __init__(self, request: Request, body: bytes):
        self.request, self.body = request, body
        self.names = {name: unquote(value) for name, value in request.path_params.items()}
        self.id = f"{self.names.get('owner')}/{self.names.get('name')}"
        self.base = str(request.base_url)
        self.query = request.query_params

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def user(self, required: bool = True) -> tuple[str, tuple[str, ...]]:
        header = self.request.headers.get("authorization", "")
        if header.removeprefix("Bearer ") not in USERS and (header or required):
            raise Refusal(401, "Invalid username or password.", "InvalidToken")
        return USERS.get(header.removeprefix("Bearer "), ("", ()))

    def may_write(self, owner: str) -> None:
        if owner not in self.user()[1]:
            raise Refusal(403, f"You don't have the rights to write to the namespace {owner}.", "Forbidden")

    def repository(self) -> Repository:
        name, owners = self.user(required=False)
        repository = REPOSITORIES.get((self.names.get("kind", "models")[:-1], self.id))
        if repository is None or (repository.private and self.names["owner"] not in owners):
            raise Refusal(404 if name else 401, "Repository not found", "RepoNotFound")
        return repository

    def own_repository(self) -> Repository:
        repository = self.repository()
        if self.query.get("create_pr"):
            # Whoever sees a repository may propose a change.
            self.user()
        else:
            self.may_write(self.names["owner"])
        return repository

    def files(self) -> Files:
        repository = self.repository()
        return repository.commits[repository.resolve(self.names["revision"])].files


ROUTES: list[Route] = []
REPOSITORY = "/api/{kind}/{owner}/{name}"
PAGES = ("/{owner}/{name}", "/{kind}/{owner}/{name}")


def route(method: str, *paths: str) -> Callable[[Callable], Callable]:
    def register(answer: Callable[[Call], Any]) -> Callable[[Call], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                result = answer(Call(request, await request.body()))
            except Refusal as refusal:
                return JSONResponse(refusal.body, refusal.status, refusal.headers)
            return result if isinstance(result, Response) else JSONResponse(result)

        ROUTES.extend(Route(path, endpoint, methods=[method]) for path in paths)
        return answer

    return register


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Any:
    name, owners = call.user()
    token = {"displayName": "test", "role": "write" if owners else "read", "createdAt": DATE}
    organizations = [{"type": "org", "name": owner, "fullname": owner} for owner in owners if owner != name]
    return {"type": "user", "name": name, "fullname": name, "orgs": organizations, "auth": {"accessToken": token}}


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Any:
    errors = []
    try:
        metadata = metadata_of(call.json["content"])
        if call.json["repoType"] == "space" and "sdk" not in metadata:
            errors.append({"message": '"sdk" is required'})
    except yaml.YAMLError as error:
        errors.append({"message": f"bad yaml: {error}"})
    return {"errors": errors, "warnings": []}


@route("POST", "/api/repos/create")
def create(call: Call) -> Any:
    body = call.json
    owner = body.get("organization") or call.user()[0]
    call.may_write(owner)
    private = bool(body.get("private")) or body.get("visibility") == "private"
    variables = {item["key"]: item["value"] for item in body.get("variables", [])}
    repository = Repository(body.get("type") or "model", f"{owner}/{body['name']}", private, body.get("sdk"), variables)
    url = f"{call.base}{repository.path}"
    if (repository.kind, repository.id) in REPOSITORIES:
        raise Refusal(409, f"You already created this repo: {repository.id}", url=url)
    if repository.kind == "space" and not repository.sdk:
        raise Refusal(400, "A Space needs its sdk.")
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    files = {".gitattributes": File(attributes.encode())}
    repository.refs["refs/heads/main"] = repository.commit(files, "initial commit")
    REPOSITORIES[repository.kind, repository.id] = repository
    return {"url": url, "name": repository.id, "id": repository.id}


@route("GET", REPOSITORY + "/variables")
@route("POST", REPOSITORY + "/variables")
def variables(call: Call) -> Any:
    repository, body = call.own_repository(), call.json
    repository.variables |= {body["key"]: body["value"]} if body else {}
    return {key: {"value": value} for key, value in repository.variables.items()}


@route("POST", "/api/collections")
def create_collection(call: Call) -> Any:
    title, owner = call.json["title"], call.json["namespace"]
    call.may_write(owner)
    slug = f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower())}-{hashlib.sha1(title.encode()).hexdigest()[:24]}"
    if slug in COLLECTIONS:
        raise Refusal(409, "This collection exists.", slug=slug)
    collection = {"slug": slug, "title": title, "owner": owner, "items": [], "lastUpdated": DATE, "position": 0}
    COLLECTIONS[slug] = collection | {"private": call.json["private"], "theme": "blue", "upvotes": 0}
    return COLLECTIONS[slug]


@route("GET", "/api/collections/{owner}/{name}")
def collection(call: Call) -> Any:
    if call.id not in COLLECTIONS:
        raise Refusal(404, f"No collection {call.id}")
    return COLLECTIONS[call.id]


@route("POST", "/api/collections/{owner}/{name}/items")
def add_to_collection(call: Call) -> Any:
    call.may_write(call.names["owner"])
    items, item = collection(call)["items"], call.json["item"]
    if any((other["type"], other["id"]) == (item["type"], item["id"]) for other in items):
        raise Refusal(409, "This item is in the collection.")
    if (item["type"], item["id"]) not in REPOSITORIES:
        raise Refusal(404, f"No {item['type']} {item['id']}")
    items.append(item | {"_id": item["id"], "position": len(items)})
    return COLLECTIONS[call.id]


@route("GET", REPOSITORY, REPOSITORY + "/revision/{revision}")
def info(call: Call) -> Any:
    repository = call.repository()
    call.names.setdefault("revision", "main")
    files = call.files()
    metadata = metadata_of(files["README.md"].content.decode()) if "README.md" in files else {}
    config = json.loads(files["config.json"].content) if "config.json" in files else {}
    answer = {"_id": call.id, "id": call.id, "author": call.names["owner"], "private": repository.private}
    answer |= {"sha": repository.resolve(call.names["revision"]), "lastModified": DATE, "createdAt": DATE}
    answer |= {"gated": False, "downloads": 0, "likes": 0, "cardData": metadata}
    answer |= {"tags": [*metadata.get("tags", []), *(["custom_code"] if "auto_map" in config else [])]}
    answer |= {"siblings": [file.entry(path) for path, file in sorted(files.items())]}
    answer |= {key: metadata.get(key) for key in ("pipeline_tag", "library_name")}
    if repository.kind == "space":
        answer |= {"sdk": repository.sdk, "models": metadata.get("models", []), "runtime": {"stage": "NO_APP_FILE"}}
    return answer


@route("GET", REPOSITORY + "/tree/{revision}", REPOSITORY + "/tree/{revision}/{path:path}")
def tree(call: Call) -> Any:
    folder = call.names.get("path", "").strip("/")
    prefix, recursive = f"{folder}/" if folder else "", call.query.get("recursive", "").lower() == "true"
    entries = {}
    for path, file in sorted(call.files().items()):
        if path.startswith(prefix):
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = prefix + "/".join(parts[:depth])
                entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
            if recursive or len(parts) == 1:
                entries[path] = file.entry(path)
    if folder and not entries:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    return list(entries.values())


@route("POST", REPOSITORY + "/paths-info/{revision}")
def paths_info(call: Call) -> Any:
    is_json = "json" in call.request.headers.get("content-type", "")
    paths, files = call.json["paths"] if is_json else parse_qs(call.body.decode())["paths"], call.files()
    return [files[path].entry(path) for path in paths if path in files]


@route("GET", REPOSITORY + "/commits/{revision}")
def history(call: Call) -> Any:
    repository, answer = call.repository(), []
    sha: str | None = repository.resolve(call.names["revision"])
    while sha:
        commit = repository.commits[sha]
        answer.append({"id": sha, "title": commit.title, "message": "", "authors": [], "date": DATE})
        sha = commit.parent
    return answer


@route("GET", REPOSITORY + "/refs")
def refs(call: Call) -> Any:
    repository = call.repository()
    prefixes = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
    return {"converts": []} | {
        key: [
            {"name": name, "ref": f"{prefix}{name}", "targetCommit": sha}
            for name, sha in repository.named(prefix).items()
        ]
        for key, prefix in prefixes.items()
    }


@route("GET", *(f"{page}/resolve/{{revision}}/{{path:path}}" for page in PAGES))
def download(call: Call) -> Any:
    headers = {"X-Repo-Commit": call.repository().resolve(call.names["revision"])}
    file = call.files().get(call.names["path"])
    if file is None:
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return JSONResponse({"error": "Entry not found"}, 404, error | headers)
    headers["ETag"] = f'"{file.oid}"'
    if not file.lfs:
        return part_of(file.content, call, headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
    # To another name of this machine: clients follow a redirect to the same host, and then miss these headers.
    elsewhere = call.base.replace("127.0.0.1", "localhost")
    return RedirectResponse(f"{elsewhere}{lfs_path(call.repository(), file.sha256)}", 302, headers)


def lfs_path(repository: Repository, oid: str) -> str:
    return f"_lfs/{quote(repository.path, safe='')}/{oid}"


@route("GET", "/_lfs/{repository}/{oid}")
def lfs_download(call: Call) -> Any:
    content = UPLOADS[call.names["repository"]][call.names["oid"]]
    return part_of(content, call, {"ETag": f'"{call.names["oid"]}"'})


@route("POST", REPOSITORY + "/branch/{branch}")
def create_branch(call: Call) -> Any:
    return add_ref(call, f"refs/heads/{call.names['branch']}", call.json.get("startingPoint", "main"))


@route("POST", REPOSITORY + "/tag/{revision}")
def create_tag(call: Call) -> Any:
    return add_ref(call, f"refs/tags/{call.json['tag']}", call.names["revision"])


def add_ref(call: Call, ref: str, revision: str) -> Any:
    repository = call.own_repository()
    if ref in repository.refs:
        raise Refusal(409, "Reference already exists")
    repository.refs[ref] = repository.resolve(revision)
    return {}


@route("DELETE", REPOSITORY + "/tag/{tag}")
def delete_tag(call: Call) -> Any:
    if call.own_repository().refs.pop(f"refs/tags/{call.names['tag']}", None) is None:
        raise Refusal(404, "No such tag", "RevisionNotFound")
    return {}


@route("POST", REPOSITORY + "/preupload/{revision}")
def preupload(call: Call) -> Any:
    call.own_repository()
    files, answer = call.files(), []
    for sent in call.json["files"]:
        binary = b"\0" in base64.b64decode(sent.get("sample", ""))
        lfs = binary or sent["size"] >= LFS_SIZE or sent["path"].endswith(LFS_SUFFIXES)
        file = files.get(sent["path"])
        oid = file and (file.sha256 if file.lfs else file.oid)
        mode = "lfs" if lfs else "regular"
        answer.append({"path": sent["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": answer}


@route("POST", *(f"{page}.git/info/lfs/objects/batch" for page in PAGES))
def lfs_batch(call: Call) -> Any:
    repository, objects = call.repository(), []
    call.user()
    for item in call.json["objects"]:
        upload = {"href": f"{call.base}{lfs_path(repository, item['oid'])}", "header": {}}
        actions = {"upload": upload, "verify": {"href": f"{upload['href']}/verify", "header": {}}}
        known = item["oid"] in UPLOADS[repository.path]
        objects.append(item | ({} if known else {"authenticated": True, "actions": actions}))
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")


@route("PUT", "/_lfs/{repository}/{oid}")
def lfs_upload(call: Call) -> Any:
    if hashlib.sha256(call.body).hexdigest() != call.names["oid"]:
        raise Refusal(400, "The checksum differs.")
    UPLOADS[call.names["repository"]][call.names["oid"]] = call.body
    return Response()


@route("POST", "/_lfs/{repository}/{oid}/verify")
def lfs_verify(call: Call) -> Any:
    content = UPLOADS[call.names["repository"]].get(call.names["oid"], b"")
    return JSONResponse({}, 200 if len(content) == call.json["size"] else 404)


@route("POST", REPOSITORY + "/commit/{revision}")
def commit(call: Call) -> Any:
    repository, revision = call.own_repository(), call.names["revision"]
    header, *lines = [json.loads(line)["value"] | json.loads(line) for line in call.body.splitlines()]
    parent, number = repository.resolve(revision), len(repository.named("refs/pr/")) + 1
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if call.query.get("create_pr"):
        ref, parent = f"refs/pr/{number}", header.get("parentCommit", parent)
    elif ref not in repository.refs:
        raise Refusal(400, f"{revision} is not a branch.")
    elif header.get("parentCommit", parent) != parent:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = changed(repository.commits[parent].files, lines, UPLOADS[repository.path])
    repository.refs[ref] = new = repository.commit(files, header["summary"], parent)
    url = f"{call.base}{repository.path}"
    answer = {"success": True, "commitOid": new, "commitUrl": f"{url}/commit/{new}", "hookOutput": ""}
    return answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if call.query.get("create_pr") else {})


def metadata_of(card: str) -> dict[str, Any]:
    return (yaml.safe_load(card.split("---")[1]) or {}) if card.startswith("---") else {}


def part_of(content: bytes, call: Call, headers: dict[str, str]) -> Response:
    """The content, or the range of it that was asked for."""
    status, size = 200, len(content)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.request.headers.get("range", ""))
    if wanted:
        first, last = int(wanted[1]), int(wanted[2] or size - 1)
        content, status = content[first : last + 1], 206
        headers = headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
    return Response(content, status, headers | {"Accept-Ranges": "bytes"}, media_type="application/octet-stream")


@route("GET", "/{path:path}")
@route("POST", "/{path:path}")
@route("PUT", "/{path:path}")
@route("DELETE", "/{path:path}")
def unknown(call: Call) -> Any:
    raise Refusal(501, f"The double does not know {call.request.method} {call.request.url.path}.")


def serve(port: int = 0) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    app = Failures(Starlette(routes=ROUTES))
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).serve(sockets=[listener]))


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
