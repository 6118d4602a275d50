"""Measures as pure functions on features and outcomes; no network, no picture."""
