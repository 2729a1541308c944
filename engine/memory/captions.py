"""The text memory: what captions say, in the space in which sounds are heard. One point a caption, in a ``Memory``.

``source`` says where a caption is from: a name that its owner gave, ``OWN`` where none was given, or ``GENERATED`` for
those that earshot made itself. Generated ones are found by search. They are never used for projection: whoever
projects asks ``nearest`` and ``texts``, which leave them out, or a captioner would learn from what it once said.
"""

from __future__ import annotations

import hashlib
import unicodedata
import uuid
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from engine.errors import BundleError
from engine.memory.base import Memory
from engine.types import Clause, Filter, FloatArray, Payload, Point, Record, Remembered

OWN, GENERATED, OF_BUNDLE = "own", "generated", "bundle"
#: ISO 639-3's code for a language that nobody named.
UNDETERMINED = "und"

_NAMESPACE = uuid.UUID("0b7a5c0e-94c1-5b53-8a8e-3f3e9d3c61d4")
#: All that may be projected upon.
HUMAN = Filter((Clause("source", "!=", GENERATED),))
_AT_ONCE = 1024
_PULL = "copy or export the bundle again"


@dataclass(frozen=True, slots=True)
class Said:
    """A caption to be remembered. ``language`` is an ISO 639-3 code."""

    text: str
    language: str = UNDETERMINED
    source: str = OWN

    @property
    def key(self) -> str:
        """What makes it the same as another: text and language, and whether somebody or earshot itself said it."""
        kind = GENERATED if self.source == GENERATED else ""
        return hashlib.sha256("\0".join((self.text, self.language, kind)).encode()).hexdigest()

    def payload(self) -> Payload:
        """As a point says it; its key is a content hash, which every memory finds fast."""
        return {"sha256": self.key, "text": self.text, "language": self.language, "source": self.source}


def tidied(text: str) -> str:
    """A text in composed Unicode, with single spaces: so that one sentence is one caption."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class CaptionMemory:
    """The captions of one space. Its ``memory`` must have been opened with ``ensure_space``."""

    def __init__(self, memory: Memory, space_id: str) -> None:
        self.memory, self.space_id = memory, space_id

    def news(self, captions: Iterable[Said]) -> list[Said]:
        """Those that are not remembered, each once, in their order: only these need a vector."""
        wanted = {said.key: said for said in reversed(list(captions))}
        keys, known = sorted(wanted), set[str]()
        for first in range(0, len(keys), _AT_ONCE):
            known.update(
                str(r.payload["sha256"]) for r in self.memory.scroll(_with_keys(keys[first : first + _AT_ONCE]))
            )
        return [said for key, said in reversed(wanted.items()) if key not in known]

    def remember(self, captions: Sequence[Said], vectors: FloatArray) -> None:
        """Keep captions with the vectors of their texts, float32 ``[n, dim]``; durable after ``memory.flush``.

        One that is remembered already is written again, with this source. Raises ``MemoryStoreError``.
        """
        self.memory.upsert(
            [
                Point(str(uuid.uuid5(_NAMESPACE, f"{said.key}/{self.space_id}")), vector, said.payload())
                for said, vector in zip(captions, vectors, strict=True)
            ]
        )

    def forget(self, where: Filter) -> int:
        """Forget the captions that match, all with an empty filter; returns how many."""
        count = self.memory.count(where)
        self.memory.delete(where or Filter((Clause("text", "!=", 0.0),)))  # no text is a number: all
        self.memory.flush()
        return count

    def forget_generated(self, but: Container[str]) -> int:
        """Forget what earshot itself said, but these texts; returns how many."""
        gone = [said.key for said in self.all(of(GENERATED)) if said.text not in but]
        firsts = range(0, len(gone), _AT_ONCE)
        return sum(self.forget(_with_keys(gone[first : first + _AT_ONCE])) for first in firsts)

    def nearest(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Remembered]:
        """The k captions nearest to ``vector`` ``[dim]`` by cosine, best first; generated ones are none of them."""
        found = self.memory.search_vectors(vector, k, _human(where))
        return [_remembered(hit.payload, own, hit.score) for hit, own in found]

    def texts(self, limit: int, where: Filter | None = None) -> tuple[FloatArray, list[str]]:
        """Vectors ``[n, dim]`` and their texts, at most ``limit``; generated ones are none of them.

        By id, which is a hash: where there are more, these are as good as any.
        """
        vectors, captions = self.said(limit, where)
        return vectors, [said.text for said in captions]

    def said(self, limit: int, where: Filter | None = None) -> tuple[FloatArray, list[Said]]:
        """As ``texts``, with the languages and sources."""
        records = list(islice(self.memory.scroll(_human(where), with_vectors=True), limit))
        vectors = np.stack([_vector(record) for record in records]) if records else np.empty((0, 0), np.float32)
        return vectors, [_said(record.payload) for record in records]

    def count(self, where: Filter | None = None) -> int:
        """How many captions match."""
        return self.memory.count(where)

    def all(self, where: Filter | None = None) -> Iterator[Said]:
        """All captions that match, generated ones too, by id; in bounded memory."""
        for record in self.memory.scroll(where):
            yield _said(record.payload)


def of(source: str | None = None, language: str | None = None) -> Filter:
    """The captions of a source, in a language; all where neither is named."""
    named = (("source", source), ("language", language))
    return Filter(tuple(Clause(field, "=", value) for field, value in named if value is not None))


def _human(where: Filter | None) -> Filter:
    return (where or Filter()).also(*HUMAN.clauses)


def _with_keys(keys: Sequence[str]) -> Filter:
    return Filter((Clause("sha256", "in", tuple(keys)),))


def _said(payload: Payload) -> Said:
    return Said(str(payload["text"]), str(payload["language"]), str(payload["source"]))


def _remembered(payload: Payload, vector: FloatArray, score: float) -> Remembered:
    return Remembered(str(payload["text"]), str(payload["language"]), str(payload["source"]), vector, score)


def _vector(record: Record) -> FloatArray:
    assert record.vector is not None, "asked for with vectors"
    return record.vector


class ShippedCaptions:
    """The captions that come with a bundle, in its ``memory.npz``: used beside those that a library remembers.

    ``texts`` and ``languages``, n texts each, and ``vectors`` ``[n, dim]``, L2-normalised, in float16.
    """

    source = OF_BUNDLE

    def __init__(self, path: Path, dim: int) -> None:
        """Raises ``BundleError`` if the file is not such a one, of vectors ``[n, dim]``."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
                self._texts = [str(text) for text in held["texts"]]
                self._languages = [str(language) for language in held["languages"]]
                self._vectors = held["vectors"].astype(np.float32)
        except (ValueError, OSError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise BundleError(f"{path} ({error})", "texts, languages and vectors", _PULL) from error
        shape = self._vectors.shape
        if shape != (len(self._texts), dim) or len(self._languages) != len(self._texts):
            raise BundleError(f"{path} of {len(self._texts)} texts, vectors {list(shape)}", f"[n, {dim}]", _PULL)
        if not np.isfinite(self._vectors).all():
            raise BundleError(f"{path} with NaN or infinity", "unit vectors", _PULL)

    def __len__(self) -> int:
        return len(self._texts)

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """See ``CaptionMemory.nearest``."""
        scores = self._vectors @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [self._one(int(n), float(scores[n])) for n in best]

    def _one(self, number: int, score: float) -> Remembered:
        return Remembered(self._texts[number], self._languages[number], self.source, self._vectors[number], score)

    def texts(self, limit: int) -> tuple[FloatArray, list[str]]:
        """See ``CaptionMemory.texts``."""
        return self._vectors[:limit], self._texts[:limit]

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """See ``CaptionMemory.said``."""
        named = zip(self._texts[:limit], self._languages[:limit], strict=True)
        return self._vectors[:limit], [Said(text, language, self.source) for text, language in named]
