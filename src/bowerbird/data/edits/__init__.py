"""Edits with known answers: a picture, an instruction, and the picture that it should become, all of it by code."""
