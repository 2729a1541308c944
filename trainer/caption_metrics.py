"""How good captions are, against what people said of the same clips. Pure numpy, no torch.

Throughout, ``candidates`` are captions, one a clip, and ``references`` what people said of each clip, one or more.
Words are `words`: what the Java tokenizer of the COCO tools does to plain captions, and a word for each character of
Chinese, Japanese kana and kanji. Figures are from 0 to 1, CIDEr-D from 0 to 10, as in the captioning literature.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from engine.types import FloatArray
from exporters.asking import best_windows
from trainer.evaluate import Figure
from trainer.metrics import Floats, bootstrap, first_ranks, hits_at

#: The longest run of words that BLEU and CIDEr-D look at.
LONGEST = 4
#: ROUGE-L: how much recall weighs against precision, as in the COCO tools.
BETA = 1.2
#: CIDEr-D: how far a caption may be from a reference in length, in words (Vedantam et al. 2015, section 4).
SIGMA = 6.0
#: Measures that need more than this package: its ``find`` looks for what `aac-metrics-download` brings.
OUTSIDE = ("METEOR", "SPICE", "SPIDEr", "FENSE")

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+(?:'\w+)*")

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """A text's words, in lower case, without punctuation.

    >>> words("A dog's bark; 犬が吠える")
    ['a', "dog's", 'bark', '犬', 'が', '吠', 'え', 'る']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("’", "'"))


def text_figures(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[Figure]:
    """BLEU-1 to -4, ROUGE-L, CIDEr-D, distinct-1 and -2 and the vocabulary.

    Intervals come from drawing clips again; how rare words are, for CIDEr-D, stays that of all references.
    Raises ``ValueError`` if there is nothing to measure, or a clip has no reference.
    """
    told, known = _split(candidates, references)
    counts = bleu_counts(told, known)
    numbers = np.arange(len(told), dtype=np.float64)
    found = []
    for n in range(1, LONGEST + 1):
        low, high = bootstrap(numbers, lambda rows, n=n: bleu(counts[rows.astype(int)], n))  # type: ignore[misc]
        found.append(Figure(f"BLEU-{n}", bleu(counts, n), low, high, len(told)))
    found.append(Figure.of("ROUGE-L", rouge_l(told, known)))
    found.append(Figure.of("CIDEr-D", cider_d(told, known)))
    for n in (1, 2):
        value = distinct(told, n)
        found.append(Figure(f"distinct-{n}", value, value, value, len(told)))
    size = float(len({word for caption in told for word in caption}))
    return [*found, Figure("vocabulary", size, size, size, len(told))]


def sound_figures(captions: FloatArray, heard: Sequence[FloatArray]) -> list[Figure]:
    """How near captions are to their clips, and whether they find them among all clips.

    ``captions [n, dim]`` are the captions' text vectors; ``heard`` the clips' window vectors, ``[windows, dim]`` each,
    in the same order. Equal scores count against us, so that a caption said of every clip finds none.
    """
    scores = best_windows(captions, heard)
    own = np.eye(len(heard), dtype=bool)
    return [
        Figure.of("caption-audio similarity", scores.diagonal().astype(np.float64)),
        Figure.of("own clip R@1", hits_at(scores, own, 1)),
        Figure.of("own clip R@10", hits_at(scores, own, 10)),
        Figure.of("own clip MRR", 1 / first_ranks(scores, own)),
    ]


def bleu_counts(told: Sequence[list[str]], known: Sequence[Sequence[list[str]]]) -> NDArray[np.int64]:
    """``[clips, 2 + 2 * LONGEST]``: a caption's words, those of its nearest reference, then matches and runs by length.

    A run matches as often as the reference that has it most often has it (Papineni et al. 2002, section 2.1.1); the
    nearest reference is that of the nearest length, of two the shorter (section 2.2.2).
    """
    rows = []
    for caption, references in zip(told, known, strict=True):
        nearest = min((abs(len(one) - len(caption)), len(one)) for one in references)[1]
        row = [len(caption), nearest]
        for n in range(1, LONGEST + 1):
            runs = grams(caption, n)
            allowed: Counter[Gram] = Counter()
            for one in references:
                allowed |= grams(one, n)
            row += [(runs & allowed).total(), runs.total()]
        rows.append(row)
    return np.array(rows, np.int64)


def bleu(counts: NDArray[np.int64], n: int) -> float:
    """BLEU of a whole corpus from rows of ``bleu_counts``, without smoothing (Papineni et al. 2002, section 2.3)."""
    sums = counts.sum(axis=0)
    matches, runs = sums[2 : 2 + 2 * n : 2], sums[3 : 3 + 2 * n : 2]
    if not matches.all():
        return 0.0
    penalty = min(0.0, 1 - sums[1] / sums[0])
    return float(np.exp(penalty + np.log(matches / runs).mean()))


def rouge_l(told: Sequence[list[str]], known: Sequence[Sequence[list[str]]]) -> Floats:
    """Per clip the F-measure of the longest common subsequence (Lin 2004, eq. 4): best P and R of its references."""
    found = []
    for caption, references in zip(told, known, strict=True):
        common = [_common(caption, one) for one in references]
        precision = max(common) / max(len(caption), 1)
        recall = max(length / max(len(one), 1) for length, one in zip(common, references, strict=True))
        below = recall + BETA**2 * precision
        found.append((1 + BETA**2) * precision * recall / below if below else 0.0)
    return np.array(found)


def _common(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = 0
        for place, rival in enumerate(other, 1):
            above, row[place] = row[place], above + 1 if word == rival else max(row[place], row[place - 1])
    return row[-1]


def cider_d(told: Sequence[list[str]], known: Sequence[Sequence[list[str]]]) -> Floats:
    """Per clip CIDEr-D (Vedantam et al. 2015, eq. 5): how alike, among runs weighed by how rare they are.

    How rare is counted among the references given here, so figures of two sets of clips can't be compared.
    """
    holders: Counter[Gram] = Counter()
    for references in known:
        holders.update({gram for one in references for n in range(1, LONGEST + 1) for gram in grams(one, n)})
    clips = math.log(max(len(known), 1))

    def weigh(sentence: list[str], n: int) -> dict[Gram, float]:
        return {gram: count * (clips - math.log(max(1, holders[gram]))) for gram, count in grams(sentence, n).items()}

    found = []
    for caption, references in zip(told, known, strict=True):
        ours = [weigh(caption, n) for n in range(1, LONGEST + 1)]
        alike = [
            np.exp(-((len(caption) - len(one)) ** 2) / (2 * SIGMA**2))
            * np.mean([_clipped_cosine(ours[n - 1], weigh(one, n)) for n in range(1, LONGEST + 1)])
            for one in references
        ]
        found.append(10 * float(np.mean(alike)))
    return np.array(found)


def _clipped_cosine(ours: Mapping[Gram, float], theirs: Mapping[Gram, float]) -> float:
    """The cosine of two weighted bags, in which saying a run more often than the reference gains nothing."""
    dot = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
    lengths = _length(ours) * _length(theirs)
    return dot / lengths if lengths else 0.0


def _length(weights: Mapping[Gram, float]) -> float:
    return math.sqrt(sum(weight**2 for weight in weights.values()))


def distinct(told: Sequence[list[str]], n: int) -> float:
    """The share of all runs of ``n`` words that are different (Li et al. 2016, section 5.1); 0 where there is none."""
    runs = [gram for caption in told for gram in grams(caption, n).elements()]
    return len(set(runs)) / len(runs) if runs else 0.0


def grams(sentence: list[str], n: int) -> Counter[Gram]:
    """How often each run of ``n`` words occurs."""
    return Counter(tuple(sentence[start : start + n]) for start in range(len(sentence) - n + 1))


def _split(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[list[str]]]]:
    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError(
            f"found {len(candidates)} captions and references for {sum(map(bool, references))} clips, "
            "expected a caption and at least one reference for each clip"
        )
    return [words(text) for text in candidates], [[words(text) for text in told] for told in references]


def outside_figures(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[Figure], dict[str, str]]:
    """METEOR, SPICE, SPIDEr and FENSE by `aac-metrics`, where its resources are: figures, and why others didn't run."""
    if find_spec("aac_metrics") is None:
        why = "not run: needs the package aac-metrics and what its command aac-metrics-download brings"
        return [], dict.fromkeys(OUTSIDE, why)
    found: list[Figure] = []
    absent: dict[str, str] = {}
    known = [list(told) for told in references]
    for name in OUTSIDE:
        try:
            values = _measure(name)(list(candidates), known)
        except Exception as error:  # noqa: BLE001 - whatever is missing of another's, ours are worth telling
            absent[name] = f"not run: needs what aac-metrics-download brings ({_first_line(error)})"
        else:
            found.append(Figure.of(name, values))
    return found, absent


def _measure(name: str) -> Callable[[list[str], list[list[str]]], Floats]:
    """A measure of `aac-metrics`: its value for each clip."""
    key = name.lower()
    measure = getattr(import_module("aac_metrics.functional"), key)

    def values(candidates: list[str], references: list[list[str]]) -> Floats:
        _, each = measure(candidates, references)
        return np.asarray(each[key], np.float64)

    return values


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
