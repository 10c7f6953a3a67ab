"""From a complete folder to a repository on the Hub, in one commit."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, cached_assets_path
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import RevisionNotFoundError

from ..files import check_free, new_folder
from ..records import Folder
from .contents import check_contents, front_matter, kind_of, list_contents
from .staging import stage


REPO_TYPES = {"model": "model", "adapter": "model", "space": "space"}
# The variable in which a Space finds the models it is for, with commas between.
MODEL_ID = "MODEL_ID"
# The Hub keeps it itself.
KEPT = ".gitattributes"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    collection: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """
    Makes a repository on the Hub hold what a staged folder holds, and nothing else, in one commit: it is there in full
    or not at all. The same call again, after whatever went wrong, ends with the same repository; where nothing has
    changed it makes no commit.

    The access token is the one that `huggingface_hub` finds (`hf auth login`, or the variable `HF_TOKEN`).

    Args:
        folder (`str` or `Path`):
            What [`stage`] left.
        repo_id (`str`):
            `namespace/name`. The repository is made if it is not there.
        private (`bool`, *optional*):
            Whether a new repository is private; the default is the namespace's own.
        revision (`str`, *optional*):
            Branch to commit to, made of the main one if it is not there.
        tag (`str`, *optional*):
            Tag to put on the commit.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request in place of committing.
        collection (`str`, *optional*):
            Add the repository to a collection: its slug (`namespace/title-...`), or the title of one of the
            namespace's, made if it is not there.
        commit_message (`str`, *optional*):
            First line of the commit's message.
        dry_run (`bool`, *optional*, defaults to `False`):
            Ask the Hub nothing; say what would be sent.

    Returns:
        `dict`: `repo_id`, `repo_type`, `files` (`path` and `bytes` of each) and, but for a dry run, `url`, `commit`,
        `pull_request` (its address, or `None`) and `collection` (its slug, or `None`).

    Raises:
        ValueError: if the folder holds what does not belong in a repository, or arguments contradict each other.
        PermissionError: if there is no access token, or it does not allow this.
        ConnectionError: if the Hub cannot be reached, or refuses; what it says and what to do is in the message.

    Example:

    ```python
    >>> from compactbert.hub import push

    >>> report = push("my-space", "me/my-space", dry_run=True)
    >>> report["repo_type"], [file["path"] for file in report["files"]]
    ('space', ['README.md', 'app.py', 'requirements.txt'])

    ```
    """
    folder = Path(folder)
    kind = kind_of(folder)
    check_contents(folder)
    if create_pr and (tag or revision):
        raise ValueError("`create_pr` opens a pull request on the main branch: leave `tag` and `revision` out.")
    repo_type = REPO_TYPES[kind]
    contents = list_contents(folder)
    result: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type, "files": contents}
    if dry_run:
        return result
    metadata = front_matter(folder / "README.md")
    api = HfApi()
    of: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    with clear_errors(repo_id):
        # A pull request goes to somebody's repository; it is there.
        if not create_pr:
            api.create_repo(**of, private=private, exist_ok=True, space_sdk=metadata.get("sdk"))
            if revision is not None:
                api.create_branch(**of, branch=revision, exist_ok=True)
        info: Any = api.repo_info(**of, revision=revision)
        if tag is not None:
            _check_tag(api, of, tag, info.sha)
        # Before the commit, with which the Space is built.
        if kind == "space" and metadata.get("models") and not create_pr:
            api.add_space_variable(repo_id, MODEL_ID, ",".join(metadata["models"]))
        there = {sibling.rfilename for sibling in info.siblings or []} - {KEPT}
        ours = {file["path"] for file in contents}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, folder / path) for path in sorted(ours)
        ]
        operations += [CommitOperationDelete(path) for path in sorted(there - ours)]
        # Not `upload_folder`, which sends what is large in several commits.
        commit = api.create_commit(
            **of,
            operations=operations,
            commit_message=commit_message or f"Publish {repo_id.split('/')[-1]} with compactbert",
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,
        )
        if tag is not None:
            _check_tag(api, of, tag, commit.oid)
            api.create_tag(**of, tag=tag, revision=commit.oid, exist_ok=True)
        slug = None
        if collection is not None:
            slug = collection
            if "/" not in collection:
                slug = api.create_collection(collection, namespace=repo_id.split("/")[0], exists_ok=True).slug
            api.add_collection_item(slug, repo_id, repo_type, exists_ok=True)  # type: ignore[arg-type]
    url = str(commit.repo_url)
    return result | {"url": url, "commit": commit.oid, "pull_request": commit.pr_url, "collection": slug}


def publish(
    source: str | Path,
    repo_id: str,
    *,
    output_dir: str | Path | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    license: str | None = None,
    languages: Sequence[str] | None = None,
    dtype: Any = None,
    max_shard_size: str = "5GB",
    onnx: Sequence[Any] = (),
    models: Sequence[str] = (),
    dry_run: bool = False,
    **push_options: Any,
) -> dict[str, Any]:
    """
    From a finished folder to a repository on the Hub that a stranger can load: [`stage`], then [`push`].

    Args:
        source (`str` or `Path`), repo_id (`str`):
            As in [`stage`].
        output_dir (`str` or `Path`, *optional*):
            Where to leave the staged folder; the default is nowhere.
        base_revision (`str`, *optional*):
            As in [`stage`]; the default, for an adapter, is the commit that the base has on the Hub now.
        license, languages, base_model, dtype, max_shard_size, onnx, models:
            As in [`stage`].
        dry_run, push_options:
            As in [`push`].

    Returns:
        `dict`: what [`push`] returns, and `kind` and `difference` of [`stage`].

    Raises:
        ValueError, PermissionError, ConnectionError: as [`stage`] and [`push`].

    Example:

    ```python
    >>> from compactbert.hub import publish

    >>> report = publish("my-space", "me/my-space", models=["me/my-model"], dry_run=True)
    >>> report["kind"], report["repo_type"]
    ('space', 'space')

    ```
    """
    if output_dir is not None:
        check_free(Path(output_dir))
    if kind_of(source) == "adapter" and base_revision is None and not dry_run:
        base = base_model or Folder.read(source).base
        if base is not None:
            with clear_errors(base):
                base_revision = HfApi().model_info(base).sha
    with _scratch_folder(repo_id) as scratch:
        folder = scratch / "staged"
        staged = stage(
            source,
            folder,
            repo_id,
            license=license,
            languages=languages,
            base_model=base_model,
            base_revision=base_revision,
            dtype=dtype,
            max_shard_size=max_shard_size,
            onnx=onnx,
            models=models,
        )
        pushed = push(folder, repo_id, dry_run=dry_run, **push_options)
        # Now, so that what failed before can be given again.
        if output_dir is not None:
            with new_folder(Path(output_dir)) as partial:
                shutil.copytree(folder, partial, dirs_exist_ok=True)
    return pushed | {"kind": staged["kind"], "difference": staged["difference"]}


@contextmanager
def _scratch_folder(repo_id: str) -> Iterator[Path]:
    """An empty folder for one repository at a time, which goes afterwards. Not a temporary one: what a killed process
    leaves in it, the same command finds and removes."""
    folder = cached_assets_path("compactbert", namespace=repo_id)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_tag(api: HfApi, of: dict[str, Any], tag: str, commit: str) -> None:
    """Raises a `ValueError` if a tag is on another commit."""
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(**of).tags}
    if tags.get(tag, commit) != commit:
        raise ValueError(
            f"The tag {tag!r} is on {tags[tag][:8]} already, and people rely on it: choose another one for what is new."
        )


@contextmanager
def clear_errors(repo_id: str) -> Iterator[None]:
    """What the client raises, as what went wrong and what to do."""
    again = "The commit is there in full or not at all: give the same command again."
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError("There is no access token: run `hf auth login`, or set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise PermissionError(
            f"There is no repository {repo_id!r} that you may see: check its name and, with `hf auth whoami`, who you "
            f"are."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"The repository {repo_id!r} has no such revision: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        if status in (401, 403):
            raise PermissionError(
                f"The Hub refuses ({status}: {said}): your access token is not valid, or may not write to {repo_id!r}. "
                f"Make one with write access, and `hf auth login`."
            ) from error
        if status == 412:
            raise ConnectionError(
                f"Somebody else committed to {repo_id!r} meanwhile ({said}): look at what, then give the same command "
                f"again."
            ) from error
        if status == 429:
            raise ConnectionError(f"The Hub asks you to wait ({said}). {again}") from error
        if status < 500:
            raise ValueError(f"The Hub refuses ({status}): {said}") from error
        raise ConnectionError(f"The Hub failed ({status}: {said}). {again}") from error
    except Exception as error:
        # What the client raises where a connection breaks: its HTTP library's own, or that wrapped.
        library = type(error).__module__.split(".")[0]
        if library not in ("httpx", "httpx2") and type(error) not in (OSError, RuntimeError):
            raise
        raise ConnectionError(f"The Hub could not be reached, or stopped answering ({error}). {again}") from error


__all__ = ["clear_errors", "publish", "push"]
