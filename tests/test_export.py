import copy
import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from families import build, perturb

import compactbert
from compactbert.inference import export, export_onnx, fuse
from compactbert.inference.onnx import FILES, OnnxClassifier
from compactbert.inference.onnx_export import RUNTIME_OF, _check, _quantize, _weight_bits
from compactbert.training.quantization import emulate_int8


FAMILIES = ("mobilebert_md-stages", "smbert-uneven")
TEXTS = ["a good film", "a bad film about nothing at all", "it is what it is", "yes"]


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory, minilm_tokenizer):
    """A model, and its export in all kinds."""
    model = build(request.param, "ForSequenceClassification", vocab_size=len(minilm_tokenizer))
    folder = tmp_path_factory.mktemp("export") / "model"
    rows = [dict(minilm_tokenizer(text)) for text in TEXTS]
    report = export_onnx(model, minilm_tokenizer, folder, int8=["dynamic", "static"], calibration=rows)
    return model, folder, report


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 9), (5, 40)])
def test_the_export_computes_the_same_for_any_shape(exported, shape):
    model, folder, _ = exported
    ids = torch.randint(1, 1000, shape)
    mask = torch.ones_like(ids)
    mask[0, max(1, shape[1] // 2) :] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    session = onnxruntime.InferenceSession(str(folder / FILES["onnx"]))
    found = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_what_is_not_given_is_as_in_transformers(exported):
    """Every token is attended to, and of the first segment."""
    model, folder, _ = exported
    ids = torch.randint(1, 1000, (2, 7))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    found = OnnxClassifier(folder, model.config, "onnx")(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_int8_is_smaller_and_close(exported, minilm_tokenizer):
    model, folder, report = exported
    batch = minilm_tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
    sizes = report["bytes"]
    for runtime, bound in (("onnx-int8", 0.05), ("onnx-int8-static", 0.25)):
        assert sizes[FILES[runtime]] < 0.4 * sizes[FILES["onnx"]]
        found = OnnxClassifier(folder, model.config, runtime)(**batch).logits
        assert (found - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.skipif(_weight_bits() == 7, reason="int8 weights have 7 bits on a processor without VNNI")
def test_int8_is_what_training_emulates(exported, minilm_tokenizer):
    model, folder, _ = exported
    batch = minilm_tokenizer(TEXTS, padding=True, return_tensors="pt")
    emulated = copy.deepcopy(model)
    emulate_int8(emulated)
    found = OnnxClassifier(folder, model.config, "onnx-int8")(**batch).logits
    with torch.no_grad():
        exact, expected = model(**batch).logits, emulated(**batch).logits
    # NoNorm is within the exported weights, and so rounded with them.
    bound = 1e-4 if model.config.model_type == "smbert" else 1.0
    assert (found - expected).abs().max() < bound * (found - exact).abs().max()


def test_static_int8_keeps_the_sums(exported):
    """Products of weights alone take int8, and give float32."""
    _, folder, _ = exported
    graph = onnx.load(folder / FILES["onnx-int8-static"]).graph
    made_by = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    rounding = [tuple(made_by[name].op_type == "DequantizeLinear" for name in node.input[:2]) for node in products]
    assert set(rounding) == {(True, True), (False, False)}
    # Attention's own two in each of the three layers.
    assert rounding.count((False, False)) == 6
    rounded = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    assert rounded.isdisjoint(node.output[0] for node in products)


@pytest.mark.parametrize(("vnni", "largest"), [(True, 127), (False, 64)])
def test_weights_have_7_bits_without_vnni(exported, minilm_tokenizer, tmp_path, monkeypatch, vnni, largest):
    _, folder, _ = exported
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: vnni)
    (tmp_path / "onnx").mkdir()
    shutil.copy(folder / FILES["onnx"], tmp_path / FILES["onnx"])
    rows = [dict(minilm_tokenizer(text)) for text in TEXTS]
    for kind in ("dynamic", "static"):
        _quantize(tmp_path, kind, minilm_tokenizer, rows)
        graph = onnx.load(tmp_path / FILES[RUNTIME_OF[kind]]).graph
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        weights = [array.astype(int) for array in arrays if array.dtype == np.int8 and array.ndim == 2]
        assert max(abs(array).max() for array in weights) == largest


def test_the_folder_is_whole(exported):
    model, folder, report = exported
    assert json.loads((folder / "export.json").read_text()) == report
    assert report["max_error"] <= 1e-5
    assert model.config.architectures is None
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert set(report["files"]) <= set(files)
    assert {"config.json", "tokenizer.json"} <= set(files)
    assert not list(folder.parent.glob("*.new"))


def test_an_export_that_computes_something_else_is_refused(exported):
    model, folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / FILES["onnx"]))
    with pytest.raises(ValueError, match=r"differs from the original by .* of its largest output, over 1e-05"):
        _check(fuse(perturb(copy.deepcopy(model))), session)


def test_what_cannot_be_exported(tmp_path, minilm_tokenizer, monkeypatch):
    model = build("smbert-uneven", "ForSequenceClassification", vocab_size=len(minilm_tokenizer))
    with pytest.raises(ValueError, match="`to` must be 'onnx', got 'tflite'"):
        export("nowhere", tmp_path / "out", to="tflite")
    with pytest.raises(ValueError, match="`int8` must be of"):
        export_onnx(model, minilm_tokenizer, tmp_path / "out", int8=["int4"])
    with pytest.raises(ValueError, match=r"needs `calibration`.* from a `task` \(`--task`\)"):
        export_onnx(model, minilm_tokenizer, tmp_path / "out", int8=["static"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ValueError, match="exists"):
        export_onnx(model, minilm_tokenizer, tmp_path / "taken")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"compactbert\[onnx\]"):
        export_onnx(model, minilm_tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_nothing(tmp_path, minilm_tokenizer, monkeypatch):
    model = build("smbert-uneven", "ForSequenceClassification", vocab_size=len(minilm_tokenizer)).bfloat16()
    monkeypatch.setattr("compactbert.inference.onnx_export._trace", lambda fused: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_onnx(model, minilm_tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    # Exported in float32, but not changed.
    assert model.dtype == torch.bfloat16


def test_a_runtime_without_its_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no 'onnx/model.onnx' for the runtime 'onnx'"):
        OnnxClassifier(tmp_path, build("smbert-uneven").config, "onnx")


def test_a_fine_tuned_folder_runs_in_every_runtime(tiny_model, reviews, tmp_path):
    compactbert.finetune(tiny_model, str(reviews), tmp_path / "model", max_steps=4, precision="fp32")
    report = export(tmp_path / "model", tmp_path / "onnx", int8=["dynamic"], task=str(reviews), rows=8)
    assert set(report["files"]) == {FILES["onnx"], FILES["onnx-int8"]}
    texts = ["film is good", "story is bad and long", "music"]
    plain = compactbert.predict(tmp_path / "model", texts)
    accuracy = compactbert.evaluate(tmp_path / "model", task=str(reviews))["metrics"]["accuracy"]
    for folder, runtime, close in (("model", "fused", 1e-5), ("onnx", "onnx", 1e-5), ("onnx", "onnx-int8", 0.05)):
        rows = compactbert.predict(tmp_path / folder, texts, runtime=runtime)
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in plain], abs=close)
        scores = compactbert.evaluate(tmp_path / folder, task=str(reviews), runtime=runtime)
        assert scores["metrics"]["accuracy"] == pytest.approx(accuracy, abs=close)
    with pytest.raises(ValueError, match="compactbert export"):
        compactbert.predict(tmp_path / "onnx", texts, runtime="onnx-int8-static")
    with pytest.raises(ValueError, match="`runtime` must be one of"):
        compactbert.predict(tmp_path / "model", texts, runtime="tensorrt")
    with pytest.raises(ValueError, match="Cannot load"):
        compactbert.predict(tmp_path / "nowhere", texts, runtime="onnx")
