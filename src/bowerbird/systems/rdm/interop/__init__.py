"""Other people's weights, adapted once: read safely, renamed, written in diffusers layout."""
