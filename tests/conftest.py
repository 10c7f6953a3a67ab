import gc
import importlib
import json
import os
import shutil
from pathlib import Path

import pytest


UPSTREAM_MARKERS = ["accelerate_tests", "slow", "torch_compile_test"]
UPSTREAM_MARKERS += [f"flash_attn{version}_test" for version in ("", "_2", "_3", "_4")]

# Two workers with a thread each: with more, torch's threads wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before transformers is imported: nothing here may reach a Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


# Begin with these: a worker that takes a long file last works on alone.
LONGEST = ("modeling", "adapters", "remote_code", "examples", "publishing", "progressive", "finetuning", "recipes")
SPACE = "---\ntitle: Reviews\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\nlicense: apache-2.0\n---\n"
STUDENT = {
    "model_type": "mobilebert_md",
    "hidden_size": 64,
    "embedding_size": 32,
    "intra_bottleneck_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def pytest_configure(config):
    # The marks of transformers' common tests (test_upstream.py), which its source distribution does not declare.
    for marker in UPSTREAM_MARKERS:
        config.addinivalue_line("markers", f"{marker}: a mark of transformers' common tests")


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish():
    # Every run of a Trainer collects garbage, a third of a second among all that has been imported.
    gc.freeze()


@pytest.fixture(scope="session")
def minilm_tokenizer():
    from transformers import AutoTokenizer

    from compactbert.convert import minilm_path

    return AutoTokenizer.from_pretrained(minilm_path())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, minilm_tokenizer):
    """Folder of a tiny SmBERT with the real vocabulary, quick to fine-tune."""
    from families import build

    folder = tmp_path_factory.mktemp("tiny") / "model"
    build("smbert-uneven", vocab_size=len(minilm_tokenizer), max_position_embeddings=64).save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_reviews(tmp_path_factory):
    """A csv file that a tiny model can learn: the label is whether the text says "good"."""
    words = ["film", "actor", "story", "music", "ending"]
    rows = [f"{words[i % 5]} is {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(200)]
    path = tmp_path_factory.mktemp("shared") / "reviews.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def reviews(shared_reviews, tmp_path):
    """A copy of the reviews where a test writes."""
    return Path(shutil.copy(shared_reviews, tmp_path))


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory, tiny_model, shared_reviews):
    """Folder of the tiny model after it has learnt the reviews."""
    from runs import FINETUNING

    import compactbert

    folder = tmp_path_factory.mktemp("finetuned") / "model"
    compactbert.finetune(tiny_model, str(shared_reviews), folder, **FINETUNING)
    return folder


@pytest.fixture(scope="module")
def load_benchmark():
    """Imports a benchmark by its name, as where it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub double on localhost."""
    from hub_server import hub_server

    with hub_server(tmp_path_factory.mktemp("homes")) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, and what expects something of its pages."""
    from pages import CHROMIUM, CHROMIUM_ARGUMENTS, PATIENCE

    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=CHROMIUM_ARGUMENTS)
        sync_api.expect.set_options(timeout=PATIENCE)
        yield made, sync_api.expect
        made.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory, minilm_tokenizer):
    """What a user has who works with tiny models: some of each kind, a table, texts, a Space."""
    import compactbert
    from compactbert.data import build_corpus
    from compactbert.training import ib_teacher
    from modeling_smbert import SmBertConfig, SmBertForPreTraining

    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "attention_head_size": 16}
    sizes |= {"vocab_size": len(minilm_tokenizer), "intermediate_size": 128, "max_position_embeddings": 64}
    rows = [f"the film is {'good' if i % 2 else 'bad'} {i % 7},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.chdir(home)
        SmBertForPreTraining(SmBertConfig(**sizes)).save_pretrained("my-bert")
        minilm_tokenizer.save_pretrained("my-bert")
        (home / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        (home / "texts.txt").write_text("\n\n".join(f"This is text {i}. Here is its end." for i in range(40)))
        (home / "student.json").write_text(json.dumps(STUDENT))
        compactbert.finetune("my-bert", "reviews.csv", "my-model", epochs=1, max_length=32)
        compactbert.adapt("my-model", "reviews.csv", "my-adapter", epochs=1, max_length=32)
        build_corpus("texts.txt", minilm_tokenizer, "my-corpus", sequence_length=32, held_out=0)
        ib_teacher("my-bert", "my-corpus", "my-teacher", feature_map_size=64, embedding_size=32, max_steps=1)
        (home / "my-space").mkdir()
        (home / "my-space" / "README.md").write_text(SPACE)
        (home / "my-space" / "app.py").write_text("import gradio\n")
        (home / "my-space" / "requirements.txt").write_text("transformers>=5.20\n")
    return home
