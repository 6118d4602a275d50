"""Frozen encoders: `load("small")`, or CLIP / SigLIP from a directory or hub id."""

from bowerbird.encoders.load import load

__all__ = ["load"]
