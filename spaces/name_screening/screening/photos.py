"""Photographs of customers and listed persons: read with care, and compared by the model that the environment names."""

import io
import os
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from sqlalchemy import delete, insert, select

from .database import Database, now, photos, record
from .matching import RULES_VERSION
from .review import ReviewError, get_alert
from .store import NO_MODEL


PHOTO_VARIABLE = "SCREENING_PHOTO_MODEL"
# Of a file as it comes, and of the picture in it: a small file may unpack to one that fills the memory.
MAX_PHOTO_BYTES = 8 << 20
MAX_PIXELS = 40_000_000
MIN_SIDE, KEPT_SIDE = 32, 512
FORMATS = ("JPEG", "PNG", "WEBP")
CUSTOMER, ENTRY = "customer", "list"
SIDES = (CUSTOMER, ENTRY)


def read_photo(data: bytes) -> bytes:
    """
    A photograph as it is kept: upright, small, a JPEG, and without the place and device that its file told.

    Args:
        data (`bytes`): A JPEG, PNG or WebP file.

    Raises:
        ValueError: for anything else, or one that is too large or too small.
    """
    if len(data) > MAX_PHOTO_BYTES:
        raise ValueError(f"A photograph has at most {MAX_PHOTO_BYTES >> 20} MiB, got {len(data) / (1 << 20):.1f}.")
    try:
        with warnings.catch_warnings():
            # Sizes are checked here, before anything is unpacked.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
            raise ValueError(
                f"A photograph has a side of at least {MIN_SIDE} and at most {MAX_PIXELS:,} pixels, got "
                f"{width} x {height}."
            )
        image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))
        image = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected a photograph as {', '.join(FORMATS)}, got another or a broken file.") from error
    image.thumbnail((KEPT_SIDE, KEPT_SIDE))
    kept = io.BytesIO()
    # A copy of the picture alone: what else the file held stays behind.
    Image.fromarray(np.asarray(image)).save(kept, "JPEG", quality=90)
    return kept.getvalue()


class PhotoModel:
    """
    Compares photographs by the embedding of a MobileViT.

    Args:
        path (`str`): Folder or Hub id of a model that `MobileViTModel` loads, with its image processor.
    """

    def __init__(self, path: str):
        # Heavy, and not among what the Space installs: only who sets a model needs it.
        import torch
        from transformers import MobileViTImageProcessorPil, MobileViTModel

        self.torch: Any = torch
        self.processor = MobileViTImageProcessorPil.from_pretrained(path)
        self.model = MobileViTModel.from_pretrained(path).eval()
        self.version = f"{path}@{getattr(self.model.config, '_commit_hash', None) or 'local'}"

    def embed(self, photo: bytes) -> np.ndarray:
        """The direction of a photograph's embedding."""
        image = Image.open(io.BytesIO(photo), formats=FORMATS).convert("RGB")
        with self.torch.inference_mode():
            pooled = self.model(**self.processor(images=image, return_tensors="pt")).pooler_output[0].double().numpy()
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)

    def compare(self, first: bytes, second: bytes) -> float:
        """How alike two photographs are to the model: the cosine, at most 1."""
        return float(self.embed(first) @ self.embed(second))


def load_photo_model() -> PhotoModel | None:
    """The model that `SCREENING_PHOTO_MODEL` names; `None` where it names none: then nothing is compared."""
    path = os.environ.get(PHOTO_VARIABLE, "")
    return PhotoModel(path) if path else None


def key_of(alert: dict[str, Any], side: str) -> str:
    """Whose photograph it is: the customer's, or the entry's, whatever their alerts."""
    return alert["customer_id"] if side == CUSTOMER else f"{alert['list_name']}/{alert['source_id']}"


def attach_photo(database: Database, alert_id: int, side: str, data: bytes, *, officer: str) -> None:
    """
    Keeps a photograph of one side of an alert in place of the former one. The log says that, and holds no photograph.

    Args:
        database ([`Database`]): Where the alert is.
        alert_id (`int`): The alert.
        side (`str`): `"customer"` or `"list"`.
        data (`bytes`): A JPEG, PNG or WebP file; nothing takes the photograph away.
        officer (`str`): Who attaches it.

    Raises:
        ReviewError: if there is no such alert or side.
        ValueError: if it is not a photograph.
    """
    if side not in SIDES:
        raise ReviewError(f"The `side` must be one of {list(SIDES)}, got {side!r}.")
    key = key_of(get_alert(database, alert_id), side)
    kept = read_photo(data) if data else None
    with database.writing() as connection:
        connection.execute(delete(photos).where(photos.c.side == side, photos.c.key == key))
        if kept:
            connection.execute(insert(photos).values(side=side, key=key, content=kept, added_at=now()))
        action = "photograph attached" if kept else "photograph removed"
        record(
            connection,
            officer,
            action,
            f"{side} {key}",
            "",
            rules_version=RULES_VERSION,
            model_version=NO_MODEL,
            alert_id=alert_id,
        )


def photos_of(database: Database, alert: dict[str, Any]) -> dict[str, bytes]:
    """The photographs of an alert's sides that there are."""
    found = {}
    with database.reading() as connection:
        for side in SIDES:
            query = select(photos.c.content).where(photos.c.side == side, photos.c.key == key_of(alert, side))
            if content := connection.execute(query).scalar():
                found[side] = content
    return found


def describe_photos(found: dict[str, bytes], model: PhotoModel | None) -> str:
    """What a comparison of both photographs says, in words."""
    if model is None:
        return f"No model compares photographs: none comes with this Space ({PHOTO_VARIABLE} names one)."
    if len(found) < len(SIDES):
        return "Attach a photograph to both sides to compare them."
    likeness = model.compare(found[CUSTOMER], found[ENTRY])
    return f"Cosine {likeness:.3f} [{model.version}]. Advice only: it clears nothing, and what it means is the model's."


__all__ = ["PhotoModel", "attach_photo", "describe_photos", "load_photo_model", "photos_of", "read_photo"]
