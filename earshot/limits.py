"""Bounds that the command line and the library share."""

from __future__ import annotations

#: The most sounds that one search gives.
MOST_RESULTS = 10_000
#: How long a search, or a run of ``index`` that nobody watches, waits for another process to finish with the library.
WAIT_S = 10.0
#: The most captions that one projection is made of.
MOST_TEXTS = 100_000
