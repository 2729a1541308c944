"""What an export can't go on from; apart, as a download needs no torch."""

from __future__ import annotations

from engine.errors import BundleError


class SourceError(BundleError):
    """A checkpoint that can't be read."""
