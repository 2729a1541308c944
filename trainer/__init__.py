"""Trains and fine-tunes the towers of a bundle."""
