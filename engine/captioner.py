"""A sound's vector -> words, with the evidence: what is remembered, projected, put into a sentence.

Nothing is said of a sound without an event but that: a vector as near to those of silence or of noise as they are to
each other is called so, where nobody looked at its samples. Everything else gets a sentence, never one that says that
there is nothing to hear, and the sentence a score: how likely the text tower finds it that the sound is what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.beams import Hypothesis, Rules, beam_search, greedy_search
from engine.bundle import Bundle, Calibration, CaptionerPart
from engine.decoding import CachedSteps
from engine.distinctive import Distinctive, distinctive_of
from engine.encoders import Encoders, normalise
from engine.errors import BundleError, QueryError, SelfTestError, SpaceMismatchError
from engine.eventless import Eventless, Wordings, anchors_in, eventless_of, kept_in
from engine.memory.captions import UNDETERMINED, Said
from engine.projection import (
    EVIDENCE,
    Bounded,
    Laid,
    laid_out,
    nothing_remembered,
    project,
    project_nearest,
    require_tau,
)
from engine.search import calibration_for
from engine.session import KeepingSession, Session
from engine.spelling import ANY, AnyWords, Words, tidy
from engine.types import Caption, Device, FloatArray, Remembered, Strategy

#: Windows that are put into words at once.
BATCH = 16
#: All of a memory is projected upon up to this many captions; of a larger one the ``NEAREST``, with a bound.
MOST_EXACT, NEAREST = 100_000, 256
#: How far a candidate's log-probability may move on another machine.
GOLDEN_TOLERANCE = 0.05
#: Of captions that are not read whole, so many tell whether they are still the same ones.
SAMPLED = 1024
#: Captions that are read again, and the least cosine with what is remembered of them: more by far than another graph of
#: the same tower moves them, and less than any other tower has in common.
_READ_AGAIN, _SAME = 4, 0.9
#: Among so many of the nearest a caption of the language is looked for; those of languages that nobody named fit any.
_NEAR, _UNNAMED = 256, ("", "und")
#: Evidence is told in the caption's language, of so many captions of it at most looked through for each sound; and of
#: so many of the nearest where these are asked for.
_MOST_SPOKEN, _NEAR_IN_ALL = 16_384, 64
#: How captions are chosen; another number than the last earshot's has them said again.
_WAY = 3
_PULL = "copy or export the bundle again"


class Remembering(Protocol):
    """Captions remembered in the space of the sounds; generated ones are none of them."""

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """The k nearest to ``vector [dim]``, best first."""

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """Unit vectors ``[n, dim]`` and what they say, at most ``limit``."""

    def count(self) -> int:
        """How many there are."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What could be said of a sound, and its vector ``[dim]``."""

    text: str
    vector: FloatArray


_Meaning = TypeVar("_Meaning", _Candidate, Remembered)


class Captioner:
    """Puts vectors of sounds into words, with the caption graphs of a bundle.

    What isn't named is as the bundle's manifest says. ``notes`` is what the user should know.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoders: Encoders,
        memory: Remembering | None = None,
        *,
        strategy: Strategy | None = None,
        beams: int | None = None,
        tau: float | None = None,
        language: str = "eng",
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        """Open the graphs.

        Raises ``BundleError`` for a bundle without them or with those of another space, ``QueryError`` for a language
        that it doesn't speak, a strategy that is none, tau or beams that are not positive, and where nothing is
        remembered to project onto.
        """
        self._bundle, self._part = bundle, (part := _part(bundle))
        self.space_id, self._dim = bundle.manifest.space_id, bundle.manifest.dim
        self._encoders, self.language = encoders, language
        if language not in part.languages:
            raise QueryError(f"language {language!r}", f"one of {', '.join(part.languages)}", "choose one of these")
        if beams is not None and beams < 1:
            raise QueryError(f"{beams} beams", "a positive number", "1 is greedy, 5 the usual number")
        if strategy is not None and strategy not in get_args(Strategy):
            raise QueryError(f"strategy {strategy!r}", f"one of {', '.join(get_args(Strategy))}", "choose one of these")
        self.strategy: Strategy = strategy or part.strategy
        self.tau, self.beams = part.tau if tau is None else tau, part.beams if beams is None else beams
        require_tau(self.tau)
        self._memory = memory
        self._wordings = Wordings(encoders.text)
        self._vectors = self._remembered()
        self._tokenizer = _Pieces(bundle.path(part.tokenizer))
        anchors = anchors_in(bundle, part.anchors)
        self._distinctive = Distinctive(anchors["common"])
        self._words = self._vocabulary(str(anchors["words"]))
        self._prefix = Session(bundle.path(part.prefix), device, threads)
        self._decoder = KeepingSession(bundle.path(part.decoder), device, threads)
        self.notes = sorted({self._prefix.note, self._decoder.note} - {""})
        self._start = self._tokenizer.piece(f"[{language}]")
        self._rules = Rules(
            end=self._tokenizer.piece("[END]"),
            max_tokens=part.max_tokens,
            beams=self.beams,
            length_penalty=part.length_penalty,
            no_repeat=part.no_repeat,
            banned=frozenset(map(self._tokenizer.piece, ("[PAD]", "[UNK]", *map("[{}]".format, part.languages)))),
        )
        self.eventless: Eventless = kept_in(bundle)
        self._self_test(anchors["points"], anchors["scores"])

    @cached_property
    def identity(self) -> str:
        """A name for its graphs, for how they are asked, and for the captions that they build upon.

        The same name says the same of the same sound.
        """
        part, files = self._part, self._bundle.manifest.files
        graphs = [files.get(name, "") for name in (part.prefix, part.decoder, part.tokenizer, part.anchors)]
        how = (_WAY, self.space_id, part, *graphs, self.strategy, self.beams, self.tau, self.language)
        if self.strategy == "audio" or self._memory is None:
            return f"{self._bundle.manifest.name}#{_digest(how, 0, [])}"
        upon = self._captions or self._memory.said(SAMPLED)[1]
        return f"{self._bundle.manifest.name}#{_digest(how, self._count, upon)}"

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """Sounds ``[n, dim]``, at any length -> n captions. Raises ``QueryError`` for vectors of no sound."""
        return list(self.captions(vectors))

    def caption_events(self, vectors: FloatArray) -> list[Caption]:
        """The same of sounds with an event by their samples: they are never called silence or noise."""
        units = _units(vectors, self._dim)
        batches = (units[first : first + BATCH] for first in range(0, len(units), BATCH))
        return [caption for batch in batches for caption in self._said(batch)]

    def captions(self, vectors: FloatArray) -> Iterator[Caption]:
        """As ``caption``, one by one, a batch in work at a time."""
        units = _units(vectors, self._dim)
        for first in range(0, len(units), BATCH):
            yield from self._batch(units[first : first + BATCH])

    def _batch(self, vectors: FloatArray) -> list[Caption]:
        found = [self.eventless.said(vector, self.language) for vector in vectors]
        rows = [number for number, one in enumerate(found) if one is None]
        if rows:
            for row, caption in zip(rows, self._said(vectors[rows]), strict=True):
                found[row] = caption
        return [caption for caption in found if caption is not None]

    def _said(self, vectors: FloatArray) -> list[Caption]:
        """Captions of sounds ``[n, dim]``, in one batch of all their beams."""
        points, evidence, bounds = self._points(vectors)
        hypotheses = self.decode(points)
        texts = [[self._text(one) for one in each] for each in hypotheses]
        meant = iter(self._encoders.text.encode_text([text or "?" for each in texts for text in each]))
        captions = []
        for sound, each, told, bound in zip(vectors, texts, evidence, bounds, strict=True):
            beams = [_Candidate(text, next(meant)) for text in each]
            captions.append(replace(self._caption(sound, beams, told), bound=bound))
        return captions

    def _caption(self, sound: FloatArray, beams: list[_Candidate], evidence: tuple[Remembered, ...]) -> Caption:
        """What is said of a sound ``[dim]``: one of ``beams``, best first, or of what is remembered in its language.

        One of words, that doesn't say that there is nothing to hear, if any is.
        """
        among = [one for one in beams if one.text and self._words.know(one.text)]
        if self._part.rerank:
            among += [_Candidate(one.text, one.vector) for one in evidence if one.language == self.language]
        telling = _telling(among, self._wordings)
        if not telling and not beams[0].text:
            return Caption("", 0.0, self.language, evidence)
        best = (telling or beams)[0]
        if telling and self._part.rerank:
            likeness = self._distinctive.likeness(np.stack([one.vector for one in telling]), sound)
            best = telling[int(likeness.argmax())]
        curve, alike = self.curve(best.text), float(best.vector @ sound)
        caption = _believed(best.text, alike, curve, self.language, evidence)
        return caption if telling else replace(caption, unsure=True)

    def curve(self, text: str) -> Calibration:
        """From the cosine of a sound and this caption to the chance that it is right; below the cutoff it is unsure."""
        return self._part.calibration or calibration_for(text, self._encoders.calibration)

    def decode(self, points: FloatArray) -> list[list[Hypothesis]]:
        """Points of the text space ``[n, dim]`` -> the pieces of their captions, best first; one each if greedy."""
        steps = self._steps(points, self._start)
        if self.beams == 1:
            return [[one] for one in greedy_search(steps, len(points), self._rules)]
        return beam_search(steps, len(points), self._rules)

    def _steps(self, points: FloatArray, start: int) -> CachedSteps:
        return CachedSteps(self._decoder, self._prefix.run({"vectors": points}), start, self._tokenizer.size)

    def _points(self, vectors: FloatArray) -> tuple[FloatArray, list[tuple[Remembered, ...]], list[float]]:
        """What to put into words instead of sounds ``[n, dim]``, the captions that weighed most in it, and how far at
        most each point is from what all of them would give."""
        exact = [0.0] * len(vectors)
        if self._memory is None or not self._count:
            return vectors, [()] * len(vectors), exact
        if self._vectors is not None:
            found = project(vectors, self._vectors, self.tau, self._part.renormalise)
            weighed = zip(*(self._in_language(vectors) or (found.rows, found.cosines)), strict=True)
            return found.points, [self._weighed(*each) for each in weighed], exact
        k = {"projection": NEAREST, "nearest": EVIDENCE, "audio": _NEAR_IN_ALL}[self.strategy]
        asked = (self._memory.nearest(vector, k) for vector in vectors)
        near = [_telling(each, self._wordings) or each for each in asked]
        evidence = [_told_in(self.language, each) for each in near]
        if self.strategy == "audio":
            return vectors, evidence, exact
        if not all(near):
            raise nothing_remembered()
        if self.strategy == "nearest":
            return np.stack([each[0].vector for each in near]), [tuple(each) for each in near], exact
        bounded = [self._of_nearest(each) for each in near]
        return np.stack([one.point for one in bounded]), evidence, [one.error for one in bounded]

    def _weighed(self, rows: NDArray[np.int64], cosines: FloatArray) -> tuple[Remembered, ...]:
        """Of all that is remembered, what lies in these ``rows``."""
        assert self._vectors is not None
        said = zip((self._captions[row] for row in rows), self._vectors.rows(rows), strict=True)
        return tuple(
            Remembered(one.text, one.language, one.source, vector, float(cosine))
            for (one, vector), cosine in zip(said, cosines, strict=True)
        )

    def _in_language(self, vectors: FloatArray) -> tuple[NDArray[np.int64], FloatArray] | None:
        """The captions of this language that weigh most in sounds ``[n, dim]``: their rows and cosines ``[n, e]``.

        None where all are of it, or too many to look through them once more.
        """
        if not 0 < len(self._spoken) <= min(_MOST_SPOKEN, len(self._captions) - 1):
            return None
        assert self._vectors is not None
        alike = vectors @ self._vectors.rows(self._spoken).T
        best = np.argsort(-alike, axis=1, kind="stable")[:, :EVIDENCE]
        return self._spoken[best], np.take_along_axis(alike, best, 1)

    def _of_nearest(self, near: Sequence[Remembered]) -> Bounded:
        cosines = np.array([one.score for one in near], np.float32)
        vectors = np.stack([one.vector for one in near])
        return project_nearest(cosines, vectors, self._count, self.tau, self._part.renormalise)

    def _remembered(self) -> Laid | None:
        """All vectors remembered ``[N, dim]``; None where there are too many, or where none are needed."""
        self._captions: list[Said] = []
        self._spoken = np.empty(0, np.int64)
        self._count = count = 0 if self._memory is None else self._memory.count()
        if self.strategy != "audio" and not count:
            raise nothing_remembered()
        if self._memory is None:
            return None
        if self.strategy != "projection" or count > MOST_EXACT:
            _require_same_space(*self._memory.said(_READ_AGAIN), self._encoders)
            return None
        vectors, captions = self._memory.said(MOST_EXACT)
        _require_same_space(vectors, captions, self._encoders)
        telling = ~self._wordings.say_nothing(vectors)
        if telling.any():
            vectors, captions = vectors[telling], [captions[row] for row in np.flatnonzero(telling)]
        self._captions = captions
        spoken = _languages_told(self.language, {one.language for one in self._captions})
        self._spoken = np.flatnonzero([one.language in spoken for one in self._captions])
        return laid_out(vectors)

    def _text(self, hypothesis: Hypothesis) -> str:
        return tidy(self._tokenizer.text(hypothesis.pieces))

    def _vocabulary(self, learnt: str) -> Words | AnyWords:
        """English words that it ``learnt``, and of what is remembered; of a memory that isn't read whole, of some of
        it. Who learnt other languages, or nobody knows which, says any."""
        if self.language != "eng" or not learnt:
            return ANY
        said = self._captions or (self._memory.said(_MOST_SPOKEN)[1] if self._memory else [])
        english = (one.text for one in said if one.language in (self.language, UNDETERMINED))
        return Words((learnt, *english))

    def _self_test(self, points: FloatArray, scores: FloatArray) -> None:
        """Put the graphs to their self-test: points ``[n, dim]`` and the golden scores ``[n, k]`` of first pieces.

        Raises ``SelfTestError``.
        """
        start = self._tokenizer.piece(f"[{self._part.languages[0]}]")
        found, _ = self._steps(points, start).begin(scores.shape[-1])
        moved = float(np.abs(found[:, 0] - scores).max())
        if not moved <= GOLDEN_TOLERANCE:
            raise SelfTestError(f"log-probabilities {moved:.3f} off the golden", f"at most {GOLDEN_TOLERANCE}", _PULL)


class RetrievalCaptioner:
    """For a bundle that can't put a vector into words: of the nearest captions remembered the most distinctive, word
    for word.

    Silence and noise are called so, as ``Captioner`` does.
    """

    notes = ("this bundle has no decoder for that: captions are the nearest of those remembered, word for word",)
    strategy: Strategy = "nearest"

    def __init__(self, encoders: Encoders, memory: Remembering, language: str | None = None) -> None:
        """Of ``language``, or English where any near one is. Raises ``QueryError`` if nothing is remembered."""
        if not memory.count():
            raise nothing_remembered(has_decoder=False)
        _require_same_space(*memory.said(_READ_AGAIN), encoders)
        self._encoders, self._memory, self._language = encoders, memory, language
        self.language = language or "eng"
        self.eventless, self._wordings = eventless_of(encoders), Wordings(encoders.text)
        bundle: Bundle | None = getattr(encoders, "bundle", None)
        self._distinctive = distinctive_of(bundle)
        part = bundle.manifest.captioner if bundle is not None else None
        ours = part if part is not None and part.space_id == encoders.space.space_id else None
        self._curve: Calibration | None = ours.nearest if ours else None
        self._curves: Mapping[str, Calibration] = ours.nearest_in if ours else {}

    @cached_property
    def identity(self) -> str:
        """See ``Captioner.identity``."""
        space_id = self._encoders.space.space_id
        eventless = hashlib.sha256(self.eventless.noise.tobytes() + self._distinctive.common.tobytes()).hexdigest()
        curves = (self._curve, *sorted(self._curves.items()), *sorted(self._encoders.calibration.items()))
        how = (_WAY, space_id, self._language, curves, eventless)
        digest = _digest(how, self._memory.count(), self._memory.said(SAMPLED)[1])
        return f"{space_id.partition('@')[0]}-nearest#{digest}"

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """Vectors of sounds ``[n, dim]`` -> n captions; an empty one where none near is of the language.

        Raises ``QueryError`` for vectors of no sound.
        """
        units = _units(vectors, self._encoders.space.dim)
        return [self.eventless.said(vector, self.language) or self._nearest(vector) for vector in units]

    def caption_events(self, vectors: FloatArray) -> list[Caption]:
        """See ``Captioner.caption_events``."""
        return [self._nearest(vector) for vector in _units(vectors, self._encoders.space.dim)]

    def _nearest(self, vector: FloatArray) -> Caption:
        near = _telling(self._memory.nearest(vector, _NEAR), self._wordings)
        fitting = [one for one in near if one.language in (self.language, *_UNNAMED)]
        if not fitting and self._language is None:
            fitting = near
        if not fitting:
            return Caption("", 0.0, self.language)
        near = fitting[:EVIDENCE]
        best = near.pop(int(self._distinctive.likeness(np.stack([one.vector for one in near]), vector).argmax()))
        return _believed(best.text, best.score, self.curve(best.text, best.language), best.language, (best, *near))

    def curve(self, text: str, language: str) -> Calibration:
        """See ``Captioner.curve``; that of its language first. Where the bundle has none for this it is that of words,
        and no chance: it believes too much of the best of many sentences."""
        return self._curves.get(language) or self._curve or calibration_for(text, self._encoders.calibration)


def _units(vectors: FloatArray, dim: int) -> FloatArray:
    """Vectors of sounds ``[n, dim]`` at length one. Raises ``QueryError`` for what isn't, or can't be."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise QueryError(f"vectors {list(vectors.shape)}", f"[n, {dim}]", "use this bundle's own vectors")
    if not np.isfinite(vectors).all():
        raise QueryError("vectors with NaN or infinity", "unit vectors", "encode the sounds again")
    if not vectors.any(axis=1).all():
        raise QueryError("a vector of zeros", "unit vectors", "encode the sounds again")
    return normalise(vectors)


def _telling(near: list[_Meaning], wordings: Wordings) -> list[_Meaning]:
    """Of captions with a vector those that say that there is something to hear."""
    if not near:
        return near
    nothing = wordings.say_nothing(np.stack([one.vector for one in near]))
    return [one for one, empty in zip(near, nothing, strict=True) if not empty]


def _believed(text: str, cosine: float, curve: Calibration, language: str, evidence: tuple[Remembered, ...]) -> Caption:
    score = curve.relevance(cosine)
    return Caption(text, score, language, evidence, unsure=score < curve.cutoff)


def _languages_told(language: str, known: set[str]) -> tuple[str, ...]:
    """Of the languages of what is remembered those that evidence is told in: the caption's, else English, else any."""
    for told in ((language, *_UNNAMED), ("eng",)):
        if not known.isdisjoint(told):
            return told
    return tuple(known)


def _told_in(language: str, near: Sequence[Remembered]) -> tuple[Remembered, ...]:
    """The first few of the nearest captions, best first, that are told as evidence for a caption in a language."""
    told = _languages_told(language, {one.language for one in near})
    return tuple([one for one in near if one.language in told][:EVIDENCE])


def _require_same_space(vectors: FloatArray, said: Sequence[Said], encoders: Encoders) -> None:
    """Raise ``SpaceMismatchError`` if captions are remembered in another space, even one of as many numbers.

    Not every memory has a name that would tell: the first and the last, which may be a library's and a bundle's, are
    read again, and must lie where they are remembered.
    """
    if not said:
        return
    space, again = encoders.space, "remember them again with this bundle"
    if vectors.shape[1] != space.dim:
        found = f"captions remembered in another space, {vectors.shape[1]} numbers each"
        raise SpaceMismatchError(found, f"{space.dim}, those of {space.space_id}", again)
    rows = sorted({*range(len(said))[:_READ_AGAIN], *range(len(said))[-_READ_AGAIN:]})
    read = encoders.text.encode_text([said[row].text for row in rows])
    alike = float(np.median((vectors[rows] * read).sum(axis=1)))
    if not alike >= _SAME:
        found = f"captions remembered in another space, at a cosine of {alike:.2f} with their words in {space.space_id}"
        raise SpaceMismatchError(found, f"{_SAME} or more", again)


def _digest(how: tuple[object, ...], count: int, upon: Sequence[Said]) -> str:
    """A hash of how something is said, and of the ``count`` captions it builds upon, by those that are looked at."""
    digest = hashlib.sha256(repr((how, count)).encode())
    for key in sorted(one.key for one in upon):
        digest.update(key.encode())
    return digest.hexdigest()[:12]


def _part(bundle: Bundle) -> CaptionerPart:
    """What the manifest says of captions. Raises ``BundleError`` if nothing, or for another space."""
    part, manifest = bundle.manifest.captioner, bundle.manifest
    if part is None:
        raise BundleError(f"bundle {manifest.name} without a captioner", "one", "train it: `earshot train captioner`")
    if part.space_id != manifest.space_id:
        raise BundleError(
            f"a decoder that learnt to read {part.space_id}", f"{manifest.space_id}", "train one for this bundle"
        )
    return part


class _Pieces:
    """What captions are made of."""

    def __init__(self, path: Path) -> None:
        """Raises ``BundleError`` if the file is no tokenizer."""
        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} ({error})", "a tokenizer", _PULL) from error
        self.size: int = self._tokenizer.get_vocab_size()

    def piece(self, name: str) -> int:
        """The number of a piece. Raises ``BundleError`` if there is none."""
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None:
            raise BundleError(f"{self._path} without {name}", "a captioner's tokenizer", _PULL)
        return found

    def text(self, pieces: Sequence[int]) -> str:
        """What pieces say; special ones say nothing."""
        said: str = self._tokenizer.decode(list(pieces))
        return said.strip()
