"""Complete repositories on disk: what is in them, what may not be, and what their cards say."""

import copy
import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch
import yaml
from families import build
from huggingface_hub import ModelCard, SpaceCard
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

import compactbert
from compactbert.cards import Publication, evaluation_results, render_card
from compactbert.hub import (
    catalogue_rows,
    check_contents,
    find_entry,
    kind_of,
    pull,
    read_catalogue,
    run_without_packages,
    stage,
)
from compactbert.inference import load_for_inference
from compactbert.provenance import command_line, public_settings
from compactbert.records import Folder


ROOT = Path(__file__).parent.parent
TRAIN = {"epochs": 1, "batch_size": 8, "max_length": 16}
GIVEN = {"license": "apache-2.0", "languages": ["en"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, minilm_tokenizer):
    """What the makers leave: a compressed, a fine-tuned and an adapted model, of a csv file."""
    place = tmp_path_factory.mktemp("made")
    data = place / "reviews.csv"
    rows = [f"{word} is {label}" for word in ("film", "story", "music", "end") for label in ("good", "bad")] * 10
    data.write_text("text,label\n" + "\n".join(f"{row},{'pos' if 'good' in row else 'neg'}" for row in rows) + "\n")
    for family, name in (("smbert-uneven", "base"), ("mobilebert_md-stages", "thin")):
        sizes = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 64}
        build(family, "ForMaskedLM", **sizes).save_pretrained(place / name)
        minilm_tokenizer.save_pretrained(place / name)
    stages = [{"finetune": {"name": "teacher", **TRAIN}}, {"prune": {"name": "half", "heads": 2, "ffn": 8, "rows": 8}}]
    options = {"shapes": ["1x8"], "seed": 3}
    compactbert.compress(place / "base", str(data), place / "compressed", recipe={"stages": stages}, **options)
    compactbert.finetune(place / "thin", str(data), place / "tuned", **TRAIN)
    compactbert.adapt(place / "thin", str(data), place / "adapter", method="lora", options={"r": 2}, **TRAIN)
    return place


@pytest.fixture(scope="module")
def staged(folders):
    result = stage(folders / "compressed", folders / "staged", "acme/small-reviews", **GIVEN)
    return folders / "staged", result


@pytest.fixture(scope="module")
def staged_adapter(folders):
    given = GIVEN | {"base_model": "acme/thin", "base_revision": "a" * 40}
    return folders / "staged adapter", stage(folders / "adapter", folders / "staged adapter", "acme/adapter", **given)


def texts_of(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".png"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_staged_model_is_complete_and_computes_the_same(folders, staged):
    folder, result = staged
    names = {file["path"] for file in result["files"]}
    assert names == {
        "LICENSE",
        "README.md",
        "config.json",
        "configuration_smbert.py",
        "model.safetensors",
        "modeling_smbert.py",
        "pruning_plan.json",
        "report.json",
        "report.png",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert result["kind"] == "model"
    assert result["difference"] <= 1e-5
    assert {"path": "config.json", "bytes": (folder / "config.json").stat().st_size} in result["files"]
    assert not list(folders.glob("*.new"))
    here, there = (compactbert.predict(path, ["film is good"]) for path in (folders / "compressed", folder))
    assert here == there
    # The code is pinned to the weights: it lies beside them.
    config = json.loads((folder / "config.json").read_text())
    assert len(config["auto_map"]) > 5
    assert not any("--" in value for value in config["auto_map"].values())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in folder.iterdir())


@pytest.mark.long
def test_two_runs_are_alike(folders, staged, tmp_path):
    stage(folders / "compressed", tmp_path / "again", "acme/small-reviews", **GIVEN)
    assert texts_of(tmp_path / "again") == texts_of(staged[0])


def test_nothing_tells_of_this_machine(folders, staged, staged_adapter):
    for folder in (staged[0], staged_adapter[0]):
        for name, data in texts_of(folder).items():
            for place in (folders, Path.home(), Path.cwd()):
                assert len(place.parts) <= 2 or str(place).encode() not in data, name
        check_contents(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("optimizer.pt", b"x", "pickles run code"),
        ("notes.docx", b"x", "unknown kind"),
        ("notes.txt", b"hf_" + b"a" * 34, "access token"),
        ("notes.txt", b"see /home/somebody/models", "/home/somebody"),
        ("report.json", b'"/tmp/run-3"', "/tmp/run-3"),
    ],
)
def test_what_does_not_belong_is_refused(staged, tmp_path, name, content, said):
    shutil.copytree(staged[0], tmp_path / "folder")
    check_contents(tmp_path / "folder")
    (tmp_path / "folder" / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        check_contents(tmp_path / "folder")


def test_a_link_is_refused(staged, tmp_path):
    shutil.copytree(staged[0], tmp_path / "folder")
    os.symlink("/etc/hostname", tmp_path / "folder" / "notes.txt")
    with pytest.raises(ValueError, match="is a link"):
        check_contents(tmp_path / "folder")


def test_the_card_has_every_part_and_no_gap(folders, staged):
    folder, _ = staged
    report = json.loads((folder / "report.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en"]
    assert card.data.pipeline_tag == "text-classification"
    headings = re.findall(r"^## (.+)$", card.text, re.MULTILINE)
    assert headings == [
        "Use",
        "Architecture",
        "How it was made",
        "Results",
        "Speed and size",
        "Intended use and limits",
        "Licences",
        "Citation",
    ]
    for gap in ("More Information Needed", "TODO", "None", "{{ ", "path/or", "not recorded"):
        assert gap not in card.content, gap
    accuracy = report["points"][-1]["metrics"]["accuracy"]["values"][0]
    assert f"| `accuracy` | {accuracy:.4f} | measured here" in card.text
    teacher, student = (point["parameters"]["total"] for point in report["points"])
    assert f"| parameters | {teacher:,} | {student:,} | {teacher / student:.2f} |" in card.text
    assert "`heads=2`, `ffn=8`" in card.text
    assert "Seed: 3." in card.text
    assert f"transformers {report['environment']['transformers']}" in card.text
    assert "acme/small-reviews" in card.text


def test_the_command_of_a_card_is_the_one_that_was_given(folders):
    card = render_card(folders / "tuned")
    command = re.search(r"```bash\n(.+)\n```", card).group(1)
    assert command == (
        "compactbert finetune --model thin --task reviews.csv --epochs 1 --batch-size 8 --max-length 16 --output OUTPUT"
    )
    given = {"method": "lora", "options": {"r": 16}, "merge": True, "text_columns": ["a", "b"], "task": "my task"}
    assert command_line(compactbert.adapt, given | {"seed": 0}) == (
        "compactbert adapt --option r=16 --merge --text-column a --text-column b --task 'my task' --seed 0 "
        "--output OUTPUT"
    )


def test_a_card_tells_of_how_many_machines_the_cost_is(folders, tmp_path):
    shutil.copytree(folders / "tuned", tmp_path / "tuned")
    record = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    record["settings"]["processes"] = 2
    for accelerator, told in (("NVIDIA H100", "on 2 × NVIDIA H100."), (None, "on 2 threads of a processor with")):
        record["environment"] |= {"accelerator": accelerator, "threads": 1}
        (tmp_path / "tuned" / "metrics.json").write_text(json.dumps(record))
        assert told in render_card(tmp_path / "tuned")


def test_settings_are_published_without_places(tmp_path):
    (tmp_path / "data.csv").touch()
    settings = {"model": str(tmp_path / "my-bert"), "task": str(tmp_path / "data.csv"), "data_dir": "/data", "seed": 1}
    assert public_settings(settings) == {"model": "my-bert", "task": "data.csv", "seed": 1}
    assert public_settings({"model": "org/model", "task": "paws-x/en"}) == {"model": "org/model", "task": "paws-x/en"}


@pytest.mark.long
def test_the_results_are_those_of_the_task_on_the_hub(folders, tmp_path):
    shutil.copytree(folders / "tuned", tmp_path / "tuned")
    assert evaluation_results(tmp_path / "tuned") == {}
    record = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    record |= {"task": "mrpc", "metrics": {"accuracy": 0.8125, "f1": 0.7}, "split": "validation"}
    record["rows"] = {"train": 3668, "validation": 408}
    record["settings"] |= {"task": "mrpc", "model": "minilm"}
    (tmp_path / "tuned" / "metrics.json").write_text(json.dumps(record))
    result = stage(tmp_path / "tuned", tmp_path / "out", "acme/mrpc")
    assert ".eval_results/mrpc.yaml" in {file["path"] for file in result["files"]}
    (entry,) = yaml.safe_load((tmp_path / "out" / ".eval_results" / "mrpc.yaml").read_text())
    assert entry["dataset"] == {"id": "nyu-mll/glue", "task_id": "mrpc"}
    assert entry["value"] == 0.8125
    card = ModelCard.load(tmp_path / "out" / "README.md")
    # The base is MiniLM, whose licence and language are known.
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en"])
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert card.data.datasets == ["nyu-mll/glue"]
    results = {entry.metric_type: entry for entry in card.data.eval_results}
    assert (results["accuracy"].metric_value, results["f1"].dataset_config) == (0.8125, "mrpc")
    assert "Microsoft Research Paraphrase Corpus" in card.text
    assert "on the 408 rows of `validation`" in card.text
    # A pair of texts, as the task has them.
    assert '"text_pair": "Profit grew' in card.text


@pytest.mark.long
def test_weights_in_half_precision_and_in_pieces(folders, tmp_path):
    result = stage(
        folders / "tuned", tmp_path / "out", "acme/thin", dtype="float16", max_shard_size="500KB", license="mit"
    )
    weights = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(weights) > 1
    with safe_open(weights[0], "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    # They are computed with in float32, wherever they are loaded.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    original = AutoModelForSequenceClassification.from_pretrained(folders / "tuned")
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model(ids).logits, original(ids).logits, atol=1e-2, rtol=1e-2)
    assert result["difference"] <= 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "before the weights were rounded" in card
    assert "The weights are under 'mit'" in (tmp_path / "out" / "LICENSE").read_text()
    assert "stages of different width" in card


@pytest.mark.long
def test_onnx_lies_where_others_look_for_it(folders, tmp_path):
    import onnxruntime

    result = stage(folders / "tuned", tmp_path / "out", "acme/thin", onnx=["fp32", "int8"], **GIVEN)
    assert {"onnx/model.onnx", "onnx/model_int8.onnx"} <= {file["path"] for file in result["files"]}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`onnx/model.onnx`, `onnx/model_int8.onnx`" in card
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    model, tokenizer = load_for_inference(tmp_path / "out", "ForSequenceClassification")
    batch = tokenizer(["film is good"], return_tensors="pt")
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(**batch).logits, atol=1e-4, rtol=1e-4)


def test_an_adapter_names_a_base_that_others_can_reach(folders, staged_adapter, tmp_path):
    with pytest.raises(ValueError, match="`base_model` is needed"):
        stage(folders / "adapter", tmp_path / "out", "acme/adapter", license="mit")
    folder, result = staged_adapter
    assert result["kind"] == "adapter"
    assert {file["path"] for file in result["files"]} == {
        *("LICENSE", "README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/thin", "a" * 40)
    assert json.loads((folder / "metrics.json").read_text())["base"]["name"] == "acme/thin"
    card = ModelCard.load(folder / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("acme/thin", "peft")
    assert f'trust_remote_code=True, revision="{"a" * 40}"' in card.text
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        compile(block, "card", "exec")
    # The source is as it was, and still works.
    assert compactbert.predict(folders / "adapter", ["film is good"])


@pytest.mark.parametrize("method", ["adapter", "prefix"])
def test_an_adapter_that_needs_the_package_says_so(method, folders, tmp_path):
    # PEFT has no bottleneck adapters, and no prefixes for layers of different width.
    compactbert.adapt(folders / "thin", str(folders / "reviews.csv"), tmp_path / "adapter", method=method, **TRAIN)
    result = stage(tmp_path / "adapter", tmp_path / "out", "acme/adapter", base_model="acme/thin", **GIVEN)
    assert result["difference"] <= 1e-5
    assert "It needs `compactbert`; PEFT alone cannot load it." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.long
def test_an_adapter_may_have_other_labels_than_its_base(folders, minilm_tokenizer, tmp_path):
    sizes = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 64, "num_labels": 3}
    build("smbert-uneven", "ForSequenceClassification", **sizes).save_pretrained(tmp_path / "three")
    minilm_tokenizer.save_pretrained(tmp_path / "three")
    compactbert.adapt(tmp_path / "three", str(folders / "reviews.csv"), tmp_path / "two", options={"r": 2}, **TRAIN)
    result = stage(tmp_path / "two", tmp_path / "out", "acme/two", base_model="acme/three", **GIVEN)
    assert result["difference"] <= 1e-5
    # As its reader does.
    card = (tmp_path / "out" / "README.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "peft" in block)
    for name, folder in (("acme/three", tmp_path / "three"), ("acme/two", tmp_path / "out")):
        block = block.replace(name, str(folder))
    assert run_without_packages(f"{block}print(model.get_base_model().num_labels)").split()[-1] == "2"


def test_a_space_gets_its_models(tmp_path):
    space = tmp_path / "space"
    (space / "__pycache__").mkdir(parents=True)
    (space / "__pycache__" / "app.pyc").write_bytes(b"x")
    (space / ".env").write_text("SECRET=1")
    (space / "app.py").write_text("import gradio\n")
    (space / "requirements.txt").write_text("transformers\n")
    header = "title: A Space\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n"
    (space / "README.md").write_text(f"---\n{header}---\n# A Space\n---\nMore.\n")
    assert kind_of(space) == "space"
    result = stage(space, tmp_path / "out", "acme/space", models=["acme/small-reviews"])
    assert [file["path"] for file in result["files"]] == ["README.md", "app.py", "requirements.txt"]
    card = SpaceCard.load(tmp_path / "out" / "README.md")
    assert card.data.models == ["acme/small-reviews"]
    assert card.data.sdk == "gradio"
    assert card.text.strip().endswith("---\nMore.")
    (space / "app.py").write_text("import (\n")
    with pytest.raises(ValueError, match="'app.py' is no Python"):
        stage(space, tmp_path / "other", "acme/space")
    (space / "requirements.txt").unlink()
    with pytest.raises(ValueError, match="has no 'requirements.txt'"):
        stage(space, tmp_path / "other", "acme/space")
    for front, said in (("sdk: gradio", "has no `title`"), ("sdk: [", "is not YAML")):
        (space / "README.md").write_text(f"---\n{front}\n---\n")
        with pytest.raises(ValueError, match=said):
            stage(space, tmp_path / "other", "acme/space")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "space"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nothing", {}, "There is no folder"),
        ("empty", {}, "is no model"),
        ("tuned", {"repo_id": "thin"}, "put your user name before it"),
        ("tuned", {"repo_id": "a/b/c"}, "must be `namespace/name`"),
        ("tuned", {"license": None}, "`license` is needed"),
        ("tuned", {"dtype": "int4"}, "`dtype` must be one of"),
        ("tuned", {"onnx": ["int4"]}, "`onnx` must be of"),
        ("tuned", {"models": ["acme/thin"]}, "`models` is for space repositories"),
        ("tuned", {"base_revision": "a" * 40}, "`base_revision` is for adapter repositories"),
        ("adapter", {"onnx": ["fp32"], "base_model": "acme/thin"}, "`onnx` is for model repositories"),
        ("foreign", {}, "is a 'bert' model"),
    ],
)
def test_bad_input(folders, tmp_path, name, options, said):
    (folders / "empty").mkdir(exist_ok=True)
    (folders / "foreign").mkdir(exist_ok=True)
    (folders / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    arguments = {"repo_id": "acme/thin", "license": "mit"} | options
    with pytest.raises(ValueError, match=said):
        stage(folders / name, tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_computes_something_else_is_refused(folders, tmp_path, monkeypatch):
    def other(folder, head, ids, *rest):
        return torch.zeros(2, 2)

    monkeypatch.setattr("compactbert.hub.staging._run_there", other)
    with pytest.raises(ValueError, match="computes something else"):
        stage(folders / "tuned", tmp_path / "out", "acme/thin", license="mit")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_record_says_so(tmp_path, minilm_tokenizer):
    build("ib_bert-uniform", "ForMaskedLM", vocab_size=len(minilm_tokenizer)).save_pretrained(tmp_path / "plain")
    minilm_tokenizer.save_pretrained(tmp_path / "plain")
    stage(tmp_path / "plain", tmp_path / "out", "acme/plain", license="apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No record of its training came with it." in card
    assert "No measurement came with these weights" in card
    assert 'pipeline("fill-mask", model="acme/plain"' in card
    assert "Paris is the [MASK] of France." in card


def test_the_example_of_a_language_model_has_its_own_mask_token(tmp_path, minilm_tokenizer):
    tokenizer = copy.deepcopy(minilm_tokenizer)
    tokenizer.mask_token = "<mask>"
    build("smbert-uniform", "ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "Paris is the <mask> of France." in render_card(tmp_path)


def test_the_zoo_is_what_the_catalogue_says(tmp_path):
    entries = read_catalogue()
    for entry in entries:
        folder = ROOT / "zoo" / entry["name"]
        check_contents(folder)
        tensors = Folder.read(folder).tensors.values()
        assert (entry["parameters"], entry["bytes"]) == tuple(sum(sizes) for sizes in zip(*tensors, strict=True))
        assert all(path.stat().st_size <= 25e6 for path in folder.rglob("*"))
        card = render_card(folder, Publication(entry["repo_id"], entry["license"], tuple(entry.get("languages", ()))))
        assert card == (folder / "README.md").read_text()
        for metric, value in entry["scores"].items():
            assert f"| `{metric}` | {value:.4f} |" in card
        assert find_entry(entry["name"]) == find_entry(entry["repo_id"]) == entry
        config = "adapter_config.json" if "adapter_of" in entry else "config.json"
        assert (pull(entry["name"], tmp_path / entry["name"]) / config).is_file()
    header, rows = catalogue_rows(entries)
    assert len(rows) == len(entries)
    assert all(len(row) == len(header) for row in rows)
    with pytest.raises(ValueError, match="The zoo has no 'nothing'"):
        find_entry("nothing")


def test_a_row_of_the_catalogue_says_all_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("compactbert.hub.catalogue.files", lambda package: tmp_path)
    (tmp_path / "catalog.yaml").write_text("mine: {repo_id: me/mine, colour: red}")
    with pytest.raises(ValueError, match=r"row 'mine' lacks \['architecture', .* has unknown \['colour'\]"):
        read_catalogue()


def test_a_pull_takes_up_an_earlier_try_of_its_own_revision_alone(tmp_path, monkeypatch):
    def download(repo_id, revision, local_dir):
        local_dir.mkdir(exist_ok=True)
        (local_dir / f"{revision}.json").touch()
        if revision == "v1":
            raise LocalEntryNotFoundError("cut")

    monkeypatch.setattr("compactbert.hub.catalogue.snapshot_download", download)
    name = read_catalogue()[0]["name"]
    with pytest.raises(ConnectionError, match="cut"):
        pull(name, tmp_path / "out", revision="v1")
    assert [path.name for path in pull(name, tmp_path / "out", revision="v2").iterdir()] == ["v2.json"]


@pytest.mark.parametrize("name", [entry["name"] for entry in read_catalogue() if "adapter_of" in entry])
def test_adapters_of_the_zoo_fit_their_bases_there(name):
    # Their bases are not on the Hub yet; they lie beside them. Other weights than those are refused.
    folder = ROOT / "zoo" / name
    adapted, tokenizer = load_for_inference(folder, Folder.read(folder).head)
    batch = tokenizer("Profit grew.", "The profit was lower.", return_tensors="pt")
    with torch.no_grad():
        found = adapted(**batch).logits
        with adapted.disable_adapter():
            without = adapted(**batch).logits
    assert not torch.allclose(found, without)


def test_the_zoo_carries_the_code_that_is_tested():
    originals = {path.name: path.read_text() for path in ROOT.glob("modeling_*/*.py")}
    copies = sorted(ROOT.glob("zoo/*/*.py"))
    assert copies
    for path in copies:
        assert path.read_text() == originals[path.name], path
