"""How references get into a base: one file a way, one line a file in `registry.py`."""
