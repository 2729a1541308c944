"""The nouns of earshot: frozen values that flow one way, units in their names.

``Path -audio-> Clip -windows-> Window -encoders-> vector -memory-> Hit -search-> Moment -captioner-> Caption``
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Pad: TypeAlias = Literal["repeat", "repeatpad", "zero"]
#: What is heard where nothing happens: silence, steady noise; empty where something does, or nobody looked.
Nothing: TypeAlias = Literal["", "silent", "noise"]
#: What is done to a sound's vector before it is put into words.
Strategy: TypeAlias = Literal["audio", "nearest", "projection"]
Payload: TypeAlias = Mapping[str, Any]
Op: TypeAlias = Literal["<", "<=", ">", ">=", "=", "!=", "~", "in", "not in"]

_POINT_NAMESPACE = uuid.UUID("6d3f1c52-6a0f-5f0e-9b64-0f4a1d3a7c11")


@dataclass(frozen=True, slots=True)
class Space:
    """The embedding space of one model, and how it wants to be fed."""

    space_id: str
    dim: int
    sample_rate_hz: int
    window_s: float
    hop_s: float
    pad: Pad

    @property
    def window_samples(self) -> int:
        """Samples in one window."""
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from one window's start to the next one's."""
        return round(self.hop_s * self.sample_rate_hz)


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded file: mono blocks on demand, never the whole file at once.

    ``blocks`` yields float32 arrays ``[n]`` at ``sample_rate_hz``; it can be consumed once. Then ``remarks`` says what
    is wrong with a file that could be heard all the same, such as that it ends before its header says so.
    """

    blocks: Iterator[FloatArray]
    sample_rate_hz: int
    source_rate_hz: int
    channels: int
    format: str
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Window:
    """A cut of a clip: ``samples`` is ``[window_samples]``, padded where the clip is shorter.

    ``eventless`` is what the samples said of a window that somebody looked at, where nothing happens in it.
    """

    index: int
    start_s: float
    end_s: float
    samples: FloatArray
    eventless: Nothing = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One remembered vector ``[dim]`` with what is known about it."""

    id: str
    vector: FloatArray
    payload: Payload


@dataclass(frozen=True, slots=True)
class Record:
    """One point as a memory gives it back; ``vector`` only where it was asked for."""

    id: str
    payload: Payload
    vector: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One point found: ``score`` is the cosine with the query, -1..1, or, where words were looked for, BM25, > 0."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition on a payload field, e.g. ``Clause("duration_s", "<", 5.0)``."""

    field: str
    op: Op
    value: str | float | Sequence[str]


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold."""

    clauses: tuple[Clause, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.clauses)

    def also(self, *clauses: Clause) -> Filter:
        """This filter with further conditions."""
        return Filter((*self.clauses, *clauses))


@dataclass(frozen=True, slots=True)
class Moment:
    """Where to listen: the best stretch of one sound for one query.

    ``score`` is the best window's cosine, ``relevance`` the calibrated chance 0..1 that it is what was asked for.
    ``by`` says what found it: its ``meaning``, the ``keywords`` said of it, or ``both``. ``caption`` is what earshot
    made of it, to be believed as ``caption_score`` says, 0..1, and not to be if ``caption_unsure``; ``caption_by`` the
    captioner that said it.
    """

    path: str
    paths: tuple[str, ...]
    start_s: float
    end_s: float
    score: float
    relevance: float
    duration_s: float
    title: str | None = None
    caption: str | None = None
    caption_score: float | None = None
    caption_unsure: bool = False
    caption_by: str | None = None
    by: str = "meaning"
    payload: Payload = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "path": self.path,
            "paths": list(self.paths),
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "score": round(self.score, 4),
            "relevance": round(self.relevance, 4),
            "duration_s": round(self.duration_s, 3),
            "title": self.title,
            "caption": self.caption,
            "caption_score": self.caption_score,
            "caption_unsure": self.caption_unsure,
            "caption_by": self.caption_by,
            "by": self.by,
        }


@dataclass(frozen=True, slots=True)
class Remembered:
    """A caption that is remembered, as nearest to some vector.

    ``vector`` is its text's, float32 ``[dim]``, L2-normalised; ``score`` the cosine with what was asked, -1..1.
    ``language`` is an ISO 639-3 code, or empty where nobody said; ``source`` says who wrote it, see
    ``engine.memory.captions``.
    """

    text: str
    language: str
    source: str
    vector: FloatArray = field(repr=False, compare=False)
    score: float


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about a sound. ``score`` is how far it is to be believed, 0..1; ``unsure`` if too little to tell it.

    ``evidence`` are the remembered captions that weighed most in it, the heaviest first. ``bound`` is how far at most
    the point that was put into words lies from the one that all captions remembered would give; 0 where all were asked.
    """

    text: str
    score: float
    language: str
    evidence: tuple[Remembered, ...] = ()
    unsure: bool = False
    bound: float = 0.0


#: The k remembered captions nearest to a vector ``[dim]``, best first.
Nearest: TypeAlias = Callable[[FloatArray, int], list[Remembered]]


def point_id(content_sha256: str, space_id: str, window_index: int) -> str:
    """The deterministic id of a window: uuid5 of content, space and index."""
    return str(uuid.uuid5(_POINT_NAMESPACE, f"{content_sha256}/{space_id}/{window_index}"))
