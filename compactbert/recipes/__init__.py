"""Whole jobs: stages in order."""

from .compression import compress
from .demonstration import demo
from .recipe import Recipe, list_recipes, load_recipe


__all__ = ["Recipe", "compress", "demo", "list_recipes", "load_recipe"]
