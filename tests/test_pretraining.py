import inspect
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import assert_same, build, changed, inputs_for, snapshot
from runs import TRAINER, weights
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

import compactbert
from compactbert.cli import app
from compactbert.convert import load_pretrained
from compactbert.data import PretrainingCollator, build_corpus
from compactbert.presets import load_preset
from compactbert.recipes import load_transfer_recipe
from compactbert.recipes.recipe import list_recipes
from compactbert.training import (
    PretrainingConfig,
    PretrainingTrainer,
    ProgressiveTransferTrainer,
    ib_teacher,
    measure_pretraining,
    measure_transfer,
    pretrain,
    transfer_knowledge,
)
from compactbert.training.text import load_language_model


SUBJECTS = ("cat", "dog", "bird", "fish", "horse", "cow", "hen", "fox")
VERBS = {"cat": "sleeps", "dog": "barks", "bird": "sings", "fish": "swims", "horse": "runs", "cow": "eats"}
PLACES = ("house", "garden", "field", "river", "barn", "street")
ADJECTIVES = ("old", "small", "quick", "happy", "quiet")
STUDENT = {
    "model_type": "mobilebert_md",
    "hidden_size": 48,
    "embedding_size": 20,
    "num_hidden_layers": 2,
    "intra_bottleneck_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
HEADS = ("ForPreTraining", "ForMaskedLM")
LANGUAGE_FAMILIES = ("mobilebert_md-stages", "ib_bert-uniform", "smbert-uneven")
# Less than two epochs.
RUN = {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3, "precision": "fp32"}
TRANSFER = RUN | {"transfer_steps": 8}
IB = RUN | {"model": "BERT", "feature_map_size": 48, "embedding_size": 20}


def sentences(rng):
    """What is done depends on who does it, so there is something to learn."""
    for _ in range(rng.randint(3, 6)):
        subject = rng.choice(SUBJECTS)
        place = f"in the {rng.choice(PLACES)}"
        yield f"The {rng.choice(ADJECTIVES)} {subject} {VERBS.get(subject, 'waits')} {place}."


def make_tokenizer():
    words = {"The", "the", "in", ".", "waits", *SUBJECTS, *VERBS.values(), *PLACES, *ADJECTIVES}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate([*special, *sorted(words)])}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text, its corpus, a BERT, and a student's architecture."""
    folder = tmp_path_factory.mktemp("place")
    rng = random.Random(0)
    documents = ["\n".join(sentences(rng)) for _ in range(80)]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    tokenizer = make_tokenizer()
    source = build("smbert-uniform", vocab_size=len(tokenizer), attention_probs_dropout_prob=0.1)
    source.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    (folder / "student.json").write_text(json.dumps(STUDENT))
    corpus = build_corpus(folder / "text.txt", tokenizer, folder / "corpus", sequence_length=32, held_out=0.2)
    return SimpleNamespace(
        folder=folder,
        text=folder / "text.txt",
        bert=folder / "bert",
        student=folder / "student.json",
        corpus=folder / "corpus",
        tokenizer=tokenizer,
        held_out=corpus.held_out,
        collator=PretrainingCollator(tokenizer),
        recipe={
            "name": "tiny",
            "description": "A recipe for tests.",
            "corpus": {"sequence_length": 32, "held_out": 0.2},
            "teacher": {
                "ib_teacher": {"model": str(folder / "bert"), "feature_map_size": 48, "embedding_size": 20} | RUN
            },
            "student": str(folder / "student.json"),
            "transfer": TRANSFER,
        },
    )


@pytest.fixture(scope="module")
def teacher(place):
    settings = {"feature_map_size": 48, "embedding_size": 20}
    report = ib_teacher(place.bert, place.corpus, place.folder / "teacher", **settings, **RUN)
    return SimpleNamespace(folder=place.folder / "teacher", report=report)


@pytest.fixture(scope="module")
def whole(place):
    """What a job leaves that nothing interrupts."""
    report = compactbert.transfer(str(place.text), place.folder / "whole", recipe=place.recipe)
    return SimpleNamespace(folder=place.folder / "whole", report=report)


def make_trainer(folder, model, rows=(), **settings):
    defaults = TRAINER | {"output_dir": str(folder), "max_steps": 3, "learning_rate": 1e-2}
    defaults |= {"per_device_train_batch_size": 4}
    return PretrainingTrainer(model, PretrainingConfig(**defaults | settings), train_dataset=list(rows))


def masked_batch(model):
    batch = inputs_for(model, batch_size=8, labels=True)
    masked = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(2)) < 0.3
    batch["labels"] = batch["input_ids"].masked_fill(~masked | (batch["attention_mask"] == 0), -100)
    return batch


def rows_of(batch):
    return [{name: tensor[i] for name, tensor in batch.items()} for i in range(len(batch["labels"]))]


# The trainer


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_scores_at_masked_positions_alone_give_the_models_own_loss(family, head, tmp_path):
    gradients, losses = [], []
    for own in (True, False):
        model = build(family, head).train()
        batch = masked_batch(model)
        loss = model(**batch).loss if own else make_trainer(tmp_path, model).compute_loss(model, batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.grad.any()})
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_the_head_alone_can_be_trained(family, tmp_path):
    model = build(family, "ForPreTraining")
    before = snapshot(model)
    make_trainer(tmp_path, model, rows_of(masked_batch(model)), trained="head", weight_decay=0.1).train()
    moved = changed(before, model.state_dict())
    prefix = f"{model.base_model_prefix}."
    assert not {name for name in moved if name.startswith(prefix) and ".pooler." not in name}
    assert "cls.predictions.decoder.weight" not in moved
    assert {"cls.predictions.transform.dense.weight", "cls.predictions.bias", "cls.seq_relationship.weight"} <= moved
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_all_is_trained_otherwise(tmp_path):
    model = build("mobilebert_md-stages", "ForPreTraining")
    before = snapshot(model)
    trainer = make_trainer(tmp_path, model, rows_of(masked_batch(model)), logging_steps=1)
    trainer.train()
    # Keys' biases change no attention.
    assert all("key.bias" in name for name in set(before) - changed(before, model.state_dict()))
    for entry in trainer.state.log_history[:3]:
        assert entry["mlm_loss"] + entry["nsp_loss"] == pytest.approx(entry["loss"], rel=1e-5)


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(ValueError, match="SmBertForTokenClassification has no language modelling head"):
        make_trainer(tmp_path, build("smbert-uniform", "ForTokenClassification"))


# Measuring


@pytest.mark.parametrize("head", HEADS)
def test_pretraining_is_measured_as_it_is_computed_directly(head, place):
    model = build("smbert-uniform", head, vocab_size=len(place.tokenizer)).train()
    found = measure_pretraining(model, place.held_out, place.collator, batch_size=3)
    batch = place.collator([place.held_out[i] for i in range(len(place.held_out))])
    labels, continues = batch.pop("labels"), batch.pop("next_sentence_label")
    del batch["sample_id"]
    with torch.no_grad():
        outputs = model.eval()(**batch)
    logits = outputs[0][labels != -100]
    targets = labels[labels != -100]
    expected = {
        "mlm_loss": torch.nn.functional.cross_entropy(logits.double(), targets).item(),
        "mlm_accuracy": (logits.argmax(-1) == targets).double().mean().item(),
    }
    if head == "ForPreTraining":
        hits = outputs.seq_relationship_logits.argmax(-1) == continues
        expected["nsp_accuracy"] = hits.double().mean().item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_transfer_is_measured_as_it_is_computed_directly(place):
    sizes = {"vocab_size": len(place.tokenizer), "attention_probs_dropout_prob": 0.1}
    student = build("mobilebert_md-uniform", "ForPreTraining", num_hidden_layers=2, **sizes)
    teacher = build("ib_bert-uniform", "ForPreTraining", num_hidden_layers=4, **sizes).train()
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    found = measure_transfer(student, teacher, place.held_out, place.collator, batch_size=3)
    batch = place.collator([place.held_out[i] for i in range(len(place.held_out))])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        ours, theirs = (model.eval()(**inputs, **options) for model in (student, teacher))
    kept = inputs["attention_mask"].bool()
    expected = dict.fromkeys(found, 0.0)
    for s, t in ((1, 2), (2, 4)):
        one, other = ours.hidden_states[s][kept].double(), theirs.hidden_states[t][kept].double()
        expected["feature_map_distance"] += (one - other).pow(2).mean().item() / 2
        expected["relative_feature_map_distance"] += ((one - other).pow(2).mean() / other.pow(2).mean()).item() / 2
        p, q = (maps.transpose(1, 2)[kept].double() for maps in (theirs.attentions[t - 1], ours.attentions[s - 1]))
        expected["attention_distance"] += torch.nan_to_num(p * (p / q).log()).sum(-1).mean().item() / 2
    assert found == pytest.approx(expected, rel=1e-5)
    student.set_attn_implementation("sdpa")
    without = measure_transfer(student, teacher, place.held_out, place.collator, [2, 4])
    del expected["attention_distance"]
    assert without == pytest.approx(expected, rel=1e-5)


# From text to a folder


def test_a_teacher_is_made(teacher):
    report = json.loads((teacher.folder / "metrics.json").read_text())
    assert report == teacher.report
    assert report["measured_on"] == "held-out text"
    assert report["steps"] == 12
    assert report["metrics"].keys() == {"mlm_loss", "mlm_accuracy", "nsp_accuracy"}
    assert report["losses"][-1]["mlm_loss"] < report["losses"][0]["mlm_loss"]
    assert not (teacher.folder.with_name("teacher.partial")).exists()
    assert json.loads((teacher.folder / "config.json").read_text())["model_type"] == "ib_bert"


def test_pretraining_from_an_architecture_and_of_the_head_of_a_model(place, tmp_path):
    report = pretrain(place.student, place.corpus, tmp_path / "new", tokenizer=place.bert, **RUN)
    assert report["losses"][-1]["loss"] < report["losses"][0]["loss"]
    assert report["tokens_per_step"] == 16 * 32
    pretrain(tmp_path / "new", place.corpus, tmp_path / "head", trained="head", **RUN)
    before, after = weights(tmp_path / "new"), weights(tmp_path / "head")
    moved = changed(before, after)
    assert "cls.predictions.bias" in moved
    assert not [name for name in moved if ".embeddings." in name or ".encoder." in name]


def test_the_report_is_of_the_saved_weights_and_without_held_out_text_of_the_training_text(place, tmp_path):
    corpus = build_corpus(place.text, place.tokenizer, tmp_path / "corpus", sequence_length=32, held_out=0)
    report = pretrain(place.student, corpus.folder, tmp_path / "out", tokenizer=place.bert, **RUN)
    assert report["measured_on"] == "training text"
    # Masks are those of the first epoch, whichever the run ended in.
    assert report["samples"]["train"] < 12 * 16
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert report["metrics"] == pytest.approx(measure_pretraining(model, corpus.train, place.collator), rel=1e-5)


def test_an_interrupted_pretraining_continues_to_the_same_weights(place, tmp_path, monkeypatch):
    arguments = (place.student, place.corpus)
    pretrain(*arguments, tmp_path / "whole", tokenizer=place.bert, **RUN)
    step = PretrainingTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 10:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(*arguments, tmp_path / "cut", tokenizer=place.bert, **RUN)
    monkeypatch.undo()
    partial = tmp_path / "cut.partial"
    assert (partial / "checkpoint-9").is_dir()
    with pytest.raises(ValueError, match=r"unfinished run with other settings \(`learning_rate` was 0.003, is 0.1\)"):
        pretrain(*arguments, tmp_path / "cut", tokenizer=place.bert, **RUN | {"learning_rate": 0.1})
    settings = json.loads((partial / "settings.json").read_text())
    (partial / "settings.json").write_text(json.dumps(settings | {"processes": 2}))
    with pytest.raises(ValueError, match="`processes` was 2, is 1"):
        pretrain(*arguments, tmp_path / "cut", tokenizer=place.bert, **RUN)
    (partial / "settings.json").write_text(json.dumps(settings))
    # What a kill in the middle of a checkpoint leaves.
    (partial / "checkpoint-12").mkdir()
    report = pretrain(*arguments, tmp_path / "cut", tokenizer=place.bert, **RUN)
    assert report["steps"] == 12
    # It continued in the second epoch, whose samples and masks are not those of the first.
    assert report["samples"]["train"] < 9 * 16
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_run_that_was_killed_after_its_last_step_ends_with_the_same_report(place, teacher, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    arguments = (place.student, teacher.folder, place.corpus)
    settings = RUN | {"transfer_steps": 12}
    whole = transfer_knowledge(*arguments, tmp_path / "whole", **settings)
    with monkeypatch.context() as patched:
        patched.setattr("compactbert.training.text.measure_pretraining", interrupt)
        with pytest.raises(KeyboardInterrupt):
            transfer_knowledge(*arguments, tmp_path / "cut", **settings)
    cut = transfer_knowledge(*arguments, tmp_path / "cut", **settings)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for report in (whole, cut):
        del report["seconds_per_step"]
    assert cut == whole


def test_the_student_of_a_transfer_is_complete(whole):
    report, folder = whole.report, whole.folder
    assert report == json.loads((folder / "metrics.json").read_text())
    measured = {"mlm_loss", "mlm_accuracy", "nsp_accuracy", "attention_distance"}
    assert report["metrics"].keys() == measured | {"feature_map_distance", "relative_feature_map_distance"}
    assert [entry["stage"] for entry in report["losses"]] == [1] * 4 + [2] * 4 + [3] * 4
    assert report["settings"]["processes"] == 1
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "metrics.json", "transfer.png", "config.json", "model.safetensors"} <= names
    # Its code goes with it.
    assert {"configuration_mobilebert_md.py", "modeling_mobilebert_md.py"} <= names
    assert (folder / "transfer.png").read_bytes().startswith(b"\x89PNG")
    siblings = {path.name for path in folder.parent.iterdir() if path.name.startswith("whole")}
    assert siblings == {"whole", "whole-corpus", "whole-teacher"}


def test_the_student_fills_masks(whole, place):
    model = AutoModelForMaskedLM.from_pretrained(whole.folder)
    tokenizer = AutoTokenizer.from_pretrained(whole.folder)
    assert type(model).__name__ == "MobileBertMdForMaskedLM"
    assert model.config.vocab_size == len(place.tokenizer)
    ids = tokenizer("The old cat [MASK] in the house .", return_tensors="pt")
    assert tokenizer.mask_token_id in ids["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model(**ids).logits).all()


def test_the_card_names_what_was_measured_and_no_place(whole, place):
    card = (whole.folder / "README.md").read_text()
    for text in ("{{ ", " }}", "None", str(place.folder), "/tmp", str(Path.home())):
        assert text not in card
    for text in ("# whole", "`tiny`", "A recipe for tests.", "fill-mask", "held-out text", "Seed: 42", "12 steps"):
        assert text in card
    assert f"| `mlm_loss` | {whole.report['metrics']['mlm_loss']:.4f} |" in card
    # The pieces of code are Python.
    compile(card.split("```python")[1].split("```")[0], "card", "exec")


def test_a_student_starts_from_the_teachers_embeddings(whole):
    teacher, student = (weights(whole.folder.with_name(name)) for name in ("whole-teacher", "whole"))
    name = "mobilebert.embeddings.word_embeddings.weight"
    # Four steps of distillation move them by no more than the learning rate each.
    assert 0 < (student[name] - teacher[name]).abs().max() < 0.015 < teacher[name].std()


@pytest.mark.long
def test_a_killed_job_continues_where_it_was(place, whole, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(place.recipe))
    arguments = [str(place.text), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, __file__, *arguments, str(recipe)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "out.partial" / "checkpoint-6").is_dir()
    assert not (tmp_path / "out").exists()
    made = (tmp_path / "out-teacher" / "metrics.json").stat().st_mtime_ns
    # What a kill leaves that came while the teacher's work folder was being removed.
    (tmp_path / "out-teacher.partial").mkdir()
    report = tmp_path / "report.json"
    command = ["--text", *arguments[:1], "--output", arguments[1], "--recipe", recipe]
    other = run(*command, "--max-steps", 24)
    assert other.exit_code == 2
    assert "`max_steps` was 12, is 24" in other.stderr
    result = run(*command, "--json", report)
    assert result.exit_code == 0, result.output
    assert "mlm loss" in result.output
    assert json.loads(report.read_text())["metrics"] == whole.report["metrics"]
    assert (tmp_path / "out-teacher" / "metrics.json").stat().st_mtime_ns == made
    assert_same(weights(tmp_path / "out"), weights(whole.folder))
    card = (tmp_path / "out" / "README.md").read_text()
    # Killed while its work folder was being removed.
    (tmp_path / "out.partial" / "checkpoint-6").mkdir(parents=True)
    assert "exists: choose another" in run(*command, "--max-steps", 24).stderr
    assert run(*command).exit_code == 0
    assert (tmp_path / "out" / "README.md").read_text() == card
    assert not list(tmp_path.glob("*.partial"))


def test_a_given_teacher_and_a_budget(place, teacher, tmp_path):
    before = weights(teacher.folder)
    report = compactbert.transfer(
        [place.text], tmp_path / "out", recipe=place.recipe, teacher=teacher.folder, corpus=place.corpus, max_steps=6
    )
    assert report["steps"] == 6
    assert [entry["stage"] for entry in report["losses"]] == [1, 1, 2, 2, 3, 3]
    assert_same(before, weights(teacher.folder))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_student_that_pruning_leaves_of_its_teacher(place, tmp_path):
    recipe = place.recipe | {
        "teacher": {"pretrain": {"model": str(place.bert)} | RUN},
        "student": {"prune": {"layers": [0, 2], "heads": 0.5, "rows": 8}},
        "transfer": {"max_steps": 4, "strategy": "auxiliary", "attention_transfer_weight": 0.0, "batch_size": 8},
    }
    report = compactbert.transfer([place.text], tmp_path / "out", recipe=recipe, corpus=place.corpus)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out-teacher", "out-student"}
    sizes = {}
    for name in ("out-teacher", "out-student", "out"):
        config = AutoConfig.from_pretrained(tmp_path / name)
        sizes[name] = [layer.num_attention_heads for layer in config.per_layer_config]
    assert len(sizes["out-teacher"]) == 3
    assert sizes["out"] == sizes["out-student"] == [sizes["out-teacher"][0] // 2] * 2
    # It starts from what it kept of the last layer, and learns.
    teacher, student, trained = (weights(tmp_path / name) for name in ("out-teacher", "out-student", "out"))
    norm = "bert.encoder.layer.{}.output.LayerNorm.weight"
    assert torch.equal(teacher[norm.format(2)], student[norm.format(1)])
    assert not torch.equal(student[norm.format(1)], trained[norm.format(1)])
    assert report["texts"] == [place.text.name]
    assert f"| text, `{place.text.name}` | not known to `compactbert` |" in (tmp_path / "out" / "README.md").read_text()

    def again(output="out", **change):
        return compactbert.transfer([place.text], tmp_path / output, recipe=recipe | change, corpus=place.corpus)

    # A folder without a card is not for that a job that was killed.
    with pytest.raises(ValueError, match="out-teacher' exists"):
        again("out-teacher")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out-teacher' was made with .* \(`learning_rate` was 0.003, is 1"):
        again(teacher={"pretrain": recipe["teacher"]["pretrain"] | {"learning_rate": 1.0}})
    with pytest.raises(ValueError, match=r"out-student' was made with .* \(`every` was None, is 3, `layers`"):
        again(student={"prune": {"every": 3, "heads": 0.5, "rows": 8}})
    # What a kill leaves that came while the student's work folder was being removed.
    (tmp_path / "out-student.partial").mkdir()
    assert again()["metrics"] == report["metrics"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out-teacher", "out-student"}


def test_a_teacher_of_another_model_than_the_recipes(place, tmp_path):
    recipe, report = tmp_path / "recipe.yaml", tmp_path / "report.json"
    made_of = {"ib_teacher": place.recipe["teacher"]["ib_teacher"] | {"model": "someone/a-model-of-the-hub"}}
    recipe.write_text(json.dumps(place.recipe | {"teacher": made_of}))
    command = ["--text", place.text, "--corpus", place.corpus, "--recipe", recipe, "--output", tmp_path / "out"]
    result = run(*command, "--model", place.bert, "--json", report)
    assert result.exit_code == 0, result.output
    assert f"--model {place.bert.name} " in json.loads(report.read_text())["command"]
    settings = json.loads((tmp_path / "out-teacher" / "metrics.json").read_text())["settings"]
    assert settings["model"] == place.bert.name
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(place.bert, tmp_path / "other")
    for options in ([], ["--teacher", tmp_path / "out-teacher"]):
        result = run(*command, "--model", tmp_path / "other", *options)
        assert result.exit_code == 2
        assert f"(`model` was '{place.bert.name}', is 'other')" in result.stderr.replace("\n", " ")


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "`max_steps` must be positive, got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive, got -1.0"),
        ({"batch_size": 0}, "`batch_size` must be positive, got 0"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of"),
        ({"precision": "fp8"}, "`precision` must be one of .*, got 'fp8'"),
        ({"trained": "tail"}, "`trained` must be one of"),
        ({"mlm_probability": 1.5}, "`mlm_probability` must be above 0"),
    ],
)
def test_runs_that_cannot_work_leave_nothing(place, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        pretrain(place.student, place.corpus, tmp_path / "out", tokenizer=place.bert, **RUN | settings)
    assert list(tmp_path.iterdir()) == []


def test_models_and_corpora_that_do_not_fit_are_refused(place, teacher, tmp_path, minilm_tokenizer):
    with pytest.raises(ValueError, match=r"is an architecture: name a `tokenizer`"):
        pretrain(place.student, place.corpus, tmp_path / "out", **RUN)
    with pytest.raises(ValueError, match="is not a corpus, it has no `index.json`"):
        pretrain(place.student, tmp_path, tmp_path / "out", tokenizer=place.bert, **RUN)
    short = tmp_path / "short.json"
    short.write_text(json.dumps(STUDENT | {"max_position_embeddings": 16}))
    with pytest.raises(
        ValueError, match="samples of 32 tokens, the model takes 16: build one with `sequence_length=16`"
    ):
        pretrain(short, place.corpus, tmp_path / "out", tokenizer=place.bert, **RUN)
    other = build_corpus(place.text, minilm_tokenizer, tmp_path / "other", sequence_length=32, held_out=0.2)
    with pytest.raises(ValueError, match="was made with another tokenizer"):
        pretrain(place.student, other.folder, tmp_path / "out", tokenizer=place.bert, **RUN)
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(STUDENT | {"hidden_size": 64}))
    with pytest.raises(ValueError, match="student's `hidden_size` is 64 and the teacher's 48"):
        transfer_knowledge(wide, teacher.folder, place.corpus, tmp_path / "out", **TRANSFER)
    with pytest.raises(ValueError, match="has no trained weights for"):
        transfer_knowledge(place.student, place.bert, place.corpus, tmp_path / "out", **TRANSFER)
    taken = tmp_path / "out"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists: choose another `output_dir`"):
        transfer_knowledge(place.student, teacher.folder, place.corpus, taken, **TRANSFER)
    assert (taken / "note.txt").read_text() == "mine"
    assert not (tmp_path / "out.partial").exists()


def test_an_architecture_has_the_teachers_vocabulary(place, teacher):
    model, tokenizer = load_language_model(place.student, teacher.folder, seed=1)
    assert model.config.vocab_size == len(tokenizer) == len(place.tokenizer)
    again, _ = load_language_model(place.student, teacher.folder, seed=1)
    assert_same(model.state_dict(), again.state_dict())


# Recipes and the command


@pytest.mark.parametrize("name", list_recipes("transfer"))
def test_the_shipped_recipes_are_complete(name):
    recipe = load_transfer_recipe(name)
    assert recipe.name == name
    assert recipe.description
    ((kind, settings),) = recipe.teacher.items()
    if isinstance(recipe.student, dict):
        # What is left of the teacher has its width and its words.
        layers = load_pretrained(settings["model"], "")[0].config.num_hidden_layers
        assert max(recipe.transfer["layer_map"]) <= layers
        assert len(recipe.transfer["layer_map"]) == layers // recipe.student["prune"]["every"]
        return
    student = load_preset(recipe.student)
    if kind == "pretrain":
        teacher = load_preset(settings["model"])
        assert teacher.hidden_size == student.hidden_size
        assert teacher.embedding_size == student.embedding_size
        heads = [layer.num_attention_heads for layer in student.per_layer_config]
        assert {layer.num_attention_heads % count for layer in teacher.per_layer_config for count in heads} == {0}
    else:
        sizes = inspect.signature(ib_teacher).parameters
        assert settings.get("feature_map_size", sizes["feature_map_size"].default) == student.hidden_size
        assert settings.get("embedding_size", sizes["embedding_size"].default) == student.embedding_size
    assert recipe.corpus["sequence_length"] <= student.max_position_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, r"has unknown keys \['stages'\]"),
        ({"student": None}, r"needs \['student'\]"),
        ({"teacher": {"distill": {}}}, r"`teacher` of the recipe 'tiny' must be one of \['ib_teacher', 'pretrain'\]"),
        ({"teacher": "minilm"}, "`teacher` of the recipe 'tiny' must be one of"),
        (
            {"teacher": {"ib_teacher": {"model": "minilm"}}},
            "`teacher: ib_teacher` of the recipe 'tiny' needs `max_steps`",
        ),
        ({"teacher": {"pretrain": {"max_steps": 1, "rate": 1}}}, r"has unknown settings \['rate'\]: expected \["),
        (
            {"transfer": {"max_steps": 5, "model": "x"}},
            r"`transfer` of the recipe 'tiny' has unknown settings \['model'\]",
        ),
        ({"transfer": {"max_steps": 5, "seed": 1}}, r"unknown settings \['seed'\]"),
        ({"transfer": {"max_steps": 5, "measure": 1}}, r"unknown settings \['measure'\]"),
        ({"transfer": [1]}, "`transfer` of the recipe 'tiny' must be a mapping of settings"),
        ({"corpus": {"length": 32}}, r"`corpus` of the recipe 'tiny' has unknown settings \['length'\]"),
        ({"corpus": {"sources": "x"}}, r"unknown settings \['sources'\]"),
        ({"student": {"cut": {}}}, r"`student` of the recipe 'tiny' must name .* got \{'cut': \{\}\}"),
        (
            {"student": {"prune": {"depth": 1}}},
            r"`student: prune` of the recipe 'tiny' has unknown settings \['depth'\]",
        ),
    ],
)
def test_recipes_that_cannot_work_are_refused(place, change, message):
    with pytest.raises(ValueError, match=message):
        load_transfer_recipe(place.recipe | change)


def run(*arguments):
    return CliRunner().invoke(app, ["transfer", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ["--recipe", "nothing"], "There is no recipe or file 'nothing'"),
        ({}, ["--text", "/nowhere.txt"], "'/nowhere.txt' names no file"),
        ({}, ["--max-steps", "0"], "`max_steps` must be at least 1, got 0"),
        ({}, ["--teacher", "TEXT_FOLDER"], "Unrecognized model"),
        ({"transfer": TRANSFER | {"strategy": "gradual"}}, [], "`strategy` must be one of"),
        ({"transfer": TRANSFER | {"stages": [[1]]}}, [], "`stages` must hold each"),
        ({"transfer": TRANSFER | {"transfer_steps": 1}}, [], "must be at least the number of stages, 2"),
        ({"teacher": {"ib_teacher": IB | {"feature_map_size": 40}}}, [], "`hidden_size` is 48 and the teacher's 40"),
        ({"teacher": {"ib_teacher": IB | {"feature_map_size": 24}}}, [], "got 20, 32 and 24: a state must fit"),
        ({"teacher": {"ib_teacher": IB | {"model": "smbert/smbert"}}}, [], "must have weights, got the architecture"),
        ({"teacher": {"ib_teacher": {"max_steps": 1}}}, [], "does not say what its teacher is made of"),
        ({"transfer": TRANSFER | {"layer_map": [1, 9]}}, [], "`layer_map` must hold one of the teacher's layers 1..3"),
        (
            {"student": {"prune": {"layers": [0]}}, "transfer": TRANSFER | {"layer_map": [1, 2]}},
            [],
            "the student's 1, got",
        ),
        ({"teacher": {"pretrain": {"model": "BERT"} | RUN}}, [], "`hidden_size` is 48 and the teacher's 32"),
        ({"student": "nothing.json"}, [], "There is no preset or file 'nothing.json'"),
        ({"corpus": {"sequence_length": 64, "held_out": 0.2}}, [], "samples of 64 tokens, the student takes 40"),
    ],
)
def test_bad_input_ends_with_code_2_and_a_line_before_anything_is_trained(place, tmp_path, change, options, message):
    recipe, texts = tmp_path / "recipe.yaml", tmp_path / "texts"
    recipe.write_text(json.dumps(place.recipe | change).replace('"BERT"', json.dumps(str(place.bert))))
    texts.mkdir()
    (texts / "text.txt").write_text(place.text.read_text())
    options = [str(texts) if option == "TEXT_FOLDER" else option for option in options]
    result = run("--text", place.text, "--output", tmp_path / "out", "--recipe", recipe, *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "texts", ".out-corpus.lock"}


def test_a_loss_that_is_not_finite_ends_with_code_2_and_keeps_the_work_folder(place, teacher, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    transfer = TRANSFER | {"learning_rate": 1e25, "warmup": 0, "transfer_steps": 10}
    recipe.write_text(json.dumps(place.recipe | {"transfer": transfer}))
    places = ["--teacher", teacher.folder, "--corpus", place.corpus, "--output", tmp_path / "out"]
    result = run("--text", place.text, "--recipe", recipe, *places)
    assert result.exit_code == 2, result.output
    assert re.search(r"Error: The loss of step \d+ is (nan|inf) .*on the samples \[\d+, ", result.stderr)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "settings.json").is_file()


def die_in_the_second_stage(text, output, recipe):
    step = ProgressiveTransferTrainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **kwargs)

    ProgressiveTransferTrainer.training_step = killed
    compactbert.transfer(text, output, recipe=recipe)


if __name__ == "__main__":
    die_in_the_second_stage(*sys.argv[1:])
