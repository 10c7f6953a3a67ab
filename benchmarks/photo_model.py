"""Trains a small MobileViT on CIFAR-10 with CutMix and the augmentation of DeiT: `benchmarks/photo_model.json`.

    python benchmarks/photo_model.py run --data-dir DATA --output OUT --steps 350
    python benchmarks/photo_model.py show

It shows that the recipe learns. It is no model of faces, and none comes with the Space.
"""

import io
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image, ImageEnhance
from results import Results
from torch.nn import functional
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTImageProcessorPil,
    Trainer,
    TrainingArguments,
    default_data_collator,
)


RESULTS = Results(__file__)
SEED = 0
# Of the pictures as they are, and as the model takes them.
SIDE, MODEL_SIDE = 32, 64
SHAPES = {
    # MobileViT-XS and XXS as published, and one for machines without an accelerator.
    "xs": {"hidden_sizes": [96, 120, 144], "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 384]},
    "xxs": {
        "hidden_sizes": [64, 80, 96],
        "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320],
        "expand_ratio": 2.0,
    },
    "tiny": {
        "hidden_sizes": [32, 48, 64],
        "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 192],
        "expand_ratio": 2.0,
    },
}
PADDING, JITTER = 4, 0.3
ERASED, ERASED_AREA = 0.25, (0.02, 0.2)
CUTMIX = 0.5
SMOOTHING = 0.1
app = typer.Typer()


class Pictures(torch.utils.data.Dataset):
    """CIFAR's pictures and labels, cut, turned, coloured and erased anew each time where they are to be learned."""

    def __init__(self, file: Path, processor: MobileViTImageProcessorPil, augment: bool, names: list[str]):
        table = pd.read_parquet(file)
        self.images = [Image.open(io.BytesIO(data)).convert("RGB") for data in table["image_jpeg"]]
        self.labels = [names.index(str(label)) for label in table["label"]]
        self.processor = processor
        self.random = np.random.default_rng(SEED) if augment else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> dict:
        image = self.images[place]
        if self.random is None:
            pixels = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        else:
            image = jittered(cropped(image, self.random), self.random)
            pixels = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
            erase(pixels, self.random)
        return {"pixel_values": pixels, "labels": self.labels[place]}


def cropped(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of the picture with a margin around it, and half of the time its mirror image."""
    padded = Image.fromarray(np.pad(np.asarray(image), ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), "reflect"))
    left, top = random.integers(0, 2 * PADDING + 1, 2).tolist()
    image = padded.crop((left, top, left + image.width, top + image.height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def jittered(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """The picture brighter or darker, with more or less contrast and colour."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(1 + random.uniform(-JITTER, JITTER))
    return image


def erase(pixels: torch.Tensor, random: np.random.Generator) -> None:
    """Fills a rectangle with noise, sometimes."""
    if random.random() < ERASED:
        top, bottom, left, right = rectangle(pixels.shape[-2:], random.uniform(*ERASED_AREA), random)
        pixels[:, top:bottom, left:right] = torch.rand(pixels.shape[0], bottom - top, right - left)


def rectangle(shape: torch.Size, area: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a part of this share of a picture, anywhere in it and cut off at its edges."""
    height, width = shape
    tall, wide = height * area**0.5, width * area**0.5
    y, x = random.uniform(0, height), random.uniform(0, width)
    top, left = max(0, round(y - tall / 2)), max(0, round(x - wide / 2))
    return top, min(height, round(y + tall / 2)), left, min(width, round(x + wide / 2))


class CutMix:
    """
    Makes a batch; half of the time with a rectangle of another picture in each, whose label counts by its area.

    Args:
        labels (`int`): How many there are.
    """

    def __init__(self, labels: int):
        self.labels = labels
        self.random = np.random.default_rng(SEED)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        labels = functional.one_hot(torch.tensor([row["labels"] for row in rows]), self.labels).float()
        labels = labels * (1 - SMOOTHING) + SMOOTHING / self.labels
        if self.random.random() < CUTMIX:
            other = torch.from_numpy(self.random.permutation(len(rows)))
            top, bottom, left, right = rectangle(pixels.shape[-2:], self.random.random(), self.random)
            pixels[:, :, top:bottom, left:right] = pixels[other, :, top:bottom, left:right]
            share = (bottom - top) * (right - left) / (pixels.shape[-1] * pixels.shape[-2])
            labels = labels * (1 - share) + labels[other] * share
        return {"pixel_values": pixels, "labels": labels}


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    output: Annotated[Path, typer.Option()],
    shape: Annotated[Literal["xs", "xxs", "tiny"], typer.Option()] = "tiny",
    steps: Annotated[int, typer.Option()] = 350,
    batch: Annotated[int, typer.Option()] = 64,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
):
    torch.manual_seed(SEED)
    files = {split: data_dir / "cifar10_12k" / f"{split}.parquet" for split in ("train", "test")}
    names = sorted(map(str, pd.read_parquet(files["train"], columns=["label"])["label"].unique()))
    # As large as it comes, the whole picture: CIFAR's have no margin to cut off.
    size = {"height": MODEL_SIDE, "width": MODEL_SIDE}
    processor = MobileViTImageProcessorPil(size=size, do_center_crop=False, do_flip_channel_order=False)
    config = MobileViTConfig(
        **SHAPES[shape],
        image_size=MODEL_SIDE,
        id2label=dict(enumerate(names)),
        # Of what transformers starts with, 0.02, hardly anything comes through so narrow layers.
        initializer_range=0.1,
    )
    model = MobileViTForImageClassification(config)
    train, test = (Pictures(file, processor, split == "train", names) for split, file in files.items())
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=output / "checkpoints",
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 20,
            weight_decay=0.05,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            seed=SEED,
        ),
        data_collator=CutMix(len(names)),
        train_dataset=train,
        compute_loss_func=lambda outputs, labels, **_: functional.cross_entropy(outputs.logits, labels),
    )
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    trainer.save_model(output)
    processor.save_pretrained(output)
    trainer.data_collator = default_data_collator
    predicted = trainer.predict(test).predictions.argmax(1)
    result = {
        "parameters": model.num_parameters(),
        "pictures": len(train),
        "steps": steps,
        "batch": batch,
        "side": MODEL_SIDE,
        "accuracy": float((predicted == np.array(test.labels)).mean()),
        "test_pictures": len(test),
        "train_seconds": seconds,
    }
    RESULTS.record(("runs", f"{shape}, {steps} steps"), result)
    show()


def render(results: dict) -> str:
    """The table in the Space's README."""
    head = ("MobileViT", "parameters", "pictures", "accuracy", "test pictures", "seconds of a processor")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, made in results["runs"].items():
        cells = (name, f"{made['parameters']:,}", f"{made['pictures']:,}", f"{made['accuracy']:.1%}")
        cells += (f"{made['test_pictures']:,}", f"{made['train_seconds']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
