"""A sound's vector -> words, with the evidence: what is remembered, projected, put into a sentence.

Nothing is said of a sound without an event but that: a vector as near to those of silence or of noise as they are to
each other is called so, where nobody looked at its samples. Everything else gets a sentence, never one that says that
there is nothing to hear, and the sentence a score: how likely the text tower finds it that the sound is what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from engine.beams import Hypothesis, Rules, beam_search, greedy_search
from engine.bundle import Bundle, Calibration, CaptionerPart
from engine.caption_parts import (
    READ_AGAIN,
    SAMPLED,
    WAY,
    Remembering,
    believed,
    digest,
    languages_told,
    require_same_space,
    telling,
    told_in,
    units,
)
from engine.decoding import CachedSteps
from engine.distinctive import Distinctive
from engine.encoders import Encoders
from engine.errors import BundleError, QueryError, SelfTestError
from engine.eventless import Eventless, Wordings, anchors_in, kept_in
from engine.memory.captions import UNDETERMINED, Said
from engine.pieces import Pieces
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
#: Evidence is told in the caption's language, of so many captions of it at most looked through for each sound; and of
#: so many of the nearest where these are asked for.
_MOST_SPOKEN, _NEAR_IN_ALL = 16_384, 64
_PULL = "copy or export the bundle again"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What could be said of a sound, and its vector ``[dim]``."""

    text: str
    vector: FloatArray


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
        self._tokenizer = Pieces(bundle.path(part.tokenizer))
        anchors = anchors_in(bundle, part.anchors)
        self._distinctive = Distinctive(anchors["common"])
        self._words = self._vocabulary(str(anchors["words"]))
        self._remembers = {one.text for one in self._captions}
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
        how = (WAY, self.space_id, part, *graphs, self.strategy, self.beams, self.tau, self.language)
        if self.strategy == "audio" or self._memory is None:
            return f"{self._bundle.manifest.name}#{digest(how, 0, [])}"
        upon = self._captions or self._memory.said(SAMPLED)[1]
        return f"{self._bundle.manifest.name}#{digest(how, self._count, upon)}"

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """Sounds ``[n, dim]``, at any length -> n captions. Raises ``QueryError`` for vectors of no sound."""
        return list(self.captions(vectors))

    def caption_events(self, vectors: FloatArray) -> list[Caption]:
        """The same of sounds with an event by their samples: they are never called silence or noise."""
        sounds = units(vectors, self._dim)
        batches = (sounds[first : first + BATCH] for first in range(0, len(sounds), BATCH))
        return [caption for batch in batches for caption in self._said(batch)]

    def captions(self, vectors: FloatArray) -> Iterator[Caption]:
        """As ``caption``, one by one, a batch in work at a time."""
        sounds = units(vectors, self._dim)
        for first in range(0, len(sounds), BATCH):
            yield from self._batch(sounds[first : first + BATCH])

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

        One of words, that doesn't say that there is nothing to hear, if any is; and nothing twice, if any doesn't.
        """
        spoken = [one for one in beams if one.text and self._words.know(one.text)]
        among = [one for one in spoken if self._words.flow(one.text)]
        if self._part.rerank:
            among += [_Candidate(one.text, one.vector) for one in evidence if one.language == self.language]
        among = telling(among, self._wordings) or telling(spoken, self._wordings)
        if not among and not beams[0].text:
            return Caption("", 0.0, self.language, evidence)
        best = (among or beams)[0]
        if among and self._part.rerank:
            likeness = self._distinctive.likeness(np.stack([one.vector for one in among]), sound)
            best = among[int(likeness.argmax())]
        curve, alike = self.curve(best.text), float(best.vector @ sound)
        caption = believed(best.text, alike, curve, self.language, evidence)
        return caption if among else replace(caption, unsure=True)

    def curve(self, text: str) -> Calibration:
        """From the cosine of a sound and this caption to the chance that it is right; below the cutoff it is unsure.

        Where nobody has fitted it to this decoder, that of what is remembered; that of words believes too much.
        """
        return self._part.calibration or self._part.nearest or calibration_for(text, self._encoders.calibration)

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
        near = [telling(each, self._wordings) or each for each in asked]
        evidence = [told_in(self.language, each) for each in near]
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
        if self._spoken_vectors is None:
            return None
        alike = vectors @ self._spoken_vectors.T
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
        self._spoken_vectors: FloatArray | None = None
        self._count = count = 0 if self._memory is None else self._memory.count()
        if self.strategy != "audio" and not count:
            raise nothing_remembered()
        if self._memory is None:
            return None
        if self.strategy != "projection" or count > MOST_EXACT:
            require_same_space(*self._memory.said(READ_AGAIN), self._encoders)
            return None
        vectors, captions = self._memory.said(MOST_EXACT)
        require_same_space(vectors, captions, self._encoders)
        rows = np.flatnonzero(~self._wordings.say_nothing(vectors))
        if len(rows):
            vectors, captions = vectors[rows], [captions[row] for row in rows]
        self._captions = captions
        spoken = languages_told(self.language, {one.language for one in self._captions})
        self._spoken = np.flatnonzero([one.language in spoken for one in self._captions])
        if 0 < len(self._spoken) <= min(_MOST_SPOKEN, len(captions) - 1):
            self._spoken_vectors = vectors[self._spoken]
        return laid_out(vectors)

    def _text(self, hypothesis: Hypothesis) -> str:
        text = " ".join(self._tokenizer.text(hypothesis.pieces).split())
        return text if text in self._remembers else tidy(text)  # "a dog going woof woof"

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
