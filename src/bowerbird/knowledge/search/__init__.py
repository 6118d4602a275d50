"""Searching a knowledge base: dense and sparse indexes, fusion, and the snapshot they are asked through."""
