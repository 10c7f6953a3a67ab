import json
from inspect import signature
from typing import get_args, get_type_hints

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import compactbert
from compactbert.cli import app, making, options
from compactbert.cli.terminal import friendly_errors, show
from compactbert.data.tasks import Problem
from compactbert.hub import read_catalogue
from compactbert.provenance import OPTIONS
from compactbert.recipes.recipe import TASK_SETTINGS
from compactbert.training.finetuning import Precision


COMMANDS = get_command(app).commands


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def test_the_whole_job(tiny_model, reviews, tmp_path):
    model, report = tmp_path / "model", tmp_path / "report.json"
    options = ["--epochs", 4, "--learning-rate", 3e-3, "--batch-size", 8, "--max-length", 16]
    result = run("finetune", "--model", tiny_model, "--task", reviews, "--output", model, "--json", report, *options)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    assert json.loads(report.read_text())["metrics"]["accuracy"] == 1.0

    result = run("evaluate", "--model", model, "--task", reviews)
    assert result.exit_code == 0, result.output
    assert "1.0000" in result.output

    result = run("predict", "--model", model, input="film is good\nstory is bad\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["pos", "neg"]

    result = run("predict", "--model", model, reviews, "--output", tmp_path / "labels.csv")
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 201


def test_adapt_writes_an_adapter_that_predict_and_evaluate_take(tiny_model, reviews, tmp_path):
    output, options = tmp_path / "adapter", ["--epochs", 2, "--batch-size", 8, "--max-length", 16]
    options += ["--method", "lora", "--option", "r=2", "--option", "target_modules=[query, key]"]
    result = run("adapt", "--model", tiny_model, "--task", reviews, "--output", output, *options)
    assert result.exit_code == 0, result.output
    assert "full fine-tuning" in result.output
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["r"], sorted(config["target_modules"])) == (2, ["key", "query"])
    result = run("evaluate", "--model", output, "--task", reviews)
    assert result.exit_code == 0, result.output
    result = run("predict", "--model", output, input="film is good\n")
    assert json.loads(result.stdout)["label"] in ("pos", "neg")


def test_compress_shows_the_table_and_writes_json(tiny_model, reviews, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    options = "epochs: 1, learning_rate: 3.0e-3, batch_size: 8, max_length: 16"
    recipe.write_text(f"stages: [{{finetune: {{{options}}}}}, {{prune: {{layers: 1}}}}, {{distill: {{{options}}}}}]")
    arguments = ["--model", tiny_model, "--task", reviews, "--output", tmp_path / "out", "--recipe", recipe]
    result = run("compress", *arguments, "--shape", "1x8", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "distill" in result.stdout
    assert "of the teacher's encoder" in result.stderr
    assert json.loads((tmp_path / "report.json").read_text())["points"][-1]["name"] == "distill"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compress --model minilm --task docstrings --output OUT --recipe nothing", "no recipe or file 'nothing'"),
        ("compress --model minilm --task sst3 --output OUT", "Unknown task 'sst3'"),
        ("finetune --model /nowhere --task docstrings --output OUT", "/nowhere"),
        ("finetune --model minilm --task sst3 --output OUT", "Unknown task 'sst3'"),
        ("adapt --model minilm --task docstrings --output OUT --method lorra", "`method` must be one of"),
        ("adapt --model minilm --task docstrings --output OUT --option r", "`--option` must be key=value, got 'r'"),
        ("evaluate --model /nowhere --task docstrings", "/nowhere"),
        ("predict --model /nowhere /nowhere.txt", "/nowhere"),
        ("zoo show nothing", "The zoo has no 'nothing'"),
    ],
)
def test_bad_input_ends_with_code_2_and_a_line(command, said, tmp_path):
    result = run(*command.replace("OUT", str(tmp_path / "out")).split())
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert said in last
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_ends_with_code_2(tiny_model, reviews, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("predict", "--model", tiny_model, reviews, "--output", tmp_path / "file" / "labels.csv")
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_ctrl_c_ends_with_code_130_and_what_to_do(capsys):
    with pytest.raises(typer.Exit) as ended, friendly_errors("The same command continues."):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "Interrupted. The same command continues.\n"


def test_the_zoo_is_listed_and_fetched(tmp_path):
    result = run("zoo", "list", "--json", tmp_path / "zoo.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "zoo.json").read_text()) == {"zoo": read_catalogue()}
    name = read_catalogue()[0]["name"]
    assert name in run("zoo", "show", name).output
    result = run("zoo", "pull", name, "--output", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model" / "config.json").is_file()


def test_the_choices_are_those_of_the_library():
    # Spelled twice, so that `--help` need not load the library.
    assert get_args(get_args(get_args(options.Problem)[0])[0]) == get_args(Problem)
    for command in (making.finetune, making.adapt):
        assert get_args(get_type_hints(command)["precision"]) == get_args(Precision)


@pytest.mark.parametrize("name", ["compress", "transfer", "finetune", "adapt"])
def test_a_record_names_a_command_that_exists(name):
    # `command_line` writes an option for every argument that is not the default.
    arguments = signature(getattr(compactbert, name)).parameters.keys() - {"output_dir", "task_options"}
    arguments |= set() if name == "transfer" else set(TASK_SETTINGS)
    wanted = {f"--{OPTIONS.get(argument, argument.replace('_', '-'))}" for argument in arguments}
    assert wanted <= {option for parameter in COMMANDS[name].params for option in parameter.opts}


def commands_in(group):
    """A command in words: `("zoo", "list")`."""
    for name, command in group.items():
        yield (name,)
        yield from ((name, *words) for words in commands_in(getattr(command, "commands", {})))


@pytest.mark.parametrize("command", commands_in(COMMANDS), ids=" ".join)
def test_every_command_and_option_is_described(command):
    result = run(*command, "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    described = COMMANDS[command[0]] if len(command) == 1 else COMMANDS[command[0]].commands[command[1]]
    assert described.help.splitlines()[0] in result.output
    assert [parameter.name for parameter in described.params if not parameter.help] == []


def test_help_names_every_command():
    # The installed scripts run in test_publishing.py.
    shown = run("--help").stdout
    assert all(command in shown for command in COMMANDS)


def test_tables_show_labels_as_they_are(capsys):
    show("of [x]", ("", "[label]"), [("[unused]", "[/x]"), (":cat:", "[bold]")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("of [x]", "[label]", "[unused]", "[/x]", ":cat:", "[bold]"))
