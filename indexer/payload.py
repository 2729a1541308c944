"""What a point says about its window besides the vector; keys of ``engine.memory.base.FIELDS`` and a few more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.silence import SILENT
from engine.types import Clause, Clip, Filter, Payload, Window
from indexer.paths import path_text
from indexer.tags import Tags, names_say


def window_payload(sha256: str, path: Path, clip: Clip, tags: Tags, window: Window, whole: Payload) -> dict[str, Any]:
    """The payload of one window of a content; ``whole`` is empty while its end has not been heard."""
    said = dict.fromkeys(text for text in (tags.description, tags.comment) if text)
    payload: dict[str, Any] = {
        "sha256": sha256,
        "paths": [path_text(path)],
        "window": window.index,
        "start_s": window.start_s,
        "end_s": window.end_s,
        "title": tags.title,
        "artist": tags.artist,
        "description": "; ".join(said) or None,
        "category": tags.category,
        "words": tags.words or None,
        "format": clip.format,
        "sample_rate_hz": clip.source_rate_hz,
        "channels": clip.channels,
        **whole,
    }
    # 0 says that its samples were looked at, and something happens.
    payload[window.eventless or SILENT] = 1 if window.eventless else 0
    return {key: value for key, value in payload.items() if value is not None}


def whole_payload(windows: int, duration_s: float) -> Payload:
    """What every point of a content says once its end has been heard; ``windows`` is how many it has."""
    return {"windows": windows, "duration_s": duration_s}


def places_payload(paths: Sequence[Path]) -> Payload:
    """What changes in a content's points when these are its paths now, sorted: the paths and what their names say."""
    category, words = names_say(paths)
    return {"paths": [path_text(path) for path in paths], "category": category, "words": words or None}


def of_contents(*sha256s: str) -> Filter:
    """All points of these contents."""
    return Filter((Clause("sha256", "in", sha256s),))
