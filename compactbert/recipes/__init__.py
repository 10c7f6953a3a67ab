"""Whole jobs: stages in order."""

from .compression import compress
from .demonstration import demo
from .recipe import Recipe, list_recipes, load_recipe
from .transfer import TransferRecipe, load_transfer_recipe, transfer


__all__ = [
    "Recipe",
    "TransferRecipe",
    "compress",
    "demo",
    "list_recipes",
    "load_recipe",
    "load_transfer_recipe",
    "transfer",
]
