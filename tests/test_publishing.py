"""Publishing, with the real clients and a Hub double; what the double does not prove is said in `hub_double.py`."""

import importlib.util
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
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import compactbert


if not (importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")):
    pytest.skip("starlette and uvicorn, of the extra `dev`, are not installed", allow_module_level=True)

# What the first tests publish, the others load.
pytestmark = pytest.mark.xdist_group("publishing")

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
    """What the toolkit leaves: a compressed classifier, an adapter of it, a pruned language model; and a Space."""
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
    build("mobilebert_md-stages", "ForMaskedLM", vocab_size=len(minilm_tokenizer)).save_pretrained(folder / "pruned")
    minilm_tokenizer.save_pretrained(folder / "pruned")
    (folder / "space").mkdir()
    (folder / "space" / "README.md").write_text(SPACE)
    (folder / "space" / "app.py").write_text("import os\n\nMODEL_ID = os.environ['MODEL_ID']\n")
    (folder / "space" / "requirements.txt").write_text("transformers>=5.20\n")
    return folder


PUBLISH_THE_REST = """
import json, sys
from compactbert.hub import publish
sources = sys.argv[1]
pruned = publish(f"{sources}/pruned", "tester/pruned", license="apache-2.0", max_shard_size="2MB")
adapter = publish(f"{sources}/adapter", "tester/adapter", license="mit", base_model="tester/reviews")
space = publish(f"{sources}/space", "tester/space", models=["tester/reviews"])
print(json.dumps({"pruned": pruned, "adapter": adapter, "space": space}))
"""


@pytest.fixture(scope="module")
def published(hub, sources, tmp_path_factory):
    """Everything, published: name -> what `publish` returned; and `staged`, the compressed model as it was staged."""
    staged = tmp_path_factory.mktemp("published") / "staged"
    options = ["--license", "mit", "--language", "en", "--tag", "v1", "--collection", "Small models"]
    command = [SCRIPTS / "compactbert", "publish", sources / "compressed", "tester/reviews", *options]
    one = hub.run(*command, "--output", staged)
    assert one.returncode == 0, one.stderr
    assert "tester/reviews" in one.stdout + one.stderr
    return hub.python(PUBLISH_THE_REST, sources) | {"staged": staged}


def test_a_repository_holds_what_was_staged_in_one_commit(hub, published):
    staged = published["staged"]
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert set(hub.tree("tester/reviews")) == files | {".gitattributes"}
    for name, kind in (("reviews", "models"), ("pruned", "models"), ("adapter", "models"), ("space", "spaces")):
        # The other one is the Hub's own, when it makes the repository.
        assert len(hub.commits(f"tester/{name}", kind=kind)) == 2
    assert sum(path.endswith(".safetensors") for path in hub.tree("tester/pruned")) > 1
    for name in ("pruned", "adapter", "space"):
        result = published[name]
        kind = f"{result['repo_type']}s"
        assert {file["path"] for file in result["files"]} | {".gitattributes"} == set(
            hub.tree(f"tester/{name}", kind=kind)
        )
        assert result["commit"] == hub.commits(f"tester/{name}", kind=kind)[0]
        assert result["url"] == f"{hub.url}/{'spaces/' if kind == 'spaces' else ''}tester/{name}"


def test_the_space_and_the_collection(hub, published):
    assert hub.get("/api/spaces/tester/space/variables") == {"MODEL_ID": {"value": "tester/reviews"}}
    info = hub.get("/api/spaces/tester/space")
    assert (info["sdk"], info["models"]) == ("gradio", ["tester/reviews"])
    code = """
import json
from huggingface_hub import HfApi
collection = HfApi().create_collection("Small models", exists_ok=True)
print(json.dumps([(item.item_type, item.item_id) for item in collection.items]))
"""
    assert hub.python(code) == [["model", "tester/reviews"]]


def test_the_adapter_is_pinned_to_its_base(hub, published):
    config = json.loads(hub.text("tester/adapter", "adapter_config.json"))
    assert config["base_model_name_or_path"] == "tester/reviews"
    assert config["revision"] == hub.commits("tester/reviews")[0]


LOAD = """
import json, sys, torch
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
ids, commit = torch.tensor(json.loads(sys.argv[1])), sys.argv[2]
def outputs(auto_class, name, **options):
    model = auto_class.from_pretrained(name, trust_remote_code=True, **options).eval()
    with torch.no_grad():
        return model(ids)[0].tolist()
reviews = [outputs(AutoModelForSequenceClassification, "tester/reviews", revision=r) for r in ("main", "v1", commit)]
pruned = outputs(AutoModelForMaskedLM, "tester/pruned")
adapter = outputs(AutoPeftModelForSequenceClassification, "tester/adapter")
words = [AutoTokenizer.from_pretrained(f"tester/{name}")("a good film")["input_ids"] for name in ("reviews", "adapter")]
label = pipeline("text-classification", "tester/reviews", trust_remote_code=True)("a good film")[0]["label"]
space = open(snapshot_download("tester/space", repo_type="space") + "/app.py").read()
print(json.dumps({"reviews": reviews, "pruned": pruned, "adapter": adapter, "words": words, "label": label,
    "space": space}))
"""


def test_strangers_load_everything_online_and_offline(hub, sources, published, minilm_tokenizer):
    ids = torch.tensor(IDS)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(sources / "compressed").eval()
        reviews = model(ids)[0]
        adapter = PeftModel.from_pretrained(model, sources / "adapter").eval()(ids)[0]
        pruned = AutoModelForMaskedLM.from_pretrained(sources / "pruned").eval()(ids)[0]
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
    assert "score" in printed[1]
    assert "tensor" in printed[2]
    printed = hub.python(RUN_SNIPPETS, json.dumps(installed), home="user", HF_TOKEN="")
    assert re.search("pos|neg", printed[0])
    assert re.search("pos|neg", printed[2])


# Pushes what is staged, as the scenarios of one process say: each a repository, options of `push`, and failures.
PUSH = """
import json, sys, urllib.request
from compactbert.hub import push
def fail(failures):
    urllib.request.urlopen(sys.argv[1] + "/_double/failures", json.dumps(failures).encode()).close()
results = []
for scenario in json.loads(sys.argv[2]):
    fail(scenario.get("failures", []))
    try:
        results.append(push(scenario["folder"], scenario["repo_id"], **scenario.get("options", {})))
    except (ValueError, PermissionError, ConnectionError) as error:
        results.append({"error": type(error).__name__, "message": str(error)})
fail([])
print(json.dumps(results))
"""


def push_all(hub, *scenarios, **variables):
    scenarios = [scenario | {"folder": str(scenario["folder"])} for scenario in scenarios]
    return hub.python(PUSH, hub.url, json.dumps(scenarios), **variables)


def test_a_second_push_changes_what_has_changed(hub, published, tmp_path):
    folder = tmp_path / "staged"
    shutil.copytree(published["staged"], folder)
    (first,) = push_all(hub, {"folder": folder, "repo_id": "tester/twice"})
    with hub.calls() as calls:
        (again,) = push_all(hub, {"folder": folder, "repo_id": "tester/twice"})
    assert again["commit"] == first["commit"]
    assert not [call for call in calls if "/commit/" in call["call"] or call["call"].startswith("PUT")]
    before = hub.tree("tester/twice")
    (folder / "report.png").unlink()
    (folder / "README.md").write_text(
        (folder / "README.md").read_text().replace("report.png", "nothing.png") + "\nMore.\n"
    )
    with hub.calls() as calls:
        (second,) = push_all(hub, {"folder": folder, "repo_id": "tester/twice"})
    assert hub.commits("tester/twice")[:2] == [second["commit"], first["commit"]]
    assert not [call for call in calls if call["call"].startswith("PUT")]
    after = hub.tree("tester/twice")
    assert {path for path in before if before[path] != after.get(path)} == {"report.png", "README.md"}
    assert set(after) == set(before) - {"report.png"}


def test_a_dry_run_sends_nothing(hub, published):
    staged = published["staged"]
    with hub.calls() as calls:
        (result,) = push_all(hub, {"folder": staged, "repo_id": "tester/dry", "options": {"dry_run": True}})
    assert calls == []
    files = {path.relative_to(staged).as_posix(): path.stat().st_size for path in staged.rglob("*") if path.is_file()}
    assert {file["path"]: file["bytes"] for file in result["files"]} == files


def test_pull_requests_branches_tags_and_private_repositories(hub, published):
    staged = published["staged"]
    hub.python("from huggingface_hub import HfApi; HfApi().create_repo('other/theirs'); print(0)", HF_TOKEN="hf_other")
    results = push_all(
        hub,
        {"folder": staged, "repo_id": "other/theirs", "options": {"create_pr": True}},
        {"folder": staged, "repo_id": "tester/branch", "options": {"revision": "half/done", "tag": "v2"}},
        {"folder": staged, "repo_id": "tester/private", "options": {"private": True}},
        {"folder": staged, "repo_id": "tester/nowhere", "options": {"create_pr": True}},
        {"folder": staged, "repo_id": "other/mine"},
    )
    pull, branch, _, nowhere, theirs = results
    assert pull["pull_request"] == f"{hub.url}/other/theirs/discussions/1"
    expected = set(hub.tree("tester/reviews"))
    assert set(hub.tree("other/theirs")) == {".gitattributes"}
    assert set(hub.tree("other/theirs", "refs/pr/1")) == expected
    assert set(hub.tree("tester/branch")) == {".gitattributes"}
    assert set(hub.tree("tester/branch", "half/done")) == expected
    assert hub.commits("tester/branch", "v2")[0] == branch["commit"]
    assert hub.get("/api/models/tester/private")["private"]
    assert not hub.get("/api/models/tester/branch")["private"]
    load = "from huggingface_hub import hf_hub_download; print(len(hf_hub_download('tester/private', 'config.json')))"
    with pytest.raises(AssertionError, match="401"):
        hub.stranger(load, home="spy")
    assert hub.stranger(load, home="owner", HF_TOKEN="hf_tester") > 0
    for refused in (nowhere, theirs):
        assert refused["error"] == "PermissionError"


COMMIT, UPLOAD = "POST .*/commit/", "PUT /_lfs/"
# name -> the failures, and what the publisher hears: nothing, or an error and a word that tells what to do.
FAILURES = {
    "the upload fails twice": ([{"match": UPLOAD, "do": "answer", "status": 500, "times": 2}], None),
    "the upload is cut": ([{"match": UPLOAD, "do": "cut"}], None),
    "the upload has to wait": (
        [{"match": UPLOAD, "do": "answer", "status": 429, "headers": {"Retry-After": "0"}}],
        None,
    ),
    "no upload gets through": ([{"match": UPLOAD, "do": "cut", "times": 9}], ("ConnectionError", "again")),
    "the commit fails": ([{"match": COMMIT, "do": "answer", "status": 503}], ("ConnectionError", "again")),
    "the commit is cut": ([{"match": COMMIT, "do": "cut"}], ("ConnectionError", "again")),
    "the commit is done, its answer lost": ([{"match": COMMIT, "do": "lose"}], ("ConnectionError", "again")),
    "the commit is too much": ([{"match": COMMIT, "do": "answer", "status": 429}], ("ConnectionError", "wait")),
    "the repository cannot be made": (
        [{"match": "POST /api/repos/create", "do": "answer", "status": 502}],
        ("ConnectionError", "again"),
    ),
    "the token expires": ([{"match": COMMIT, "do": "answer", "status": 401}], ("PermissionError", "hf auth login")),
    "the tag is lost": (
        [{"match": "POST .*/tag/", "do": "lose"}],
        ("ConnectionError", "again"),
    ),
}


@pytest.fixture(scope="module")
def failed(hub, published):
    """Every failure, each in a repository of its own, and the same push again without it."""
    scenarios = []
    for number, (failures, _) in enumerate(FAILURES.values()):
        scenario = {"folder": published["staged"], "repo_id": f"tester/failed-{number}", "options": {"tag": "v1"}}
        scenarios += [scenario | {"failures": failures}, scenario]
    return push_all(hub, *scenarios)


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failure_the_same_command_ends_in_the_same_repository(hub, failed, name):
    number, (_, expected) = list(FAILURES).index(name), FAILURES[name]
    first, second = failed[2 * number : 2 * number + 2]
    if expected is None:
        assert second["commit"] == first["commit"]
    else:
        assert first["error"] == expected[0]
        assert expected[1] in first["message"]
    assert "error" not in second
    repo_id = f"tester/failed-{number}"
    assert hub.tree(repo_id) == hub.tree("tester/reviews")
    assert len(hub.commits(repo_id)) == 2
    assert hub.commits(repo_id, "v1")[0] == second["commit"]


def test_what_someone_else_commits_is_not_overwritten_unseen(hub, published):
    first = {"folder": published["staged"], "repo_id": "tester/shared"}
    call = hub.commit_of_someone_else("tester/shared")
    results = push_all(hub, first | {"failures": [{"match": COMMIT, "do": "call", "call": call}]})
    assert results[0]["error"] == "ConnectionError"
    assert "Somebody else" in results[0]["message"]
    assert set(hub.tree("tester/shared")) == {".gitattributes", "elsewhere.txt"}
    (again,) = push_all(hub, first)
    assert hub.tree("tester/shared") == hub.tree("tester/reviews")
    assert again["commit"] == hub.commits("tester/shared")[0]


@pytest.mark.parametrize("token", ["", "hf_wrong", "hf_reader"])
def test_tokens_that_will_not_do(hub, published, token):
    (result,) = push_all(hub, {"folder": published["staged"], "repo_id": "tester/no"}, home="no", HF_TOKEN=token)
    assert result["error"] == "PermissionError"
    assert "hf auth login" in result["message"]


PUBLISH_STAGED = """
import shutil, sys
from compactbert.cli import app
from compactbert.hub import publishing
def stage(source, output_dir, *arguments, **options):
    shutil.copytree(source, output_dir)
    return {"kind": "model", "difference": 0.0}
publishing.stage = stage
app(sys.argv[1:])
"""


def test_the_command_line_ends_with_a_line(hub, published):
    # Staging has been tested; this is about what is said when pushing fails.
    command = [sys.executable, "-P", "-c", PUBLISH_STAGED, "publish", published["staged"], "tester/command"]
    hub.fail({"match": COMMIT, "do": "cut"})
    cut = hub.run(*command, "--license", "mit")
    hub.fail()
    refused = hub.run(*command, "--license", "mit", HF_TOKEN="hf_wrong")
    for process in (cut, refused):
        assert process.returncode == 2, process.stderr
        assert process.stderr.splitlines()[-1].startswith("Error: The Hub")
        assert "Traceback" not in process.stderr
    assert "401" in refused.stderr


def test_it_is_an_extension_of_the_command_line_of_the_hub(hub, published):
    folder = hub.homes / "extended" / ".local" / "share" / "hf" / "extensions" / "hf-compactbert"
    folder.mkdir(parents=True)
    manifest = {"owner": "someone", "repo": "hf-compactbert", "repo_id": "someone/hf-compactbert", "type": "binary"}
    manifest |= {"short_name": "compactbert", "executable_path": str(SCRIPTS / "hf-compactbert")}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"installed_at": "2026-01-01T00:00:00+00:00"}))
    process = hub.run(SCRIPTS / "hf", "compactbert", "publish", "--help", home="extended")
    assert process.returncode == 0, process.stderr
    assert "--dry-run" in process.stdout
