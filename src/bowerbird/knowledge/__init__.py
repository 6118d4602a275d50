"""Knowledge bases: filled from sources (`ingest`), kept in a store (`storage`), searched (`search`)."""
