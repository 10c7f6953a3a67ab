"""The command line. It parses, calls the functions of [`compactbert`], and shows what they return; libraries load
inside the commands, so that `--help` is quick."""

from collections.abc import Callable
from typing import Any

import typer

from . import hub, making, tables, using


def _group(help: str, *commands: Callable[..., Any], **options: Any) -> typer.Typer:
    """Commands under one name."""
    group = typer.Typer(help=help, no_args_is_help=True, pretty_exceptions_enable=False, **options)
    for command in commands:
        # `list_zoo` is the command `list` of the group `zoo`.
        group.command(command.__name__.removesuffix("_zoo").replace("_", "-"))(command)
    return group


app = _group(
    "Small, fast BERTs: make them, measure them, use them.",
    making.demo,
    making.compress,
    making.transfer,
    making.finetune,
    making.adapt,
    making.train_embeddings,
    using.evaluate,
    using.predict,
    using.export,
    using.bench,
    using.search,
    using.inspect,
    hub.publish,
    name="compactbert",
    add_completion=False,
)
app.add_typer(
    _group(
        "Clean, deduplicate, split, augment and describe tables of text.",
        tables.clean,
        tables.dedupe,
        tables.split,
        tables.augment,
        tables.report,
        name="data",
    )
)
app.add_typer(
    _group(
        "The models of this project: list them, read about one, fetch it.",
        hub.list_zoo,
        hub.show_zoo,
        hub.pull_zoo,
        name="zoo",
    )
)


__all__ = ["app"]
