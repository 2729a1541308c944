"""Checkpoints in, verified bundles out."""
