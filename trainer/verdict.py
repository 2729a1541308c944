"""`earshot eval`: a bundle asked about clips whose captions or tags are known; two of them compared. No torch.

It is asked through the engine, as a user would ask it. What was asked, and how it was counted, is part of the answer
(``Verdict.protocol``), because R@1 moves by points with the protocol alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.audio import naming
from engine.encoders import BATCH_WINDOWS, Encoders
from engine.errors import AudioError, EarshotError
from engine.types import FloatArray, Space, Window
from engine.windows import cut
from trainer.metrics import Floats, Relevance, Scores, choices
from trainer.probe import ProbeError, folds, probed
from trainer.scores import (
    ROUNDS,
    SEED,
    ClassPrecision,
    Heard,
    Integers,
    Interval,
    Mean,
    Ranks,
    Statistic,
    difference,
    drawings,
    measured,
)

if TYPE_CHECKING:
    from trainer.manifest import Example

#: What a figure is about: task, language (or nothing), convention (or nothing), measure.
Key: TypeAlias = tuple[str, str, str, str]
#: Asked of the first of these splits that the data have.
SPLITS = ("test", "eval", "evaluation", "dev", "development", "val", "valid", "validation")
#: As a split: all of them.
ALL = "all"
#: A tag is asked for by its name alone; published figures often put it into a sentence.
PROMPT = "{}"
#: Beyond this share of captions that several clips have, retrieval by captions says little.
MOST_SHARED = 0.2
CONVENTIONS = {
    "mean": "mean over captions: each caption asks, or is the one right answer, by itself",
    "any": "any caption: of a clip's captions the one that does best counts",
}


class EvaluationError(EarshotError):
    """Data that nothing can be asked about."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one bundle; or, of two, by how much the second is higher. ``count``: the queries behind it."""

    task: str
    language: str
    convention: str
    measure: str
    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, key: Key, found: Interval, count: int) -> Figure:
        """The figure of this key."""
        return cls(*key, found.value, found.low, found.high, count)

    @property
    def name(self) -> str:
        """Such as ``text-to-audio R@1, eng, mean``."""
        return ", ".join(part for part in (f"{self.task} {self.measure}", self.language, self.convention) if part)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Kinds of sounds to be learnt, and asked about; scores ``[tags, n]`` are wanted.

    ``relevant [tags, n]`` of n examples, which are the ``rows [n]`` of all that were heard; ``rounds`` as
    ``trainer.probe.folds`` gives them.
    """

    examples: list[Example]
    rows: Integers
    relevant: Relevance
    rounds: list[tuple[Integers, Integers]]


@dataclass(slots=True)
class Verdict:
    """The figures of one or two bundles, with how they came about.

    ``differences`` are the second's less the first's, under the same drawings of clips; ``skipped`` names the clips
    that a bundle could not hear, which are left out for both.
    """

    protocol: dict[str, Any]
    bundles: dict[str, list[Figure]] = field(default_factory=dict)
    differences: list[Figure] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "protocol": self.protocol,
            "bundles": {name: [asdict(figure) for figure in figures] for name, figures in self.bundles.items()},
            "differences": [asdict(figure) for figure in self.differences],
            "skipped": [{"clip": clip, "reason": reason} for clip, reason in self.skipped],
        }


def chosen(examples: Sequence[Example], split: str | None) -> tuple[list[Example], str]:
    """The examples to ask about, and their split: the named one (``all`` for all), else the first of ``SPLITS`` that is
    there, else the only one. Raises ``EvaluationError`` where there are none.
    """
    known = Counter(example.split for example in examples)
    if split is None:
        split = next((name for name in SPLITS if name in known), next(iter(known)) if len(known) == 1 else None)
    wanted = [example for example in examples if split in (example.split, ALL)]
    if not wanted:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(known.items())) or "clips"
        raise EvaluationError(
            f"no clips of split {split}" if split else "no split to ask about",
            there,
            "choose one of these with --split",
        )
    return wanted, str(split)


def judge(
    bundles: Mapping[str, Encoders],
    examples: Sequence[Example],
    prompt: str = PROMPT,
    on_clip: Callable[[str, int], None] = lambda _, __: None,
    learnt: Sequence[Example] | None = None,
    classify: Callable[[str, Lesson], Floats] | None = None,
) -> Verdict:
    """Ask one or two bundles, by name, about the same clips. ``on_clip``: the bundle and how many it has heard.

    With ``learnt``, examples to learn kinds of sounds from, a linear probe as well; an empty sequence means by
    cross-validation over the splits of ``examples``. Then ``classify`` may learn them as well, from the bundle's name
    and a ``Lesson``. Raises ``ProbeError`` where that can't be.

    Raises ``EvaluationError`` if the clips have neither captions nor tags, or none can be heard; ``BundleError``.
    """
    if not any(example.captions or example.tags for example in examples):
        raise EvaluationError(f"{len(examples)} clips without captions or tags", "some that say what is heard")
    all_examples = [*examples, *(learnt or ())]
    heard, skipped = _heard_by_all(bundles, all_examples, on_clip)
    kept = [example for number, example in enumerate(examples) if number not in skipped]
    taught = [example for number, example in enumerate(learnt or (), len(examples)) if number not in skipped]
    if not kept:
        raise EvaluationError(
            f"{len(skipped)} clips, none of which can be heard", "sounds", next(iter(skipped.values()))
        )
    verdict = Verdict(_protocol(bundles, kept, prompt))
    verdict.skipped = [(all_examples[number].name, reason) for number, reason in sorted(skipped.items())]
    weights = drawings(len(kept))
    asked = []
    for name, encoders in bundles.items():
        everything = Heard.of([vectors for number, vectors in enumerate(heard[name]) if number not in skipped])
        mine = everything.part(0, len(kept))
        statistics = retrieval(encoders, mine, kept) | zero_shot(encoders, mine, kept, prompt)
        if learnt is not None:
            statistics |= learned("linear probe", kept, taught, lambda lesson, e=everything: _probed(lesson, e))  # type: ignore[misc]
        if learnt is not None and classify is not None:
            statistics |= learned("fine-tuned", kept, taught, lambda lesson, name=name: classify(name, lesson))  # type: ignore[misc]
        verdict.bundles[name] = [Figure.of(key, measured(s, weights), s.count) for key, s in statistics.items()]
        asked.append(statistics)
    if len(asked) == 2:
        ours, theirs = asked
        verdict.differences = [
            Figure.of(key, difference(ours[key], theirs[key], weights), ours[key].count) for key in ours
        ]
    return verdict


def retrieval(encoders: Encoders, heard: Heard, examples: Sequence[Example]) -> dict[Key, Statistic]:
    """Both directions in each language, among all clips and all captions of the language."""
    found: dict[Key, Statistic] = {}
    for language in sorted({caption.lang for example in examples for caption in example.captions}):
        texts, clips = _captions(examples, language)
        ranks = Ranks.of(encoders.text.encode_text(texts), clips, heard)
        for (task, convention, measure), statistic in ranks.measures().items():
            found[task, language, convention, measure] = statistic
    return found


def zero_shot(encoders: Encoders, heard: Heard, examples: Sequence[Example], prompt: str) -> dict[Key, Statistic]:
    """Which tag each clip is nearest to, where each has one, and how well each tag finds its clips.

    Clips without tags are left out.
    """
    tagged = np.array([number for number, example in enumerate(examples) if example.tags], np.int64)
    names = sorted({tag for example in examples for tag in example.tags})
    if len(names) < 2:
        return {}
    texts = encoders.text.encode_text([prompt.replace("{}", name.replace("_", " ")) for name in names])
    return _of_kinds("zero-shot", heard.scores(texts)[:, tagged], _relevant(examples, names)[:, tagged], tagged)


def learned(
    task: str, asked: Sequence[Example], learnt: Sequence[Example], learn: Callable[[Lesson], Floats]
) -> dict[Key, Statistic]:
    """As ``zero_shot``, but of something that learns the tags: see ``folds``. Clips without tags are left out."""
    rows = np.array([number for number, example in enumerate((*asked, *learnt)) if example.tags], np.int64)
    tagged = [(*asked, *learnt)[row] for row in rows]
    clips = rows[rows < len(asked)]
    names = sorted({tag for example in tagged for tag in example.tags})
    if len(names) < 2 or not len(clips):
        raise ProbeError(f"{len(names)} tags, of {len(clips)} clips to ask about", "two at least")
    relevant = _relevant(tagged, names)
    scores = learn(Lesson(tagged, rows, relevant, folds(tagged[: len(clips)], tagged[len(clips) :])))
    return _of_kinds(task, scores[:, : len(clips)], relevant[:, : len(clips)], clips)


def _probed(lesson: Lesson, heard: Heard) -> Floats:
    return probed(heard.pooled()[lesson.rows], lesson.relevant, lesson.rounds)


def _relevant(examples: Sequence[Example], names: Sequence[str]) -> Relevance:
    """Which clip has which tag, ``[tags, clips]``."""
    return np.array([[name in example.tags for example in examples] for name in names])


def _of_kinds(task: str, scores: Scores, relevant: Relevance, clips: Integers) -> dict[Key, Statistic]:
    """Accuracy where each clip has one tag, and mAP, from ``[tags, m]`` of the ``clips [m]``."""
    found: dict[Key, Statistic] = {}
    if (relevant.sum(axis=0) == 1).all():
        found[task, "", "", "accuracy"] = Mean(choices(scores.T, relevant.argmax(axis=0)), clips)
    found[task, "", "", "mAP"] = ClassPrecision(scores, relevant, clips)
    return found


def _captions(examples: Sequence[Example], language: str) -> tuple[list[str], Integers]:
    """All captions of a language, and whose each is."""
    rows = [
        (caption.text, number)
        for number, example in enumerate(examples)
        for caption in example.captions
        if caption.lang == language
    ]
    return [text for text, _ in rows], np.array([number for _, number in rows], np.int64)


def _heard_by_all(
    bundles: Mapping[str, Encoders], examples: Sequence[Example], on_clip: Callable[[str, int], None]
) -> tuple[dict[str, list[FloatArray]], dict[int, str]]:
    """Every bundle's windows of every clip, and why some clips can't be heard, by number."""
    heard: dict[str, list[FloatArray]] = {}
    skipped: dict[int, str] = {}
    for name, encoders in bundles.items():
        heard[name] = hear(encoders, examples, skipped, lambda done, name=name: on_clip(name, done))  # type: ignore[misc]
    return heard, skipped


def hear(
    encoders: Encoders,
    examples: Sequence[Example],
    skipped: dict[int, str],
    on_clip: Callable[[int], None] = lambda _: None,
) -> list[FloatArray]:
    """Each clip's window vectors ``[windows, dim]``; of one that can't be heard none, and ``skipped`` says why.

    Batches cross clips; decoded audio is never held beyond a batch.
    """
    found: list[list[FloatArray]] = [[] for _ in examples]
    stream = _windows(encoders.space, examples, skipped, on_clip)
    while batch := list(islice(stream, BATCH_WINDOWS)):
        vectors = encoders.audio.encode_audio(np.stack([window.samples for _, window in batch]))
        for (number, _), vector in zip(batch, vectors, strict=True):
            found[number].append(vector)
    return [np.array(vectors, np.float32).reshape(len(vectors), encoders.space.dim) for vectors in found]


def _windows(
    space: Space, examples: Sequence[Example], skipped: dict[int, str], on_clip: Callable[[int], None]
) -> Iterator[tuple[int, Window]]:
    for number, example in enumerate(examples):
        try:
            with naming(example.audio):
                for window in cut(example.open(space.sample_rate_hz).blocks, space):
                    yield number, window
        except (AudioError, OSError) as error:
            skipped[number] = str(error)
        on_clip(number + 1)


def _protocol(bundles: Mapping[str, Encoders], examples: Sequence[Example], prompt: str) -> dict[str, Any]:
    """All that a figure depends on besides bundle and data, in words that can be printed."""
    languages = Counter(caption.lang for example in examples for caption in example.captions)
    texts = Counter((c.lang, c.text.casefold().strip()) for example in examples for c in example.captions)
    spaces = {name: encoders.space for name, encoders in bundles.items()}
    protocol: dict[str, Any] = {
        "clips": len(examples),
        "set": _fingerprint(examples),
        "captions": dict(sorted(languages.items())),
        "captions_per_clip": {str(n): clips for n, clips in sorted(Counter(len(e.captions) for e in examples).items())},
        "shared_captions": (shared := sum(count for count in texts.values() if count > 1)),
        "right_answers": "of a caption its own clip alone, also where another clip has the same caption",
        "candidates": "text-to-audio: all clips; audio-to-text: all captions of the language",
        "ties": "against the bundle: of equal scores, to six decimals, the wrong answers come first",
        "windows": "a clip's score is that of its best window",
        "window_s": {name: f"{space.window_s:g} every {space.hop_s:g}" for name, space in spaces.items()},
        "spaces": {name: space.space_id for name, space in spaces.items()},
        "conventions": CONVENTIONS,
        "tags": len({tag for example in examples for tag in example.tags}),
        "prompt": prompt,
        "intervals": f"95 %, {ROUNDS} drawings of clips with replacement, seed {SEED}; differences under the same ones",
    }
    if shared > MOST_SHARED * texts.total():
        protocol["remark"] = (
            "many captions are those of several clips, of which one counts: say kinds of sounds as tags"
        )
    return protocol


def _fingerprint(examples: Sequence[Example]) -> str:
    """Twelve digits that are the same where the same was asked."""
    told = hashlib.sha256()
    for example in examples:
        told.update(repr((example.name, [(c.lang, c.text) for c in example.captions], sorted(example.tags))).encode())
    return told.hexdigest()[:12]
