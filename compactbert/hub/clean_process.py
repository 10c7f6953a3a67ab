"""What strangers meet: a saved folder, in a Python that does not have this package."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


PACKAGES = ("compactbert", "modeling_mobilebert_md", "modeling_smbert")

# Runs before the code: from here on, importing one of our packages fails as if it were not installed.
BLOCK_PACKAGES = f"""
import sys
class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, _Blocked())
"""

_CLASSIFY = """
import json, sys
from transformers import pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
classify = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
print(json.dumps({"class": type(classify.model).__name__, "rows": classify(texts, truncation=True)}))
"""


def run_without_packages(code: str, *arguments: str) -> str:
    """
    Runs Python code in a new process in which none of our packages can be imported, offline and with an empty cache of
    remote code.

    Args:
        code (`str`): Python source.
        arguments (`str`): Its `sys.argv[1:]`.

    Returns:
        `str`: What it printed to standard output.

    Raises:
        RuntimeError: if it fails, with what it printed to standard error.

    Example:

    ```python
    >>> from compactbert.hub import run_without_packages

    >>> run_without_packages("import sys; print('hello', *sys.argv[1:])", "there").split()
    ['hello', 'there']

    ```
    """
    with tempfile.TemporaryDirectory() as modules:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "TQDM_DISABLE": "1"}
        process = subprocess.run(
            [sys.executable, "-P", "-c", BLOCK_PACKAGES + code, *arguments],
            env=environment,
            # Nobody is there to answer whether code may run.
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if process.returncode != 0:
        raise RuntimeError(f"The clean process failed:\n{process.stderr}")
    return process.stdout


def classify_in_clean_process(folder: str | Path, texts: list[str]) -> dict[str, Any]:
    """
    Loads a saved classifier with `pipeline(..., trust_remote_code=True)` where this package cannot be imported, and
    classifies texts.

    Returns:
        `dict`: `class`, the name of the class that was loaded, and `rows`, a `label` and `score` per text.

    Raises:
        RuntimeError: if the folder does not load there.

    Example:

    ```python
    >>> from compactbert.hub import classify_in_clean_process

    >>> classify_in_clean_process("my-model", ["A good film."])["class"]
    'SmBertForSequenceClassification'

    ```
    """
    return json.loads(run_without_packages(_CLASSIFY, str(folder), json.dumps(texts)).splitlines()[-1])


__all__ = ["classify_in_clean_process", "run_without_packages"]
