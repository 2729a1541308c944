"""Bounds that the command line and the library share."""

from __future__ import annotations

#: The most sounds that one search gives.
MOST_RESULTS = 10_000
