"""The Hub double itself, with the real clients: only what it does can be trusted in `test_publishing.py`."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from families import build


pytest.importorskip("uvicorn", reason="the Hub double needs starlette and uvicorn, of the extra `dev`")

API = """
import json, sys
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
api = HfApi()
def status(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except HfHubHTTPError as error:
        return error.response.status_code
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("double") / "model"
    build("smbert-uneven", "ForSequenceClassification", vocab_size=3000).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return folder


def test_uploads_of_a_folder(hub, folder):
    code = """
    api.create_repo("tester/first")
    first = api.upload_folder(repo_id="tester/first", folder_path=sys.argv[1]).oid
    api.create_tag("tester/first", tag="v1")
    again = api.upload_folder(repo_id="tester/first", folder_path=sys.argv[1]).oid
    patterns = {"delete_patterns": ["*.md"], "allow_patterns": ["config.json"]}
    second = api.upload_folder(repo_id="tester/first", folder_path=sys.argv[1], **patterns).oid
    print(json.dumps([first, again, second]))
    """
    first, again, second = hub.python(API + dedent(code), folder)
    assert again == first
    assert hub.commits("tester/first")[:2] == [second, first]
    files = {path.name for path in folder.iterdir()}
    assert set(hub.tree("tester/first", "v1")) == files | {".gitattributes"}
    assert set(hub.tree("tester/first")) == files - {"README.md"} | {".gitattributes"}


def test_pull_requests_branches_and_tags(hub):
    code = """
    api.create_repo("tester/proposals")
    upload = dict(repo_id="tester/proposals", path_in_repo="a/b.txt", create_pr=True)
    pulls = [api.upload_file(path_or_fileobj=text, **upload) for text in (b"one", b"two")]
    api.create_branch("tester/proposals", branch="other/name")
    upload = dict(repo_id="tester/proposals", path_in_repo="c.txt")
    api.upload_file(path_or_fileobj=b"three", revision="other/name", **upload)
    api.create_tag("tester/proposals", tag="v1", revision="other/name")
    occupied = status(api.create_tag, "tester/proposals", tag="v1")
    api.delete_tag("tester/proposals", tag="v1")
    api.create_tag("tester/proposals", tag="v1")
    refs = api.list_repo_refs("tester/proposals", include_pull_requests=True)
    names = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)]
    print(json.dumps([[pull.pr_revision for pull in pulls], occupied, names]))
    """
    answer = hub.python(API + dedent(code))
    assert answer == [["refs/pr/1", "refs/pr/2"], 409, [["main", "other/name"], ["v1"], ["1", "2"]]]
    assert set(hub.tree("tester/proposals")) == {".gitattributes"}
    assert set(hub.tree("tester/proposals", "refs/pr/2")) == {".gitattributes", "a/b.txt"}
    assert set(hub.tree("tester/proposals", "other/name")) == {".gitattributes", "c.txt"}


def test_spaces_collections_and_who_may_what(hub):
    code = """
    api.create_repo("tester/space", repo_type="space", space_sdk="gradio", space_variables=[{"key": "A", "value": "1"}])
    variables = api.add_space_variable("tester/space", "MODEL_ID", "tester/model")
    collection = api.create_collection("Small models", exists_ok=True)
    again = api.create_collection("Small models", exists_ok=True)
    api.add_collection_item(again.slug, "tester/space", "space")
    api.add_collection_item(again.slug, "tester/space", "space", exists_ok=True)
    api.create_repo("tester/secret", private=True)
    items = [item.item_id for item in api.get_collection(collection.slug).items]
    absent = status(api.add_collection_item, again.slug, "tester/nothing", "model")
    elsewhere = status(api.create_repo, "other/mine")
    reader, nobody, wrong = HfApi(token="hf_reader"), HfApi(token=False), HfApi(token="hf_wrong")
    refused = [status(reader.create_repo, "reader/model"), status(nobody.model_info, "tester/secret")]
    refused += [status(wrong.whoami), status(nobody.create_repo, "tester/x"), status(api.list_models().__next__)]
    print(json.dumps([{k: v.value for k, v in variables.items()}, again.slug == collection.slug, items, absent,
        elsewhere, refused]))
    """
    assert hub.python(API + dedent(code)) == [
        {"A": "1", "MODEL_ID": "tester/model"},
        True,
        ["tester/space"],
        404,
        403,
        [403, 401, 401, 401, 501],
    ]


# name -> the failure, what the client makes of it, how often it tries, the commits afterwards
FAILURES = {
    "upload-503": ({"match": "PUT /_lfs/", "do": "answer", "status": 503}, "done", 2, 2),
    "upload-cut": ({"match": "PUT /_lfs/", "do": "cut"}, "done", 2, 2),
    "commit-500": ({"match": "POST .*/commit/", "do": "answer", "status": 500}, "HfHubHTTPError", 1, 1),
    "commit-cut": ({"match": "POST .*/commit/", "do": "cut"}, "RemoteProtocolError", 1, 1),
    "commit-lost": ({"match": "POST .*/commit/", "do": "lose"}, "RemoteProtocolError", 1, 2),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_reach_the_client(hub, tmp_path, name):
    code = """
    api.create_repo(sys.argv[1])
    try:
        api.upload_file(repo_id=sys.argv[1], path_or_fileobj=sys.argv[2], path_in_repo="model.safetensors")
    except Exception as error:
        print(json.dumps(type(error).__name__))
    else:
        print(json.dumps("done"))
    """
    failure, outcome, tries, commits = FAILURES[name]
    # More than the buffers between the two hold, and not uploaded before.
    (tmp_path / "weights").write_bytes(name.encode() * 500_000)
    hub.fail(failure)
    with hub.calls() as calls:
        assert hub.python(API + dedent(code), f"tester/{name}", tmp_path / "weights") == outcome
    assert sum(bool(re.match(failure["match"], call["call"])) for call in calls) == tries
    assert len(hub.commits(f"tester/{name}")) == commits


def test_someone_else_can_be_quicker(hub):
    code = """
    api.create_repo("tester/race")
    parent = api.model_info("tester/race").sha
    upload = dict(repo_id="tester/race", path_or_fileobj=b"x", path_in_repo="x.txt", parent_commit=parent)
    print(json.dumps(status(api.upload_file, **upload)))
    """
    hub.fail({"match": "POST .*/commit/", "do": "call", "call": hub.commit_of_someone_else("tester/race")})
    assert hub.python(API + dedent(code)) == 412
    assert set(hub.tree("tester/race")) == {".gitattributes", "elsewhere.txt"}


JAVASCRIPT = """
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
const [folder, weights] = process.argv.slice(2);
const { createRepo, uploadFiles, listFiles, downloadFile, modelInfo } = createRequire(`${folder}/`)("@huggingface/hub");
const options = { hubUrl: process.env.HF_ENDPOINT, accessToken: process.env.HF_TOKEN };
await createRepo({ ...options, repo: "tester/javascript" });
const files = [
  { path: "config.json", content: new Blob(['{"auto_map": {}}']) },
  { path: "model.safetensors", content: new Blob([readFileSync(weights)]) },
];
await uploadFiles({ ...options, repo: "tester/javascript", files, useXet: false });
const result = { bytes: {}, files: [] };
for (const repo of ["tester/javascript", "tester/python"]) {
  for await (const file of listFiles({ ...options, repo, recursive: true })) result.files.push(`${repo}/${file.path}`);
  const blob = await downloadFile({ ...options, repo, path: "model.safetensors" });
  result.bytes[repo] = (await blob.arrayBuffer()).byteLength;
}
result.info = await modelInfo({ ...options, name: "tester/javascript", additionalFields: ["tags", "sha"] });
console.log(JSON.stringify(result));
"""


def test_the_javascript_client_reads_and_writes(hub, folder, tmp_path):
    packages = os.environ.get("COMPACTBERT_NPM")
    if not (packages and shutil.which("node")):
        pytest.skip("COMPACTBERT_NPM does not name a folder where `npm install @huggingface/hub` was run")
    code = """
    api.create_repo("tester/python")
    print(json.dumps(api.upload_folder(repo_id="tester/python", folder_path=sys.argv[1]).oid))
    """
    hub.python(API + dedent(code), folder)
    weights, script = folder / "model.safetensors", tmp_path / "client.mjs"
    script.write_text(JAVASCRIPT)
    process = hub.run("node", script, packages, weights)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    names = ["javascript/" + name for name in (".gitattributes", "config.json", "model.safetensors")]
    assert [name for name in result["files"] if "javascript" in name] == [f"tester/{name}" for name in names]
    assert {Path(name).name for name in result["files"] if "python" in name} >= {path.name for path in folder.iterdir()}
    assert set(result["bytes"].values()) == {weights.stat().st_size}
    assert (result["info"]["name"], result["info"]["tags"]) == ("tester/javascript", ["custom_code"])
    assert hub.tree("tester/javascript")["model.safetensors"] == hub.tree("tester/python")["model.safetensors"]


def test_the_command_line_of_the_hub(hub, folder, tmp_path):
    hf = Path(sys.executable).with_name("hf")
    upload = hub.run(hf, "upload", "tester/by-hand", folder, ".", "--commit-message", "By hand")
    assert upload.returncode == 0, upload.stderr
    download = hub.run(hf, "download", "tester/by-hand", "--local-dir", tmp_path / "copy", home="elsewhere")
    assert download.returncode == 0, download.stderr
    for path in folder.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()
