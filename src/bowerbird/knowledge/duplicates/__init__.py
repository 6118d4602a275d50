"""Copies among the items of a knowledge base."""
