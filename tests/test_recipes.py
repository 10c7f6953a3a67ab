import json
import subprocess
import sys

import pandas as pd
import pytest
from families import assert_same, build
from huggingface_hub import ModelCard
from runs import kill_when, weights
from transformers import AutoTokenizer

import compactbert
from compactbert.cards import table_rows
from compactbert.compression import PruningPlan
from compactbert.hub import classify_in_clean_process
from compactbert.recipes import list_recipes, load_recipe
from compactbert.recipes.report import _teacher_index
from compactbert.recipes.stages import Stage, StageResult, prune_on_task, prune_vocabulary_on_task


TRAIN = {"learning_rate": 3e-3, "batch_size": 8, "max_length": 16}
SHAPES = ["1x8", "4x16"]
RECIPE = {
    "name": "tiny",
    "description": "For tests.",
    "stages": [
        {"finetune": {"name": "teacher", "epochs": 2, **TRAIN}},
        {"prune": {"name": "two layers", "layers": [0, 2], "heads": 2, "ffn": 8, "rows": 32, "max_length": 16}},
        {"distill": {"epochs": 2, **TRAIN}},
        {"prune_vocabulary": {"max_length": 16}},
    ],
    "baselines": {
        "first layer": [
            {"prune": {"layers": [0], "rows": 32, "max_length": 16}},
            {"finetune": {"epochs": 1, **TRAIN}},
        ]
    },
}


@pytest.fixture(scope="module")
def compressed(tiny_model, shared_reviews, tmp_path_factory):
    output = tmp_path_factory.mktemp("compressed") / "small-reviews"
    report = compactbert.compress(tiny_model, str(shared_reviews), output, recipe=RECIPE, seeds=2, shapes=SHAPES)
    return output, report


def test_the_result_is_a_finished_repository(compressed):
    output, report = compressed
    assert {path.name for path in output.iterdir()} == {
        "README.md",
        "config.json",
        "configuration_smbert.py",
        "model.safetensors",
        "modeling_smbert.py",
        "report.json",
        "report.png",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert report == json.loads((output / "report.json").read_text())
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not output.with_name("small-reviews.partial").exists()


@pytest.mark.long
def test_the_result_works_without_our_package(compressed):
    output, _ = compressed
    texts = ["film is good", "music is bad"]
    clean = classify_in_clean_process(output, texts)
    assert clean["class"] == "SmBertForSequenceClassification"
    here = compactbert.predict(output, texts)
    assert [row["label"] for row in clean["rows"]] == [row["label"] for row in here]
    assert [row["score"] for row in clean["rows"]] == pytest.approx([row["score"] for row in here], abs=1e-5)


def test_the_report_has_a_point_per_stage_and_baseline(compressed, shared_reviews):
    output, report = compressed
    points = {point["name"]: point for point in report["points"]}
    assert list(points) == ["teacher", "two layers", "distill", "prune_vocabulary", "first layer"]
    assert [point["kind"] for point in report["points"]] == ["stage"] * 4 + ["baseline"]
    assert points["distill"]["parameters"]["encoder"] < points["teacher"]["parameters"]["encoder"]
    assert points["prune_vocabulary"]["parameters"]["embedding"] < points["distill"]["parameters"]["embedding"]
    for point in points.values():
        assert point["latency"].keys() == point["macs"].keys() == set(SHAPES)
        assert len(point["metrics"]["accuracy"]["values"]) == 2
        assert point["metrics"]["accuracy"]["std"] is not None
        assert (
            sum(point["parameters"][part] for part in ("embedding", "encoder", "head")) == point["parameters"]["total"]
        )
    # What is reported is what is left: the first seed's model.
    measured = compactbert.evaluate(output, task=str(shared_reviews), max_length=16)["metrics"]
    assert measured["accuracy"] == points["prune_vocabulary"]["metrics"]["accuracy"]["values"][0]
    result = report["result"]
    assert report["teacher"] == "teacher"
    encoders = [points[name]["parameters"]["encoder"] for name in ("prune_vocabulary", "teacher")]
    assert result["encoder_share"] == pytest.approx(encoders[0] / encoders[1])
    header, rows = table_rows(report)
    assert len(rows) == 5
    assert all(len(row) == len(header) for row in rows)


def test_the_card_says_where_its_figures_come_from(compressed, tiny_model, shared_reviews):
    output, report = compressed
    card = ModelCard.load(output / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model is None
    assert "More Information Needed" not in card.text
    assert "No figure is taken from a paper" in card.text
    assert "on the 20 rows of `held_out`" in card.text
    last = [point for point in report["points"] if point["kind"] == "stage"][-1]
    first_seed = last["metrics"]["accuracy"]["values"][0]
    assert f"| `accuracy` | {first_seed:.4f} | measured here" in card.text
    for row in table_rows(report)[1]:
        assert f"| {' | '.join(row)} |" in card.text
    # Nothing of this machine is published.
    for text in (card.content, (output / "report.json").read_text()):
        assert str(tiny_model.parent) not in text
        assert str(shared_reviews.parent) not in text
        assert str(output.parent) not in text


KILLED = """
import json, sys
import compactbert
compactbert.compress(sys.argv[1], sys.argv[2], sys.argv[3], recipe=json.loads(sys.argv[4]), shapes=["1x8"])
"""


@pytest.mark.long
def test_a_job_killed_at_any_moment_ends_with_the_same_weights(tiny_model, shared_reviews, tmp_path):
    compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "whole", recipe=RECIPE, shapes=["1x8"])
    command = [sys.executable, "-c", KILLED, tiny_model, shared_reviews, tmp_path / "killed", json.dumps(RECIPE)]
    work_dir = tmp_path / "killed.partial"
    # In a stage's training, between stages, in the next stage, in a baseline.
    moments = (
        "seed-42/01-teacher.partial/checkpoint-*/trainer_state.json",
        "seed-42/02-two-layers",
        "seed-42/03-distill.partial/*",
        "seed-42/baseline-1-01-prune",
    )
    for moment in moments:
        kill_when(command, work_dir, moment)
        assert not (tmp_path / "killed").exists()
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    assert not work_dir.exists()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_further_texts_fill_what_the_task_leaves_of_a_vocabulary(finetuned, shared_reviews, tmp_path):
    own = prune_vocabulary_on_task(finetuned, str(shared_reviews), tmp_path / "own")["tokens"]["after"]
    (tmp_path / "plots.csv").write_text("text\n" + "plot plot cast\n" * 99)
    options = {"size": own + 1, "texts": str(tmp_path / "plots.csv")}
    prune_vocabulary_on_task(finetuned, str(shared_reviews), tmp_path / "filled", **options)
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "filled").get_vocab()
    assert len(vocabulary) == own + 1
    assert {"plot", "film", "ending"} <= vocabulary.keys()
    assert "cast" not in vocabulary


def test_a_full_disk_loses_nothing(tiny_model, shared_reviews, tmp_path, monkeypatch):
    output = tmp_path / "out"
    options = {"recipe": {"stages": RECIPE["stages"][:3]}, "shapes": ["1x8"]}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("compactbert.recipes.compression.write_plot", full)
        with pytest.raises(OSError, match="No space left"):
            compactbert.compress(tiny_model, str(shared_reviews), output, **options)
    assert not output.exists()
    with monkeypatch.context() as patch:
        # Every stage is there: none may run again.
        patch.setattr("compactbert.training.run.Trainer.train", full, raising=False)
        report = compactbert.compress(tiny_model, str(shared_reviews), output, **options)
    assert report["points"][-1]["name"] == "distill"


def test_a_job_killed_after_its_end_is_done(compressed, tiny_model, shared_reviews):
    output, report = compressed
    work_dir = output.with_name("small-reviews.partial")
    (work_dir / "seed-42").mkdir(parents=True)
    again = compactbert.compress(tiny_model, str(shared_reviews), output, recipe=RECIPE, seeds=2, shapes=SHAPES)
    assert again == report
    assert not work_dir.exists()


def test_an_unfinished_job_with_other_settings_is_refused(tiny_model, shared_reviews, tmp_path, monkeypatch):
    recipe = {"stages": RECIPE["stages"][:1]}

    def stop(*args, **kwargs):
        raise OSError("stop")

    with monkeypatch.context() as patch:
        patch.setattr("compactbert.recipes.compression.build_report", stop)
        with pytest.raises(OSError, match="stop"):
            compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "out", recipe=recipe, max_steps=9)
    with pytest.raises(ValueError, match=r"other settings \(`max_steps` was 9, is 8\)"):
        compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "out", recipe=recipe, max_steps=8)


def test_stages_on_another_task_have_no_figures_of_this_one(tiny_model, shared_reviews, tmp_path):
    other = pd.DataFrame(
        {"text": ["up we go", "down we go", "here we stay"] * 20, "label": ["up", "down", "none"] * 20}
    )
    other.to_csv(tmp_path / "moves.csv", index=False)
    moves = str(tmp_path / "moves.csv")
    recipe = {
        "stages": [
            {"finetune": {"name": "teacher on moves", "task": moves, "epochs": 1, **TRAIN}},
            {"theseus": {"task": moves, "layers": 1, "epochs": 1, **TRAIN}},
            {"distill": {"task": moves, "teacher": "teacher on moves", "epochs": 1, "relation_weight": 1.0, **TRAIN}},
            {"prune": {"heads": 2, "iterations": 2, "rows": 16, "max_length": 16}},
            {"finetune": {"name": "the task", "epochs": 3, **TRAIN}},
        ]
    }
    report = compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "out", recipe=recipe, shapes=["1x8"])
    # Nor is there a teacher to compare with.
    assert [point["name"] for point in report["points"]] == ["the task"]
    assert report["teacher"] is report["result"] is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "there is no teacher to compare with" in card
    # Nor is the folder of a task published.
    assert str(tmp_path) not in card + (tmp_path / "out" / "report.json").read_text()
    assert report["points"][0]["metrics"]["accuracy"]["mean"] == 1.0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (1, 2)
    assert config["id2label"] == {"0": "neg", "1": "pos"}


def test_a_budget_of_steps_is_split_by_epochs(tiny_model, shared_reviews, tmp_path):
    report = compactbert.compress(
        tiny_model, str(shared_reviews), tmp_path / "out", recipe=RECIPE, shapes=["1x8"], max_steps=25
    )
    steps = {point["name"]: point["steps"] for point in report["points"]}
    # Epochs are 2, 2 and 1.
    assert (steps["teacher"], steps["distill"], steps["first layer"]) == (10, 10, 5)


def test_a_budget_of_minutes_shortens_the_stages(tiny_model, shared_reviews, tmp_path):
    recipe = {"stages": RECIPE["stages"][:3]}
    report = compactbert.compress(
        tiny_model, str(shared_reviews), tmp_path / "out", recipe=recipe, shapes=["1x8"], max_minutes=0.002
    )
    steps = {point["name"]: point["steps"] for point in report["points"]}
    assert 1 <= steps["teacher"] < 46
    assert 1 <= steps["distill"] < 46


def test_a_finetuned_model_skips_the_first_stage(finetuned, shared_reviews, tmp_path):
    options = {"recipe": {"stages": RECIPE["stages"][:2]}, "finetuned": True, "shapes": ["1x8"]}
    report = compactbert.compress(finetuned, str(shared_reviews), tmp_path / "out", **options)
    assert [point["name"] for point in report["points"]] == ["given model", "two layers"]
    assert report["teacher"] == "given model"
    other = tmp_path / "other.csv"
    pd.DataFrame({"text": ["a b", "c d"] * 20, "label": ["up", "down"] * 20}).to_csv(other, index=False)
    with pytest.raises(
        ValueError, match=r"it predicts \['neg', 'pos'\], the task's labels are, in order, \['down', 'up'\]"
    ):
        compactbert.compress(finetuned, str(other), tmp_path / "other", **options)
    for stages, message in (
        (["finetune"], "only fine-tunes"),
        ([{"finetune": {"task": "mnli"}}, {"theseus": {"task": "mnli", "layers": 1}}, "finetune"], "begins on 'mnli'"),
    ):
        with pytest.raises(ValueError, match=message):
            compactbert.compress(
                finetuned, str(shared_reviews), tmp_path / "other", **options | {"recipe": {"stages": stages}}
            )


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_in_order(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize(
    ("kinds", "given", "teacher"),
    [
        (["finetune", "prune_vocabulary", "finetune", "prune", "distill"], False, 0),
        (["finetune", "finetune", "theseus", "finetune"], False, 1),
        (["prune_vocabulary", "prune", "distill"], True, 0),
    ],
)
def test_the_whole_model_is_what_the_result_is_compared_with(kinds, given, teacher, tmp_path):
    stages = [StageResult(Stage(kind, kind), "reviews", tmp_path, {}) for kind in kinds]
    assert _teacher_index(stages, given, "reviews") == teacher


def test_a_stage_on_another_task_may_sample_its_rows():
    settings = {"task": "mnli", "max_train_rows": 1000, "max_evaluation_rows": None}
    assert load_recipe({"stages": [{"finetune": settings}, "finetune"]}).stages[0].settings == settings


def test_small_numbers_are_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stages: [{finetune: {learning_rate: 1e-4, epochs: 2}}]")
    assert load_recipe(path).stages[0].settings == {"learning_rate": 1e-4, "epochs": 2}


def test_the_papers_recipe_has_the_papers_figures():
    stages = load_recipe("smbert-paper").stages
    theseus = [stage.settings for stage in stages if stage.kind == "theseus"]
    figures = [(s["layers"], s["replacing_rate"], s["replacing_rate_coefficient"], s["epochs"]) for s in theseus]
    assert figures == [(6, 0.3, 0.0006, 15), (3, 0.4, 0.0008, 15)]
    assert {s["learning_rate"] for s in theseus} == {1e-5}
    distill = next(stage.settings for stage in stages if stage.kind == "distill")
    assert (distill["temperature"], distill["learning_rate"]) == (3.0, 2e-5)
    weights = ("kd_loss_weight", "hard_label_weight", "cosine_weight")
    assert [distill[name] for name in weights] == [5.0, 2.0, 1.0]
    prune = next(stage.settings for stage in stages if stage.kind == "prune")
    assert (prune["heads"], prune["ffn"]) == (8, 2048)


FINETUNE, PRUNE, DISTILL = {"finetune": {}}, {"prune": {"heads": 2}}, {"distill": {}}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "must be a list with at least one stage"),
        ("finetune", "must be a list"),
        ([{"finetune": {}, "prune": {}}], "must be one kind with its settings"),
        ([{"shrink": {}}], "unknown stage 'shrink'"),
        ([{"finetune": {"epoch": 3}}], r"unknown settings \['epoch'\]"),
        ([{"finetune": {"output_dir": "x"}}], r"unknown settings \['output_dir'\]"),
        ([{"finetune": 3}], "must be a mapping"),
        ([PRUNE], "needs a fine-tuned model"),
        ([{"theseus": {"layers": 1}}], "needs a fine-tuned model"),
        ([FINETUNE, DISTILL], "its own teacher"),
        ([FINETUNE, PRUNE, {"prune_vocabulary": {}}, DISTILL], "read different tokens"),
        (
            [{"finetune": {"name": "a"}}, {"prune_vocabulary": {}}, PRUNE, {"distill": {"teacher": "a"}}],
            "read different",
        ),
        ([{"finetune": {"task": "mnli"}}, PRUNE, DISTILL], "has a teacher for another task than its own"),
        (["prune_vocabulary", FINETUNE], "needs a fine-tuned model"),
        ([FINETUNE, {"prune_vocabulary": {"task": "mnli"}}], "is for another task"),
        ([FINETUNE, {"theseus": {}}], "needs `layers`"),
        ([{"finetune": {"epochs": "abc"}}], r"has `epochs: 'abc'`: expected float"),
        ([{"finetune": {"batch_size": 1.5}}], r"has `batch_size: 1.5`: expected int"),
        ([{"finetune": {"epochs": None}}], r"has `epochs: None`: expected float"),
        ([FINETUNE, {"theseus": {"layers": 0}}], "finds 3 layers, but `layers` .0. must divide them"),
        ([{"finetune": {"name": "a"}}, {"finetune": {"name": "a"}}], "Two stages of .* are called 'a'"),
        ([FINETUNE, {"theseus": {"layers": 2}}], "finds 3 layers, but `layers` .2. must divide them"),
        ([FINETUNE, {"prune": {"every": 2}}], "finds 3 layers, but `every` .2. must divide them"),
        ([FINETUNE, {"prune": {"layers": [0, 3]}}], r"finds 3 layers, but is to keep \[0, 3\]"),
        ([FINETUNE, {"prune": {"first": 0.3}}, {"prune": {"layers": 2}}], "finds 1 layers, but is to keep 2"),
        ([{"finetune": {}}, {"finetune": {"task": "sst3"}}, FINETUNE], "needs data that cannot be read. Unknown task"),
        ([FINETUNE, PRUNE, {"distill": {"teacher": "nobody"}}], "names the teacher 'nobody'"),
        ([{"finetune": {"task": "mnli"}}, {"theseus": {"layers": 1}}], "is for another task"),
        ([FINETUNE, {"finetune": {"task": "mnli"}}], "ends with a model for the task 'mnli'"),
    ],
)
def test_impossible_recipes_are_refused_before_anything_runs(stages, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        compactbert.compress(tiny_model, "docstrings", tmp_path / "out", recipe={"stages": stages})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [({"heads": 5}, "keeps `heads` 5, but the model has 4"), ({"ffn": 0}, "keeps `ffn` 0, but the model has 24")],
)
def test_targets_that_a_uniform_model_does_not_have_are_refused_before_anything_runs(target, message, tmp_path):
    build("smbert-uniform").config.save_pretrained(tmp_path / "model")
    recipe = {"stages": [FINETUNE, {"prune": target}]}
    with pytest.raises(ValueError, match=message):
        compactbert.compress(tmp_path / "model", "docstrings", tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "is not valid YAML"),
        ("- finetune", "must be a mapping of its stages"),
        ("steps: []", r"unknown keys \['steps'\]"),
        ("stages: [finetune]\nbaselines: [x]", "must map names to stages"),
        ("stages: [finetune]\nbaselines: {x: [distill]}", "of the baseline 'x' of .* its own teacher"),
    ],
)
def test_unreadable_recipes_are_refused(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)
    with pytest.raises(ValueError, match="There is no recipe or file 'nothing'; the recipes are"):
        load_recipe("nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "`seeds` must be positive"),
        ({"max_steps": 0}, "`max_steps` must be positive"),
        ({"max_minutes": -1.0}, "`max_minutes` must be positive"),
        ({"shapes": ["128"]}, "rows x tokens"),
        ({"shapes": ["1x65"]}, "1x65 is longer than the model takes: 64 tokens"),
        ({"learning_rate": 1e-4}, r"Unknown options \['learning_rate'\]"),
        ({"label_column": "stars"}, "has no column 'stars'"),
        ({"finetuned": True}, "fine-tune it on the task first"),
    ],
)
def test_bad_arguments_leave_no_output(tiny_model, shared_reviews, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "out", recipe=RECIPE, **change)
    assert list(tmp_path.iterdir()) == []


def test_texts_that_are_missing_are_missed_before_anything_runs(tiny_model, shared_reviews, tmp_path, monkeypatch):
    monkeypatch.delenv("COMPACTBERT_DATA", raising=False)
    with pytest.raises(ValueError, match="Task 'mnli' is not in a data folder"):
        compactbert.compress(tiny_model, str(shared_reviews), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_shares_and_every_other_layer_fit_any_model(finetuned, shared_reviews, tmp_path):
    task = str(shared_reviews)
    report = prune_on_task(finetuned, task, tmp_path / "out", every=3, heads=0.5, ffn=0.25, rows=16)
    plan = PruningPlan.load(tmp_path / "out" / "pruning_plan.json")
    # The tiny model has 3 layers, up to 4 heads and up to 24 neurons.
    assert [(layer.layer, len(layer.heads), len(layer.networks[0])) for layer in plan.layers] == [(2, 2, 6)]
    assert [row["layer"] for row in report["plan"]] == [2]
    prune_on_task(finetuned, task, tmp_path / "first", first=0.67, rows=16)
    assert [layer.layer for layer in PruningPlan.load(tmp_path / "first" / "pruning_plan.json").layers] == [0, 1]
    for options, message in (
        ({"every": 2}, "`every` must divide the model's 3 layers, got 2"),
        ({"every": 0}, "`every` must divide the model's 3 layers, got 0"),
        ({"first": 4}, "`layers` of the model must be ascending indices below 3"),
        ({"every": 3, "layers": [0]}, "Give one of `every`, `first` and `layers`"),
    ):
        with pytest.raises(ValueError, match=message):
            prune_on_task(finetuned, task, tmp_path / "other", **options)
