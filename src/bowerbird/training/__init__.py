"""One training loop, recipes, and what recipes train."""
