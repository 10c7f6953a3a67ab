"""From a finished folder to a complete repository on disk, which a stranger can load."""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from ..cards import Publication, evaluation_results, render_card
from ..convert import load_pretrained, resolve_model
from ..files import new_folder
from ..inference import export_onnx, load_for_inference
from ..provenance import public_settings
from ..records import BASE, RECORDS, Folder, languages_of, license_of
from .clean_process import run_without_packages
from .contents import LEFT_OUT, check_contents, front_matter, kind_of, list_contents


Dtype = Literal["float32", "float16", "bfloat16"]
Onnx = Literal["fp32", "int8"]
# What a run leaves beside the weights that is worth publishing.
COPIED = ("pruning_plan.json", "report.png", "transfer.png")
# What transformers says in a tokenizer's file of where it had it from.
LOCAL_FIELDS = ("is_local", "local_files_only")
# Of the largest output: between this process and a clean one.
MAX_DIFFERENCE = 1e-4
_RUN = """
import json, sys, torch, transformers
folder, head, ids, base, labels = sys.argv[1], sys.argv[2], torch.tensor(json.loads(sys.argv[3])), *sys.argv[4:]
auto_class = getattr(transformers, "AutoModel" + head)
if base:
    from peft import PeftModel

    # The head is the adapter's, for labels of its own.
    options = {"num_labels": int(labels), "ignore_mismatched_sizes": True}
    model = auto_class.from_pretrained(base, trust_remote_code=True, **options)
    model = PeftModel.from_pretrained(model, folder)
else:
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    print(json.dumps(model.eval()(ids)[0].float().tolist()))
"""


def stage(
    source: str | Path,
    output_dir: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    languages: Sequence[str] | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    dtype: Dtype | None = None,
    max_shard_size: str = "5GB",
    onnx: Sequence[Onnx] = (),
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """
    Makes a complete repository of a model, an adapter or a Space on disk, without a network, and loads it in a process
    that does not have this package before it says done. Two runs write the same text, byte for byte.

    Args:
        source (`str` or `Path`):
            What `compress`, `transfer`, `finetune` or `adapt` left, or the folder of a Space. It is not changed.
        output_dir (`str` or `Path`):
            Where to write. Must not exist, or be empty; it appears when it is complete and has been loaded.
        repo_id (`str`):
            `namespace/name`: the card names it.
        license (`str`, *optional*):
            The Hub's identifier of the licence of the weights; the default is that of the base, where it is known.
        languages (list of `str`, *optional*):
            ISO codes; the default is those of the base, where they are known.
        base_model (`str`, *optional*):
            Repository of the base, where the folder's records name a folder. An adapter needs one.
        base_revision (`str`, *optional*):
            The commit of the base that an adapter is pinned to.
        dtype (`"float32"`, `"float16"` or `"bfloat16"`, *optional*):
            How weights are stored; the default is as they are. They are computed with in float32 all the same, which
            the configuration says: a processor is slow at half precision.
        max_shard_size (`str`, *optional*, defaults to `"5GB"`):
            Split the weights into files of at most this size.
        onnx (list of `"fp32"` and `"int8"`, *optional*):
            Put `onnx/model.onnx` (and `onnx/model_int8.onnx`) beside the weights, for classifiers.
        models (list of `str`, *optional*):
            Repositories that a Space uses: its front matter names them, and so does its variable `MODEL_ID`.

    Returns:
        `dict`: `kind`, `repo_id`, `files` (`path` and `bytes` of each) and `difference`, the largest one between this
        process's outputs and a clean one's, as a share of the largest output (`None` for a Space).

    Raises:
        ValueError: if the folder, an argument or the repository's name is wrong, the licence or the base is not known,
            something in the folder does not belong in a repository, or it does not load as it should.

    Example:

    ```python
    >>> from compactbert.hub import stage

    >>> report = stage("my-model", "staged", "me/my-model", license="apache-2.0", dtype="float16")
    >>> report["kind"], "modeling_smbert.py" in [file["path"] for file in report["files"]]
    ('model', True)

    ```
    """
    source, output_dir = Path(source), Path(output_dir)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`repo_id` must be `namespace/name`, got {repo_id!r}: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be `namespace/name`, got {repo_id!r}: put your user name before it.")
    if dtype is not None and dtype not in get_args(Dtype):
        raise ValueError(f"`dtype` must be one of {get_args(Dtype)}, got {dtype!r}.")
    if unknown := sorted(set(onnx) - set(get_args(Onnx))):
        raise ValueError(f"`onnx` must be of {get_args(Onnx)}, got {unknown}.")
    kind = kind_of(source)
    for name, value, kinds in (
        ("dtype", dtype, ("model",)),
        ("onnx", onnx, ("model",)),
        ("base_revision", base_revision, ("adapter",)),
        ("models", models, ("space",)),
    ):
        if value and kind not in kinds:
            raise ValueError(f"`{name}` is for {' and '.join(kinds)} repositories, and {str(source)!r} is a {kind}.")
    with new_folder(output_dir) as partial:
        difference = None
        if kind == "space":
            _write_space(source, partial, models)
        else:
            publication = _publication(source, repo_id, license, languages, base_model, base_revision)
            if kind == "model":
                difference = _write_model(source, partial, dtype, max_shard_size, onnx)
            else:
                difference = _write_adapter(source, partial, publication)
            _write_texts(source, partial, publication)
        check_contents(partial)
    return {"kind": kind, "repo_id": repo_id, "files": list_contents(output_dir), "difference": difference}


def _publication(
    source: Path,
    repo_id: str,
    license: str | None,
    languages: Sequence[str] | None,
    base_model: str | None,
    base_revision: str | None,
) -> Publication:
    """What the publisher says, completed by what is known of the base."""
    base = base_model or Folder.read(source).base
    known = license_of(base)
    if license is None and known is None:
        raise ValueError(
            f"`license` is needed: that of the base ({base or 'a folder'}) is not known here. Give one that the "
            f"licences of base and data allow, such as `apache-2.0`."
        )
    if languages is None:
        languages = languages_of(base)
    return Publication(repo_id, license or known, tuple(languages), base_model, base_revision)


def _write_model(source: Path, target: Path, dtype: Dtype | None, max_shard_size: str, onnx: Sequence[Onnx]) -> float:
    head = Folder.read(source).head
    model, tokenizer = load_pretrained(source, head.removeprefix("Model"), require_head=head != "Model")
    if dtype is not None:
        model.to(getattr(torch, dtype))
    model.save_pretrained(target, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(target)
    model.float()
    _edit_json(target / "config.json", {"dtype": "float32"})
    _forget_fields(target / "tokenizer_config.json")
    if onnx:
        exported = target / "exported"
        export_onnx(model, tokenizer, exported, int8=["dynamic"] if "int8" in onnx else [])
        (exported / "onnx").replace(target / "onnx")
        shutil.rmtree(exported)
    ids = _token_ids(model)
    if head == "ForMultipleChoice":
        ids = ids[None]
    with torch.no_grad():
        here = model.eval()(ids)[0]
    return _compare(here, _run_there(target, head.removeprefix("Model"), ids))


def _write_adapter(source: Path, target: Path, publication: Publication) -> float:
    read = Folder.read(source)
    base = publication.base_model or read.base
    assert read.adapter is not None
    named = read.adapter[BASE]
    if base is None:
        raise ValueError(
            f"`base_model` is needed: the adapter names its base by a folder ({Path(named).name!r}), which nobody else "
            f"has. Publish the base, and give its repository."
        )
    adapted: Any
    adapted, tokenizer = load_for_inference(source, read.head, trust_remote_code=True)
    # Where the copies that it is compared with run.
    base_of = adapted.to("cpu").get_base_model()
    ids = _token_ids(base_of)
    with torch.no_grad():
        here = adapted(ids)[0]
    for file in sorted(source.glob("adapter_*")):
        shutil.copy(file, target)
    tokenizer.save_pretrained(target)
    _forget_fields(target / "tokenizer_config.json")
    difference = None
    if read.record.get("needs_package"):
        # Loaded anew, while it names the base that is here: PEFT cannot take every adapter out of its base again.
        shutil.copy(source / "metrics.json", target)
        copied: Any = load_for_inference(target, read.head, trust_remote_code=True)[0]
        with torch.no_grad():
            difference = _compare(here, copied.to("cpu")(ids)[0])
    pinned = {BASE: base, "revision": publication.base_revision}
    _edit_json(target / ADAPTER_CONFIG_NAME, pinned)
    if difference is not None:
        return difference
    place = resolve_model("minilm" if read.record.get("base", {}).get("name") == "minilm" else named)
    there = _run_there(target, read.head, ids, str(place), str(base_of.config.num_labels))
    return _compare(here, there)


def _write_space(source: Path, target: Path, models: Sequence[str]) -> None:
    metadata = front_matter(source / "README.md")
    for name in ("title", "sdk", "app_file"):
        if not metadata.get(name):
            raise ValueError(f"The front matter of {str(source / 'README.md')!r} has no `{name}`, which a Space needs.")
    for name in (metadata["app_file"], "requirements.txt"):
        if not (source / name).is_file():
            raise ValueError(f"The Space {str(source)!r} has no {name!r}.")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    for file in target.rglob("*.py"):
        try:
            compile(file.read_text(encoding="utf-8"), file.name, "exec")
        except SyntaxError as error:
            raise ValueError(f"{file.relative_to(target).as_posix()!r} is no Python: {error}.") from error
    if models:
        text = (source / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
        header = yaml.safe_dump(metadata | {"models": list(models)}, sort_keys=False, allow_unicode=True)
        (target / "README.md").write_text(f"---\n{header}---\n{text}", encoding="utf-8")


def _write_texts(source: Path, target: Path, publication: Publication) -> None:
    """Records, pictures, licence, results and, last, the card, which tells of the rest."""
    for name in RECORDS:
        if (source / name).is_file():
            record = json.loads((source / name).read_text())
            record["settings"] = public_settings(record.get("settings", {}))
            if "task" in record["settings"]:
                record["task"] = record["settings"]["task"]
            if publication.base_model is not None and "base" in record:
                record["base"]["name"] = publication.base_model
            elif publication.base_model is not None:
                record["base_model"] = publication.base_model
            (target / name).write_text(json.dumps(record, indent=2) + "\n")
    for name in COPIED:
        if (source / name).is_file():
            shutil.copy(source / name, target)
    # In the metadata of an installation.
    licence = next(file for file in files("compactbert") or [] if file.name == "LICENSE").read_text()
    if publication.license != "apache-2.0":
        licence = (
            f"The weights are under {publication.license!r}, see README.md; the code (*.py) is under:\n\n{licence}"
        )
    (target / "LICENSE").write_text(licence)
    for name, text in evaluation_results(target).items():
        (target / ".eval_results").mkdir(exist_ok=True)
        (target / ".eval_results" / name).write_text(text)
    (target / "README.md").write_text(render_card(target, publication), encoding="utf-8")
    for file in target.iterdir():
        # transformers writes weights for the eyes of their owner alone.
        file.chmod(0o755 if file.is_dir() else 0o644)


def _edit_json(file: Path, fields: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields, indent=2, sort_keys=True) + "\n")


def _forget_fields(file: Path) -> None:
    known = json.loads(file.read_text())
    kept = {name: value for name, value in known.items() if name not in LOCAL_FIELDS}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _token_ids(model: PreTrainedModel) -> Tensor:
    """Two rows of tokens, the same every time."""
    config: Any = model.config
    length = min(12, config.max_position_embeddings)
    return torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))


def _run_there(folder: Path, head: str, ids: Tensor, base: str = "", num_labels: str = "") -> Tensor:
    try:
        printed = run_without_packages(_RUN, str(folder), head, json.dumps(ids.tolist()), base, num_labels)
    except RuntimeError as error:
        raise ValueError(f"The staged folder does not load where `compactbert` is not installed. {error}") from error
    return torch.tensor(json.loads(printed.splitlines()[-1]))


def _compare(here: Tensor, there: Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    difference = ((here - there).abs().max() / here.abs().max()).item()
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"The staged folder computes something else than its source: the outputs differ by {difference:.1e} of the "
            f"largest, at most {MAX_DIFFERENCE} is allowed. Was its code or configuration edited?"
        )
    return difference


__all__ = ["stage"]
