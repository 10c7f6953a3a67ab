"""What the README says: its Python runs, its commands exist, its figures are the measured ones."""

import doctest
import json
import math
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import compactbert
from compactbert.cli import app
from compactbert.recipes import demonstration, load_recipe
from compactbert.records import Folder
from compactbert.structure import layer_shapes


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# A Space brings its own, with the figures that concern it; what is not for everybody stands beside the benchmarks.
OTHERS = "".join(path.read_text() for path in [*ROOT.glob("spaces/*/README.md"), ROOT / "benchmarks" / "README.md"])
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """A short run of the real demo: the real weights, few rows."""
    folder = tmp_path_factory.mktemp("demo")
    # Beside what the demo leaves, as in a checkout.
    (folder / "zoo").symlink_to(ROOT / "zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compactbert.recipes.demonstration.TRAIN_ROWS", 16)
        patch.setattr("compactbert.recipes.demonstration.EVALUATION_ROWS", 16)
        patch.setattr("compactbert.recipes.checks.DEFAULT_ROWS", (1,))
        patch.setattr("compactbert.recipes.checks.DEFAULT_LENGTH", 16)
        return folder, compactbert.demo(folder / "compactbert-demo")


def test_the_demo_ends_in_a_clean_process(demo_run):
    folder, result = demo_run
    assert result["clean_process"]["class"] == "SmBertForSequenceClassification"
    assert [row["text"] for row in result["clean_process"]["rows"]] == list(demonstration.TEXTS)
    here = compactbert.predict(folder / "compactbert-demo", list(demonstration.TEXTS))
    for row, clean in zip(here, result["clean_process"]["rows"], strict=True):
        assert row["label"] == clean["label"]
        assert row["score"] == pytest.approx(clean["score"], abs=1e-5)


@pytest.mark.long
def test_the_demo_can_be_called_again(demo_run, monkeypatch):
    folder, result = demo_run
    monkeypatch.setattr("compactbert.recipes.demonstration.TRAIN_ROWS", 16)
    again = compactbert.demo(folder / "compactbert-demo")
    assert again["report"] == result["report"]
    with pytest.raises(ValueError, match="exists"):
        compactbert.demo(folder / "compactbert-demo", seed=2)
    # The example in its docstring.
    monkeypatch.chdir(folder)
    example = doctest.DocTestParser().get_doctest(compactbert.demo.__doc__, {}, "demo", None, None)
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.splitlines()[0])
def test_python_blocks_run(demo_run, monkeypatch, block):
    folder, _ = demo_run
    monkeypatch.chdir(folder)
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("call", re.findall(r"\bcompactbert(?:\.cli)? (.*)", "".join(SHELL)))
def test_commands_are_understood(call):
    command, words = get_command(app), shlex.split(call)
    # Those of `data` and `zoo` have commands of their own.
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    # Reads the words, and runs nothing.
    command.make_context(call, words)


def test_setup_is_two_commands():
    script = (ROOT / ".ci" / "run").read_text()
    for block, last in zip(SHELL, ("compactbert demo", "pytest"), strict=False):
        upgrade, install, run = block.strip().split(" && ")
        assert run == last
        assert upgrade.removeprefix("python -m pip install ") in script
    # CI installs with the README's own command.
    assert install.removeprefix("pip install ") in script


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.json")))
def test_figures_are_the_measured_ones(name, load_benchmark):
    benchmark = load_benchmark(name)
    results = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    assert benchmark.render(results) in README + OTHERS
    if hasattr(benchmark, "summary"):
        assert benchmark.summary(results) in README.replace("\n", " ")


@pytest.mark.parametrize("name", ["compress_minilm", "pareto"])
def test_pictures_show_what_was_measured(name, load_benchmark):
    benchmark = load_benchmark(name)
    (axes,) = benchmark.draw(benchmark.RESULTS.read()).axes
    assert any(len(line.get_xdata()) > 1 for line in axes.lines)


def test_the_zoo_was_made_by_the_recipes_that_make_it(load_benchmark, tmp_path, monkeypatch):
    zoo = load_benchmark("zoo")
    monkeypatch.setattr(zoo, "sentences_of", lambda task, data_dir, folder: folder)
    assert set(zoo.CHECKPOINTS) == {folder.name for folder in zoo.folders()}
    for name, checkpoint in zoo.CHECKPOINTS.items():
        if not checkpoint.task or checkpoint.adapter_of:
            continue
        recipe = load_recipe(zoo.recipe_of(checkpoint, tmp_path, tmp_path))
        report = json.loads((ROOT / "zoo" / name / "report.json").read_text())
        made = [settings for stage in report["settings"]["recipe"]["stages"] for settings in stage.values()]
        wanted = [{"name": stage.name, **stage.settings} for stage in recipe.stages]
        for one, other in zip(made, wanted, strict=True):
            # A published report names no folders.
            assert {**one, "texts": ""} == {**other, "texts": ""}, name
        assert report["recipe"]["name"] == recipe.name


def test_the_zoo_is_described_as_it_was_made(load_benchmark):
    zoo, text = load_benchmark("zoo"), README.replace("\n", " ")
    read = {folder.name: Folder.read(folder) for folder in zoo.folders()}

    def stages(name):
        return [settings for step in read[name].record["settings"]["recipe"]["stages"] for settings in step.values()]

    (rows,) = {stage["text_rows"] for stage in stages("smbert-sst2") if "text_rows" in stage}
    assert f"its teacher's opinion of {rows:,} sentences" in text
    *_, eight, _ = stages("smbert-paws-x")
    assert (eight["epochs"], "these were fine-tuned for eight epochs" in text) == (8, True)
    (cut,) = {stage["size"] for name in ("smbert-paws-x", "smbert-qqp") for stage in stages(name) if "size" in stage}
    assert f"vocabulary was cut to {cut:,} tokens first" in text
    spelt = [stages(name)[-1] for name in ("smbert-paws-x", "smbert-conll2003")]
    assert [(stage["epochs"], stage["subword_dropout"]) for stage in spelt] == 2 * [(4, 0.2)]
    assert "fine-tuned for four epochs more with a fifth of the tokens hidden" in text
    behind = read["smbert-conll2003"].record["points"]
    teacher, student = (point["metrics"]["seqeval_f1"]["values"][0] for point in behind)
    assert (round(100 * (teacher - student)), "the second stays two points behind" in text) == (2, True)
    results = zoo.RESULTS.read()
    assert "`smbert`, `smbert-conll2003` and `mobilebert-md-small` keep all tokens; of the others the" in text
    whole = {name for name, one in read.items() if one.config and one.config.vocab_size == 30522}
    assert whole == {"mobilebert-md-small", "smbert", "smbert-conll2003"}
    cut_to = {name: one.config.vocab_size for name, one in read.items() if one.config and name not in whole}
    assert {name: found["tokens"] for name, found in results["cuts"].items()} == cut_to
    assert "those for a task have the same layers" in text
    assert len({tuple(layer_shapes(one.config)) for name, one in read.items() if one.config and one.task}) == 1
    assert "on no task do the two differ by more than chance at the 5 % level (sign test)" in text
    assert min(found["p"] for found in results["cuts"].values()) > 0.05
    rows, lost, won = (sum(found[key] for found in results["cuts"].values()) for key in ("rows", "lost", "won"))
    assert f"of {rows:,} rows in all {lost} are right only with all tokens, {won} only with those that were" in text
    assert "within .03 points of these" in text
    for name in ("smbert-mnli", "smbert-ag-news"):
        one, wanted = results["cuts"][name], results["vocabulary"][name]
        made_whole = wanted["after"] + (one["lost"] - one["won"]) / one["rows"]
        assert abs(made_whole - wanted["before"]) < 0.0003
    transfer = read["mobilebert-md-small"].record
    teacher = results["teachers"]["mobilebert-md-small"]
    assert f"{teacher['steps']} steps for the teacher, `smbert` as an IB-BERT, and" in text
    assert f"and {transfer['steps']:,} steps of {transfer['tokens_per_step']:,} tokens for its own six layers" in text
    minutes = sum(one["steps"] * one["seconds_per_step"] / 60 for one in (teacher, transfer))
    assert (60 < minutes < 70, "in a good hour" in text) == (True, True)
    small, large = (results["finetuned"][name] for name in ("mobilebert-md-small", "smbert"))
    assert "Fine-tuned on single sentences it comes within a point of `smbert`" in text
    assert 0 < large["sst2"]["accuracy"] - small["sst2"]["accuracy"] < 0.01
    # What the larger class has, of MRPC's 408 validation rows and RTE's 277.
    classes = {"mrpc": 279 / 408, "rte": 146 / 277}
    points = [round(100 * (one[task]["accuracy"] - most)) for one in (small, large) for task, most in classes.items()]
    assert points == [2, 3, 6, 11]
    assert (
        "two points better than the majority class on MRPC and three on RTE, where `smbert` is six and eleven" in text
    )
    (right,), rows = (
        read["smbert-mnli-lora-rte"].scores.values(),
        read["smbert-mnli-lora-rte"].record["rows"]["validation"],
    )
    error = 100 * math.sqrt(right * (1 - right) / rows)
    assert f"an accuracy over RTE's {rows} rows has a standard error of {error:.1f} points" in text
    # Per token, with the head of a language model too: as many float16 values as a layer is wide.
    cut = sum((30522 - one.config.vocab_size) * one.config.hidden_size * 2 for one in read.values() if one.config)
    here = sum(path.stat().st_size for path in (ROOT / "zoo").rglob("*") if path.is_file())
    assert f"more than 260 MB in place of {here / 1e6:.0f}" in text
    assert here <= 200e6 < 260e6 < here + cut < 270e6
