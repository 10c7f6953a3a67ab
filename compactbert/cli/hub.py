"""Commands over the Hub and the zoo."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import JsonFile
from .terminal import friendly_errors, say, show, write_json


def publish(
    source: Annotated[Path, typer.Argument(help="A finished folder, of a model, an adapter or a Space.")],
    repository: Annotated[str, typer.Argument(help="namespace/name on the Hub.")],
    license: Annotated[str | None, typer.Option(help="Licence of the weights; the default is the base's.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Code of a language, such as en; repeatable.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The base's repository, if the folder names a folder.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Commit of the base that an adapter is pinned to.")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None, typer.Option(help="Type of the stored weights.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Size of a file of weights.")] = "5GB",
    onnx: Annotated[list[str] | None, typer.Option(help="fp32 or int8, beside the weights; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Repository that a Space uses; repeatable.")] = None,
    private: Annotated[bool | None, typer.Option(help="Make a new repository private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag for the commit.")] = None,
    pull_request: Annotated[bool, typer.Option(help="Open a pull request in place of committing.")] = False,
    collection: Annotated[str | None, typer.Option(help="Title or slug of a collection to add it to.")] = None,
    message: Annotated[str | None, typer.Option(help="First line of the commit's message.")] = None,
    output: Annotated[Path | None, typer.Option(help="Leave the staged folder here.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Send nothing: show what would be sent.")] = False,
    json_file: JsonFile = None,
):
    """Put a finished folder on the Hub, complete and checked, in one commit. Repeat it after whatever went wrong."""
    with friendly_errors("The commit is there in full or not at all: give the same command again."):
        from compactbert import hub

        result = hub.publish(
            source,
            repository,
            output_dir=output,
            license=license,
            languages=language,
            base_model=base_model,
            base_revision=base_revision,
            dtype=dtype,
            max_shard_size=max_shard_size,
            onnx=onnx or (),
            models=model or (),
            private=private,
            revision=revision,
            tag=tag,
            create_pr=pull_request,
            collection=collection,
            commit_message=message,
            dry_run=dry_run,
        )
    rows = [(file["path"], f"{file['bytes']:,}") for file in result["files"]]
    rows.append(("in all", f"{sum(file['bytes'] for file in result['files']):,}"))
    show(f"{repository} ({result['kind']})", ("file", "bytes"), rows)
    say("Nothing was sent." if dry_run else result["pull_request"] or f"{result['url']} at {result['commit']}")
    write_json(result, json_file)


def list_zoo(json_file: JsonFile = None):
    """Every checkpoint: what it does, how large, how good and how fast it is."""
    with friendly_errors():
        from compactbert.hub import catalogue_rows, read_catalogue

        entries = read_catalogue()
    show("zoo", *catalogue_rows(entries))
    write_json({"zoo": entries}, json_file)


def show_zoo(name: Annotated[str, typer.Argument(help="A name from `zoo list`.")], json_file: JsonFile = None):
    """All that is known of a checkpoint."""
    with friendly_errors():
        from compactbert.hub import find_entry

        entry = find_entry(name)
    show(
        name, ("", ""), [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in entry.items()]
    )
    write_json(entry, json_file)


def pull_zoo(
    name: Annotated[str, typer.Argument(help="A name from `zoo list`.")],
    output: Annotated[Path | None, typer.Option(help="Where to put it; the default is the name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
):
    """Fetch a checkpoint, from this checkout or from the Hub."""
    with friendly_errors("The same command fetches what is missing."):
        from compactbert.hub import pull

        folder = pull(name, output or Path(name), revision=revision)
    say(f"{folder}: its README.md says how to use it.")
