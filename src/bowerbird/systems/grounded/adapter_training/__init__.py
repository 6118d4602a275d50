"""Training an IP-Adapter (arXiv 2308.06721) for a base that stays as it is."""
