"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent
HUB_PACKAGES = ("modeling_mobilebert_md", "modeling_smbert")
# Each part of the toolkit may import the ones before it.
LAYERS = (
    "files",
    "provenance",
    "resume",
    "presets",
    "structure",
    "convert",
    "data",
    "compression",
    "records",
    "cards",
    "adapters",
    "training",
    "inference",
    "evaluation",
)
LAYERS += ("inspection", "benchmark", "search", "hub", "recipes", "cli")
SOURCES = [path for package in ("compactbert", *HUB_PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]
SPACE_FILES = sorted((ROOT / "spaces").rglob("*.py"))
HUB_FILES = [path for path in SOURCES if path.parent.name in HUB_PACKAGES]
NOT_OURS = {".venv", "build", "dist", "zoo"}
PYTHON_FILES = [path for path in ROOT.rglob("*.py") if not NOT_OURS & set(path.relative_to(ROOT).parts)]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, module) for module in modules]
    return found


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_hub_files_are_self_contained(path):
    allowed = {"torch", "transformers", *sys.stdlib_module_names}
    for level, module in imports_of(path):
        if level == 0:
            assert module.split(".")[0] in allowed or module == "huggingface_hub.dataclasses", module
            assert module != "__future__"
        else:
            assert level == 1
            assert (path.parent / f"{module}.py").is_file(), module


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in HUB_FILES], ids=lambda path: path.name)
def test_the_toolkit_imports_in_one_direction(path):
    parts = path.relative_to(ROOT / "compactbert").with_suffix("").parts
    if parts == ("__init__",):
        return
    own = LAYERS.index(parts[0])
    # From a module of a package, one dot is the package itself and two are the toolkit.
    toolkit_level = len(parts)
    for level, module in imports_of(path):
        if level == toolkit_level:
            other = module.split(".")[0]
            assert LAYERS.index(other) < own, f"{path.name} imports {other}"
        elif level == 0 and module.split(".")[0] == "compactbert":
            assert parts[0] == "cli", "only the command line names its own package"


def test_the_readme_lists_the_layers_in_order():
    tree = (ROOT / "README.md").read_text().partition("\ncompactbert/\n")[2].partition("\nspaces/ ")[0]
    assert tuple(re.findall(r"^  (\w+)(?:\.py|/) ", tree, re.MULTILINE)) == LAYERS


def test_the_wheel_has_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES if path.name == "__init__.py"}
    # Shipped from the folder `configs/`.
    assert found | {"compactbert.configs"} == set(listed)


COPY = re.compile(r"^( *)# Copied from (\w+)\.([\w.]+)(?: with (.+))?$", re.MULTILINE)


def definition(tree: ast.AST, dotted: str) -> ast.AST:
    for name in dotted.split("."):
        tree = next(
            node
            for node in tree.body
            if getattr(node, "name", None) == name
            or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name)
        )
    return tree


def test_copies_are_equal_to_their_originals():
    checked = 0
    files = [*HUB_FILES, *SPACE_FILES]
    for path in files:
        text = path.read_text()
        tree = ast.parse(text)
        for match in COPY.finditer(text):
            _, module, dotted, renames = match.groups()
            line = text[: match.start()].count("\n") + 2
            copy = next(
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign)
                and min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) == line
            )
            source = next(other for other in files if other.stem == module).read_text()
            for rename in (renames or "").split(","):
                if rename:
                    source = source.replace(*rename.strip().split("->"))
                    dotted = dotted.replace(*rename.strip().split("->"))
            assert ast.dump(copy) == ast.dump(definition(ast.parse(source), dotted)), f"{path.name}: {match.group(0)}"
            checked += 1
    assert checked > 10


def test_files_are_short_and_named():
    for path in PYTHON_FILES:
        assert len(path.read_text().splitlines()) <= 900, path
        assert path.stem not in {"utils", "helpers", "common", "misc"}, path


@pytest.mark.long
def test_importing_the_toolkit_costs_no_more_than_the_models():
    code = """
import sys
for packages in ("modeling_mobilebert_md, modeling_smbert", "compactbert, compactbert.cli"):
    exec(f"import {packages}")
    print([name for name in ("datasets", "pandas", "sklearn") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    models, toolkit = process.stdout.splitlines()
    assert toolkit == models


def test_public_names_exist():
    import compactbert

    for name in compactbert.__all__:
        assert callable(getattr(compactbert, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        compactbert.nothing  # noqa: B018


@pytest.mark.parametrize("space", sorted((ROOT / "spaces").iterdir()), ids=lambda path: path.name)
def test_spaces_are_complete_and_self_contained(space):
    requirements = (space / "requirements.txt").read_text().split()
    installed = {requirement.split("==")[0] for requirement in requirements}
    assert all(re.fullmatch(r"[a-z0-9_-]+==[0-9.]+", requirement) for requirement in requirements)
    fields = yaml.safe_load((space / "README.md").read_text().split("---\n")[1])
    assert (fields["sdk"], fields["app_file"], fields["license"]) == ("gradio", "app.py", "apache-2.0")
    assert f"gradio=={fields['sdk_version']}" in requirements
    assert len(fields["short_description"]) <= 60
    own = {path.stem for path in space.iterdir()}
    imported_as = {"pillow": "PIL", "scikit-learn": "sklearn"}
    installed = {imported_as.get(name, name) for name in installed}
    # Only who names a model, or the engine, needs them.
    optional = {"peft", "ray", "torch", "transformers"}
    for path in space.rglob("*.py"):
        for level, module in imports_of(path):
            name = module.split(".")[0]
            assert level or name in {*sys.stdlib_module_names, *own, *installed, *optional}, f"{path.name}: {module}"


def test_types_of_every_benchmark_are_checked():
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts <= set(mypy["modules"])
    assert scripts in [set(override["module"]) for override in mypy["overrides"]]
