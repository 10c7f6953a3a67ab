"""To the Hub and back: complete repositories, in one commit, and what strangers meet there."""

from .catalogue import catalogue_rows, find_entry, pull, read_catalogue
from .clean_process import classify_in_clean_process, run_without_packages
from .contents import check_contents, kind_of
from .publishing import publish, push
from .staging import stage


__all__ = [
    "catalogue_rows",
    "check_contents",
    "classify_in_clean_process",
    "find_entry",
    "kind_of",
    "publish",
    "pull",
    "push",
    "read_catalogue",
    "run_without_packages",
    "stage",
]
