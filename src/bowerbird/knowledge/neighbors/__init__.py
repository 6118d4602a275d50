"""Nearest neighbors of everything: graphs and tables for training."""
