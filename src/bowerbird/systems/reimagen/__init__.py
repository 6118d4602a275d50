"""Re-Imagen (arXiv 2209.14491)."""
