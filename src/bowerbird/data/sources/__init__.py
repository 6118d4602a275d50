"""Source formats: each turns a place on disk, or on the hub, into items."""
