"""`python -m compactbert.cli`, which `accelerate launch -m` needs."""

from . import app


app()
