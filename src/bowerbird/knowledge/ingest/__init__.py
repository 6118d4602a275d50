"""From a source to rows: read, embed, leave near-duplicates out, add."""
