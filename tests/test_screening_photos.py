"""Photographs: read with care, kept without what their files tell, compared by a model that the environment names."""

import io
import struct
import zlib

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import numpy as np
import torch
from PIL import Image
from transformers import MobileViTConfig, MobileViTImageProcessorPil, MobileViTModel

from screening.database import Database
from screening.lists import Entry
from screening.matching import Customer
from screening.photos import (
    KEPT_SIDE,
    MAX_PHOTO_BYTES,
    attach_photo,
    describe_photos,
    load_photo_model,
    photos_of,
    read_photo,
)
from screening.review import ReviewError, get_alert, read_audit
from screening.store import import_list, save_customers


def picture(seed=0, size=(96, 64), kind="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_is_kept_small_and_as_a_jpeg(kind):
    kept = opened(read_photo(picture(size=(1500, 900), kind=kind)))
    assert (kept.format, kept.mode, kept.size) == ("JPEG", "RGB", (KEPT_SIDE, 307))


def test_the_place_where_it_was_taken_is_not_kept():
    exif = Image.Exif()
    exif[0x0110] = "a telephone"
    # Turned by a quarter: it is kept upright.
    exif[0x0112] = 6
    given = picture(kind="JPEG", exif=exif, comment=b"secret")
    kept = read_photo(given)
    assert opened(kept).size == (64, 96)
    assert len(opened(given).getexif()) == 2
    assert len(opened(kept).getexif()) == 0
    assert b"telephone" not in kept
    assert b"secret" not in kept


def bomb(side):
    """A PNG of a few bytes that unpacks to `side` x `side` pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a picture", "another or a broken file"),
        (picture()[:200], "another or a broken file"),
        (picture(kind="GIF"), "another or a broken file"),
        (picture(kind="TIFF"), "another or a broken file"),
        (bomb(10_000), "got 10000 x 10000"),
        (bomb(60_000), "another or a broken file"),
        (picture(size=(20, 200)), "at least 32"),
        (b"\0" * (MAX_PHOTO_BYTES + 1), "at most 8 MiB"),
    ],
    ids=["text", "cut off", "gif", "tiff", "bomb", "larger bomb", "narrow", "large"],
)
def test_what_is_no_photograph_is_refused_before_it_is_unpacked(data, message):
    with pytest.raises(ValueError, match=message):
        read_photo(data)


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/screening.db")
    import_list(made, [Entry("own", "1", "person", ("KARPOV, Pavel",))], officer="setup")
    save_customers(made, [Customer("c1", "Pavel Karpov")], officer="setup")
    return made


def test_both_sides_have_a_photograph_and_the_log_holds_none(database):
    for side, seed in (("customer", 0), ("list", 1), ("customer", 2)):
        attach_photo(database, 1, side, picture(seed), officer="anna")
    found = photos_of(database, get_alert(database, 1))
    assert found == {"customer": read_photo(picture(2)), "list": read_photo(picture(1))}
    attach_photo(database, 1, "customer", b"", officer="bob")
    assert list(photos_of(database, get_alert(database, 1))) == ["list"]
    lines = [(line["who"], line["action"], line["subject"]) for line in read_audit(database)[:2]]
    assert lines == [
        ("bob", "photograph removed", "customer c1"),
        ("anna", "photograph attached", "customer c1"),
    ]
    assert {str(line["details"]) for line in read_audit(database)[:4]} == {"{}"}
    with pytest.raises(ReviewError, match="`side`"):
        attach_photo(database, 1, "nobody", picture(), officer="anna")
    with pytest.raises(ValueError, match="broken file"):
        attach_photo(database, 1, "list", b"x", officer="anna")
    assert list(photos_of(database, get_alert(database, 1))) == ["list"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    torch.manual_seed(0)
    shape = {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 24], "num_attention_heads": 2}
    network = MobileViTModel(MobileViTConfig(**shape, image_size=64))
    # As after training: each layer hands on numbers of an ordinary size.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()(torch.rand(8, 3, 64, 64))
    network.save_pretrained(tmp_path / "model")
    size = {"height": 64, "width": 64}
    MobileViTImageProcessorPil(size=size, do_center_crop=False).save_pretrained(tmp_path / "model")
    monkeypatch.setenv("SCREENING_PHOTO_MODEL", str(tmp_path / "model"))
    return load_photo_model()


def test_photographs_are_compared_by_their_embeddings(model):
    first, second = read_photo(picture(0)), read_photo(picture(1, size=(200, 300)))
    assert np.linalg.norm(model.embed(first)) == pytest.approx(1.0)
    assert model.compare(first, first) == pytest.approx(1.0)
    assert model.compare(first, second) == pytest.approx(model.compare(second, first))
    assert model.compare(first, second) < 0.9999
    said = describe_photos({"customer": first, "list": second}, model)
    assert said.startswith(f"Cosine {model.compare(first, second):.3f} [{model.version}]. Advice only")
    assert "both sides" in describe_photos({"list": second}, model)


def test_without_a_model_the_page_says_so(monkeypatch):
    monkeypatch.delenv("SCREENING_PHOTO_MODEL", raising=False)
    assert load_photo_model() is None
    assert "none comes with this Space" in describe_photos({}, None)
