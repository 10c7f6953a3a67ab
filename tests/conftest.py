import os

import pytest


UPSTREAM_MARKERS = ["accelerate_tests", "torch_compile_test"]
UPSTREAM_MARKERS += [f"flash_attn{version}_test" for version in ("", "_2", "_3", "_4")]

# Before transformers is imported: nothing here may reach a Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def pytest_configure(config):
    # The marks of transformers' common tests (test_upstream.py), which its source distribution does not declare.
    for marker in UPSTREAM_MARKERS:
        config.addinivalue_line("markers", f"{marker}: a mark of transformers' common tests")


@pytest.fixture(scope="session")
def minilm_tokenizer():
    from transformers import AutoTokenizer

    from compactbert.convert import minilm_path

    return AutoTokenizer.from_pretrained(minilm_path())
