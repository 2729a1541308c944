"""The nouns of training data: a clip, what is said of it, and what is wrong with it. Never imports torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from engine.errors import EarshotError
from engine.types import Clip
from trainer.sounds import Span, content_sha256, open_sound

DEFAULT_LANGUAGE = "eng"
DEFAULT_SPLIT = "train"


class DataError(EarshotError):
    """Training data that can't be used at all."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a table, counted from 1; 0 stands for the whole file."""

    file: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the data: where, which kind (a few words, to be counted), and what was found."""

    place: Place
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Caption:
    """What somebody said of a clip; ``lang`` is its ISO 639-3 code."""

    text: str
    lang: str = DEFAULT_LANGUAGE


@dataclass(frozen=True, slots=True)
class Example:
    """One clip: a sound file, or a ``member`` of a WebDataset shard, and what is said of it.

    ``captions`` is empty for an unlabelled clip. ``id`` is unique within a data set. ``span`` says where in the shard
    the member's bytes lie: the first, and how many.
    """

    id: str
    audio: Path
    captions: tuple[Caption, ...] = ()
    tags: tuple[str, ...] = ()
    split: str = DEFAULT_SPLIT
    member: str = ""
    span: Span = None
    place: Place = field(default=Place(Path()), compare=False)

    @property
    def name(self) -> str:
        """What a person finds it by."""
        return f"{self.audio}!{self.member}" if self.member else str(self.audio)

    def open(self, sample_rate_hz: int) -> Clip:
        """The clip, as ``engine.audio.open_clip`` gives it. Raises ``AudioError``, here and from ``blocks``."""
        return open_sound(self.audio, self.span, Path(self.member).suffix, sample_rate_hz)

    def content_sha256(self) -> str:
        """The sha256 of the sound's bytes, in hex. Raises ``AudioError``."""
        return content_sha256(self.audio, self.span)


@dataclass(frozen=True, slots=True)
class Dataset:
    """All that ``trainer.manifest.read_data`` found at ``source``, in the order of its rows.

    ``layout`` says as what it was read, ``problems`` what was left out, ``ignored`` which columns nobody reads.
    """

    source: Path
    layout: str
    examples: list[Example]
    problems: list[Problem]
    ignored: tuple[str, ...] = ()

    def split(self, *names: str) -> list[Example]:
        """The examples of these splits. Raises ``DataError`` where one has none."""
        held = Counter(example.split for example in self.examples)
        for name in names:
            if name not in held:
                there = ", ".join(f"{split} ({count})" for split, count in held.items()) or "none"
                raise DataError(f"no clip on the split {name!r} of {self.source}", f"one of: {there}", "name another")
        return [example for example in self.examples if example.split in names]


def language_code(raw: str) -> str | None:
    """The ISO 639-3 code meant by a 639-3, 639-1 or 639-2/B code or a tag such as ``pt-BR``; None where it is none."""
    return _languages().get(raw.strip().lower().replace("_", "-").split("-")[0])


@cache
def _languages() -> dict[str, str]:
    import pycountry

    known: dict[str, str] = {}
    for language in pycountry.languages:
        for kind in ("alpha_2", "bibliographic", "alpha_3"):
            if hasattr(language, kind):
                known[getattr(language, kind)] = language.alpha_3
    return known
