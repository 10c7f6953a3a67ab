"""Commands over tables of text: `compactbert data`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .options import (
    DataDir,
    JsonFile,
    LabelColumn,
    MaxLength,
    Near,
    NewTable,
    Seed,
    Table,
    TableLabel,
    TableTexts,
    TextColumn,
    TrustRemoteCode,
)
from .terminal import friendly_errors, show, show_counts, write_json


def clean(
    source: Table,
    output: NewTable,
    text_column: TableTexts = ["text"],  # noqa: B006
    language: Annotated[Literal["en", "zh"], typer.Option(help="English (or the like) or Chinese.")] = "en",
    html_tags: Annotated[bool, typer.Option(help="Take out HTML.")] = True,
    full_width: Annotated[bool, typer.Option(help="Make full-width letters and digits plain.")] = True,
    digits: Annotated[bool, typer.Option(help="Take out numbers.")] = False,
    punctuation: Annotated[bool, typer.Option(help="Take out all but letters, digits and spaces.")] = False,
    lower: Annotated[bool, typer.Option(help="Make it lower case.")] = False,
    json_file: JsonFile = None,
):
    """Clean texts of markup, odd white space and full-width forms."""
    options = {"language": language, "html_tags": html_tags, "full_width": full_width, "digits": digits}
    options |= {"punctuation": punctuation, "lower": lower}
    with friendly_errors():
        from compactbert.data.cleaning import clean as clean_table
        from compactbert.data.tasks import rewrite_table

        report = rewrite_table(source, output, lambda table: clean_table(table, text_column, **options))
    show_counts(report, output, json_file)


def dedupe(
    source: Table,
    output: NewTable,
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: Annotated[str | None, typer.Option(help="Count duplicates with another label.")] = None,
    near: Near = None,
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """Keep the first of the rows whose texts are equal, or nearly."""
    with friendly_errors():
        from compactbert.data.duplicates import drop_duplicates
        from compactbert.data.tasks import rewrite_table

        report = rewrite_table(
            source, output, lambda table: drop_duplicates(table, text_column, label_column, near, seed)
        )
    show_counts(report, output, json_file)


def split(
    source: Table,
    output: Annotated[Path, typer.Option(help="Folder for train, validation and test; must not exist.")],
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: TableLabel = "label",
    shares: Annotated[tuple[float, float, float], typer.Option(help="Of the three splits.")] = (0.7, 0.15, 0.15),
    leakage: Annotated[
        Literal["refuse", "report"], typer.Option(help="What to do if a text is in two splits.")
    ] = "refuse",
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """Split a table, each class alike, into files that --task takes as a folder."""
    with friendly_errors():
        from compactbert.data.splitting import split as split_table
        from compactbert.data.splitting import write_splits
        from compactbert.data.tasks import read_table

        splits, leaks = split_table(read_table(source), text_column, label_column, shares, seed, leakage)
        write_splits(splits, output, source.suffix)
    report = {name: len(table) for name, table in splits.items()} | leaks
    show_counts(report, output, json_file)


def augment(
    source: Table,
    output: NewTable,
    method: Annotated[
        Literal["deletion", "insertion", "swap", "replacement"], typer.Option(help="What to do with words.")
    ],
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: TableLabel = "label",
    share: Annotated[float, typer.Option(help="Share of a text's words that change.")] = 0.1,
    copies: Annotated[int, typer.Option(help="Changed copies of every row.")] = 1,
    words: Annotated[Path | None, typer.Option(help='Synonyms: {"good": ["fine", "great"]} as JSON.')] = None,
    model: Annotated[str | None, typer.Option(help="A masked language model, in place of --words.")] = None,
    outside: Annotated[str | None, typer.Option(help="Label of tokens outside of spans; O, if it is not said.")] = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Add copies of rows in which words are deleted, inserted, swapped or replaced."""
    with friendly_errors():
        from compactbert.convert import load_pretrained
        from compactbert.data.augmentation import MaskFiller, read_synonyms
        from compactbert.data.augmentation import augment as augment_table
        from compactbert.data.tasks import rewrite_table

        synonyms = read_synonyms(words) if words else None
        fill = None
        if model is not None:
            fill = MaskFiller(*load_pretrained(model, "ForMaskedLM", trust_remote_code, require_head=True))
        options: dict[str, Any] = {"share": share, "copies": copies, "words": synonyms, "fill": fill, "seed": seed}
        options["outside"] = int(outside) if outside and outside.isdigit() else outside
        report = rewrite_table(
            source, output, lambda table: augment_table(table, method, text_column, label_column, **options)
        )
    show_counts(report, output, json_file)


def report(
    task: Annotated[str, typer.Argument(help='A file, a folder with splits, or a dataset\'s name like "sst2".')],
    plot: Annotated[Path | None, typer.Option(help="Draw lengths and labels to this PNG file.")] = None,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens: a folder, a repository or minilm.")] = "minilm",
    max_length: MaxLength = 128,
    near: Near = None,
    json_file: JsonFile = None,
):
    """Show lengths, labels, duplicates, and texts that are in two splits."""
    with friendly_errors():
        from compactbert.data.description import describe_task, description_rows, plot_description

        description = describe_task(
            task,
            data_dir,
            text_columns=text_column,
            label_column=label_column,
            tokenizer=tokenizer,
            max_length=max_length,
            near=near,
        )
        if plot is not None:
            plot_description(description, plot)
    show(task, *description_rows(description))
    write_json(description, json_file)
