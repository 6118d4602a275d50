"""Frozen encoders: `load("small")`, CLIP or SigLIP from a directory or hub id, or a class of one's own."""

from bowerbird.encoders.load import load, load_recorded

__all__ = ["load", "load_recorded"]
