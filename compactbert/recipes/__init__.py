"""Whole jobs: stages in order."""

from .demo import demo


__all__ = ["demo"]
