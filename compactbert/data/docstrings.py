"""The embedded task `docstrings`: given the first paragraph of a docstring of Python's standard library, name the area
it belongs to. Real text that every machine with Python has, read from the sources without importing them."""

import ast
import hashlib
import sysconfig
from functools import cache
from pathlib import Path


# Chapters of the Python documentation's library reference, small neighbours merged, and the modules they describe.
AREAS = {
    "text processing": "string re difflib textwrap stringprep gettext locale _pydecimal_text sre_compile sre_parse",
    "data types": "datetime _pydatetime zoneinfo calendar collections heapq bisect array weakref _weakrefset types "
    "copy pprint reprlib enum graphlib _collections_abc",
    "numbers and functions": "numbers cmath decimal _pydecimal fractions random statistics functools operator "
    "colorsys itertools _pylong",
    "files and formats": "pathlib posixpath ntpath genericpath fileinput stat filecmp tempfile glob fnmatch linecache "
    "shutil pickle pickletools copyreg shelve dbm sqlite3 gzip bz2 lzma zipfile tarfile _compression csv configparser "
    "tomllib netrc plistlib zipimport",
    "operating system": "os io _pyio time argparse optparse getopt logging getpass curses platform ctypes pty tty cmd "
    "shlex crypt pipes posix signal nturl2path secrets hashlib hmac",
    "concurrency": "threading multiprocessing concurrent subprocess sched queue contextvars _threading_local asyncio",
    "networking": "socket ssl selectors urllib http ftplib poplib imaplib smtplib uuid socketserver xmlrpc ipaddress "
    "telnetlib nntplib wsgiref cgi cgitb webbrowser smtpd asyncore asynchat",
    "internet data and markup": "email json mailbox mailcap mimetypes base64 quopri uu html xml _markupbase binhex "
    "xdrlib sndhdr imghdr wave aifc sunau chunk",
    "graphical interfaces": "tkinter turtle turtledemo idlelib",
    "development and debugging": "typing pydoc doctest unittest lib2to3 bdb pdb timeit trace tracemalloc faulthandler "
    "profile cProfile pstats ensurepip venv zipapp distutils",
    "runtime and language": "sys sysconfig builtins warnings dataclasses contextlib abc atexit traceback inspect site "
    "code codeop pkgutil modulefinder runpy importlib ast symtable token keyword tokenize tabnanny pyclbr py_compile "
    "compileall dis opcode codecs encodings _bootsubprocess _sitebuiltins __future__",
}
AREA_OF_MODULE = {module: area for area, modules in AREAS.items() for module in modules.split()}
AREA_NAMES = list(AREAS)
MIN_WORDS = 4


# Reading the library takes seconds, and every stage of a job loads its task.
@cache
def read_docstrings() -> dict[str, dict[str, list]]:
    """
    Paragraphs and areas of the running Python, as columns: `{"train": {"text": [...], "label": [...]}, "validation":
    ...}`. The same Python gives the same rows in the same order; a paragraph's hash decides its split (one in five is
    validation), and paragraphs that occur in two areas are left out.

    Raises:
        ValueError: if the standard library's sources are not there.
    """
    root = Path(sysconfig.get_path("stdlib"))
    areas_of: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        area = AREA_OF_MODULE.get(parts[0])
        if area is None or {"site-packages", "test", "tests", "idle_test"} & set(parts):
            continue
        for paragraph in _paragraphs(path):
            areas_of.setdefault(paragraph, set()).add(area)
    if not areas_of:
        raise ValueError(
            f"The standard library's sources are not under {str(root)!r}: the task `docstrings` needs a Python "
            f"that was installed with them. Choose another task."
        )
    splits: dict[str, dict[str, list]] = {name: {"text": [], "label": []} for name in ("train", "validation")}
    hashed = sorted((hashlib.sha256(text.encode()).hexdigest(), text) for text in areas_of)
    for digest, text in hashed:
        if len(areas_of[text]) == 1:
            split = splits["validation" if int(digest[-8:], 16) % 5 == 0 else "train"]
            split["text"].append(text)
            split["label"].append(AREA_NAMES.index(next(iter(areas_of[text]))))
    return splits


def _paragraphs(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        # Some templates in the library are not meant to be compiled.
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    paragraphs = (" ".join(docstring.split("\n\n")[0].split()) for docstring in docstrings if docstring)
    return [paragraph for paragraph in paragraphs if len(paragraph.split()) >= MIN_WORDS]


__all__ = ["AREA_NAMES", "read_docstrings"]
