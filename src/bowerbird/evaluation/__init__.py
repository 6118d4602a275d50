"""Measuring: metrics, copies, the papers' claims."""
