"""Adapters on a task: a small repository that goes with its base, or a plain model with the adapter merged in."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, PromptLearningConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..adapters import adapter_config, get_peft_model
from ..adapters.loading import fingerprint
from ..convert import CONVERTIBLE, MINILM_ON_HUB, resolve_model
from ..structure import ADAPTER_HEADS
from .run import Precision, ResumableTrainer, TrainingRun, save_folder, train_on_task


TRAINABLE = "trainable.safetensors"
# Of matrices that begin at zero, and of prompts, whose gradients are small.
LEARNING_RATE, PROMPT_LEARNING_RATE = 1e-3, 1e-2
# These need more than a batch of a task: the number of a task, other adapters, a decoder.
NOT_FOR_A_TASK = ("adaption-prompt", "cartridge", "cpt", "multitask-prompt-tuning", "poly", "shadow", "xlora")


def adapt(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    method: str = "lora",
    options: Mapping[str, Any] | None = None,
    merge: bool = False,
    data_dir: str | Path | None = None,
    epochs: float = 3.0,
    learning_rate: float | None = None,
    batch_size: int = 32,
    max_length: int = 128,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    early_stopping: int | None = None,
    precision: Precision = "auto",
    seed: int = 42,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Trains an adapter (and the task's head) on a frozen model and leaves an adapter repository: PEFT's files, the
    tokenizer, `metrics.json` and a card. [`evaluate`] and [`predict`] take it as a model.

    A run that was killed continues as in [`finetune`]. AdaLoRA's running averages are not kept: it continues, but not
    to the same weights.

    Args:
        model (`str` or `Path`), task (`str`), output_dir (`str` or `Path`):
            As in [`finetune`]. The adapter names its base as `model` does, so give a path that will last.
        method (`str`, *optional*, defaults to `"lora"`):
            A name from [`~compactbert.adapters.list_methods`], or prompts joined by a plus, `"prompt+p-tuning"`.
        options (`dict`, *optional*):
            Fields of the method's configuration, such as `{"r": 16, "target_modules": ["query", "key"]}`.
        merge (`bool`, *optional*, defaults to `False`):
            Leave a plain model with the adapter merged into its weights.
        learning_rate (`float`, *optional*):
            Peak of AdamW's learning rate; the default is 1e-3, and 1e-2 for prompts and prefixes.
        data_dir, epochs, batch_size, max_length, max_steps, max_minutes, weight_decay, warmup, early_stopping:
            As in [`finetune`].
        precision, seed, trust_remote_code, task_options:
            As in [`finetune`].

    Returns:
        `dict`: What is written to `metrics.json`: as [`finetune`], with `parameters` (`trainable` and `full`, those of
        the whole model), `bytes` of the saved weights (likewise `adapter` and `full`) and `base`.

    Raises:
        ValueError: as [`finetune`]; for a method or options that there are not, that do not fit the model or the task,
            or for `merge` with a method that cannot be merged.

    Example:

    ```python
    >>> import compactbert

    >>> report = compactbert.adapt("my-model", "reviews.csv", "reviews-lora", method="lora", options={"r": 2}, epochs=1)
    >>> report["parameters"]["trainable"] < report["parameters"]["full"]
    True

    ```
    """
    methods, options = method.split("+"), dict(options or {})
    for name in methods:
        if name in NOT_FOR_A_TASK:
            raise ValueError(f"`method` {name!r} needs more than a task's rows: use it from Python, with PEFT.")
    # AdaLoRA asks for the number of steps, which are not known yet.
    configs = [adapter_config(name, **({"total_step": 1} if name == "adalora" else {}), **options) for name in methods]
    prompts = [config for config in configs if isinstance(config, PromptLearningConfig)]
    if learning_rate is None:
        learning_rate = PROMPT_LEARNING_RATE if prompts else LEARNING_RATE
    if merge and prompts:
        raise ValueError(f"`merge` needs a method that changes weights, and {method!r} adds tokens.")
    # Of the base, before anything is added to it.
    base: dict[str, Any] = {}
    full: dict[str, int] = {}

    def build_trainer(run: TrainingRun, loaded: PreTrainedModel) -> AdapterTrainer:
        virtual_tokens = sum(config.num_virtual_tokens for config in prompts if _adds_tokens(config))
        longest = loaded.config.max_position_embeddings - virtual_tokens
        if virtual_tokens and max_length > longest:
            raise ValueError(
                f"`max_length` ({max_length}) and {virtual_tokens} virtual tokens are longer than the model's "
                f"`max_position_embeddings` ({loaded.config.max_position_embeddings}): set `max_length` to {longest}."
            )
        base.update(
            {
                "name": str(model),
                "model_type": loaded.config.model_type,
                "fingerprint": fingerprint(loaded, run.new_weights),
                # As it comes back from a file.
                "config_fields": json.loads(json.dumps(run.task.config_fields())),
            }
        )
        footprint = loaded.get_memory_footprint(return_buffers=False)
        full.update(parameters=loaded.num_parameters(), bytes=int(footprint))
        # Whatever ran before, such as the measuring of a step, an adapter begins the same.
        set_seed(seed)
        adapted = _adapted(run, loaded, copy.deepcopy(configs))
        # PEFT would say where it was loaded from, which for `minilm` is a folder on this machine. A folder is told in
        # full: `zoo/smbert` would be somebody's repository on the Hub.
        if str(model) == "minilm":
            name = MINILM_ON_HUB
        else:
            name = str(Path(model).resolve() if Path(model).is_dir() else model)
        adapted.active_peft_config.base_model_name_or_path = name
        if merge:
            _merged(copy.deepcopy(adapted), method)
        return AdapterTrainer(adapted, TrainingArguments(**run.arguments), **run.trainer_arguments)

    def save(adapted: PeftModel, tokenizer: PreTrainedTokenizerBase, report: dict[str, Any], folder: Path) -> None:
        weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        report |= {
            "method": method,
            "parameters": {"trainable": trainable, "full": full["parameters"]},
            "bytes": {"adapter": sum(tensor.nbytes for tensor in weights.values()), "full": full["bytes"]},
            "base": base,
        }
        if merge:
            save_folder(_merged(adapted, method), tokenizer, report, folder)
        else:
            source = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
            renamed = source.model_type in CONVERTIBLE and CONVERTIBLE[source.model_type].renames
            alone = not renamed and _loads_without_package(adapted)
            report["needs_package"] = not alone
            # PEFT would look for a changed vocabulary in the base's configuration, which may be of another family.
            save_folder(adapted, tokenizer, report, folder, save_embedding_layers=False)

    return train_on_task(
        model,
        task,
        output_dir,
        build_trainer,
        {"method": method, "options": options, "merge": merge},
        made_by=adapt,
        save=save,
        data_dir=data_dir,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        max_steps=max_steps,
        max_minutes=max_minutes,
        weight_decay=weight_decay,
        warmup=warmup,
        early_stopping=early_stopping,
        precision=precision,
        seed=seed,
        trust_remote_code=trust_remote_code,
        **task_options,
    )


def _adds_tokens(config: PeftConfig) -> bool:
    """Whether an input gets longer; a prefix has no positions."""
    return isinstance(config, PromptLearningConfig) and config.peft_type != "PREFIX_TUNING"


def _adapted(run: TrainingRun, loaded: PreTrainedModel, configs: list[PeftConfig]) -> PeftModel:
    """The model of a run with a new adapter."""
    task_type = next(name for name, head in ADAPTER_HEADS.items() if head == run.task.head)
    for config in configs:
        if task_type == "TOKEN_CLS" and _adds_tokens(config):
            raise ValueError("Prompts are tokens without labels, which PEFT does not tell apart: use `prefix` here.")
        config.task_type = task_type
        # PEFT adds the head by itself.
        if any(".pooler." in name for name in run.new_weights):
            config.modules_to_save = [*(config.modules_to_save or ()), "pooler"]  # type: ignore[attr-defined]
        if config.peft_type == "ADALORA":
            config.total_step = run.arguments["max_steps"]  # type: ignore[attr-defined]
            # The ranks that are kept are those of the last step.
            run.arguments["load_best_model_at_end"] = False
    return get_peft_model(loaded, configs if len(configs) > 1 else configs[0])  # type: ignore[arg-type]


def _merged(adapted: PeftModel, method: str) -> PreTrainedModel:
    try:
        return adapted.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ValueError(f"`merge` is not possible with the method {method!r}: {error}") from error


class AdapterTrainer(ResumableTrainer):
    """Keeps what is trained, as it is: PEFT's files hold a prompt without the network that makes it."""

    def __init__(self, model: PeftModel, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        if model.peft_type == "ADALORA":
            self.add_callback(_AllocateRanks())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self._trained().items()}, folder / TRAINABLE)

    def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / TRAINABLE)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(stored[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _trained(self) -> dict[str, torch.Tensor]:
        model: Any = self.model
        return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


class _AllocateRanks(TrainerCallback):
    """What AdaLoRA does between the optimizer's step and the next."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step)


def _loads_without_package(adapted: PeftModel) -> bool:
    """Whether PEFT has the method, for such layers."""
    peft_type = adapted.active_peft_config.peft_type
    if peft_type == PeftType.GLORA:
        return getattr(adapted.config, "normalization_type", "layer_norm") != "no_norm"
    if peft_type == PeftType.PREFIX_TUNING:
        return not getattr(adapted.config, "is_heterogeneous", False)
    return peft_type in list(PeftType)


__all__ = ["AdapterTrainer", "adapt"]
