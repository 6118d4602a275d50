"""Pairs of pictures for training edits, by a text-to-image base and Prompt-to-Prompt (arXiv 2211.09800, section 3.1):
any Stable Diffusion makes them, an encoder keeps the good ones."""
