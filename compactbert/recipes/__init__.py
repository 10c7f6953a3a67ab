"""Whole jobs: stages in order."""

from .demonstration import demo


__all__ = ["demo"]
