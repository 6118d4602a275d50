"""KNN-Diffusion (arXiv 2204.02849), continuous and discrete."""
