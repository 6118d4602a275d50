"""What everything stands on: errors, types, pictures as arrays, seeds, files written whole or not at all, provenance,
progress."""
