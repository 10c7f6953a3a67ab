"""Architectures and recipes as data, read through `compactbert.presets`."""
