"""RDM, retrieval-augmented diffusion (arXiv 2204.11824)."""
