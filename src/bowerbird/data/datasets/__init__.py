"""Data sets that anyone can make: from published packages, pinned and checked by hash."""
