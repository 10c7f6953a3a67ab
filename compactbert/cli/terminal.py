"""What commands say and show, and how they fail."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


@contextmanager
def friendly_errors(remedy: str = "") -> Iterator[None]:
    """Bad input ends with exit code 2 and the remedy in a line, not with a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        _end_progress()
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _end_progress()
        say(f"Interrupted. {remedy}".rstrip())
        raise typer.Exit(130) from error


def _end_progress() -> None:
    """Ends the lines of progress bars that are still open: they would be drawn once more after the last message."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def say(message: str) -> None:
    """A line for people, out of the way of output for machines."""
    typer.echo(message, err=True)


def _is_first_process() -> bool:
    """As `accelerate launch` and `torchrun` say it: all processes have the result, and one reports it."""
    return os.environ.get("RANK", "0") == "0"


def show(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table."""
    if not _is_first_process():
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=any(header))
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    # Labels and names are not rich's markup.
    Console(markup=False, emoji=False).print(table)


def show_counts(counts: dict[str, Any], output: Path, json_file: Path | None) -> None:
    """What was done to a table of texts."""
    show(str(output), ("", ""), list(counts.items()))
    write_json(counts, json_file)


def show_training(report: dict[str, Any], output: Path) -> None:
    """What fine-tuning and adapters report."""
    rows = [(name, f"{value:.4f}") for name, value in report["metrics"].items()]
    rows += [(f"{split} rows", count) for split, count in report["rows"].items()]
    rows += [(f"{split} rows cut to length", count) for split, count in report["truncated"].items()]
    rows += [("steps", report["steps"]), ("best step", report["best_step"])]
    rows += [("seconds per epoch", report["seconds_per_epoch"]), ("precision", report["precision"])]
    show(f"{output} on {report['task']} ({report['split']})", ("", ""), rows)


def show_compression(report: dict[str, Any], output: Path) -> None:
    """What `compress` reports."""
    from compactbert.cards import summary, table_rows

    show(f"{report['recipe']['name']} on {report['task']}", *table_rows(report, brief=True))
    say(f"{output}: {summary(report)} Picture: {output / 'report.png'}")


def write_json(result: dict[str, Any], path: Path | None) -> None:
    """The result for machines, if a file is named."""
    if path is None or not _is_first_process():
        return
    with friendly_errors():
        from compactbert.files import write_text

        write_text(path, json.dumps(result, indent=2) + "\n")
