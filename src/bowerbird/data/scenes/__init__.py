"""Scenes that code composes of drawings and plain shapes: what is where, a caption that says so, and the picture."""
