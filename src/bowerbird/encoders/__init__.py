"""Frozen encoders: `load("small")`, CLIP, SigLIP2, DINO or Qwen3-VL-Embedding from a directory or hub id, or a class of
one's own; `load_text` for encoders of captions."""

from bowerbird.encoders.load import load, load_recorded, load_recorded_text, load_text

__all__ = ["load", "load_recorded", "load_recorded_text", "load_text"]
