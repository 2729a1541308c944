"""Caption measures against hand-worked cases, slow obvious versions and, where it is installed, `aac-metrics`.

The figures of ``GIVEN`` are what `aac-metrics` 0.6.0 says of these captions, split at spaces.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import caption_metrics
from trainer.caption_metrics import (
    OUTSIDE,
    bleu,
    bleu_counts,
    cider_d,
    distinct,
    outside_figures,
    rouge_l,
    sound_figures,
    text_figures,
    words,
)

CANDIDATES = ["a dog barks loudly", "rain falls on a roof", "the rain falls on the the roof", "birds"]
REFERENCES = [
    ["a dog barks", "the dog is barking loudly outside"],
    ["rain falls on the roof of a car", "it rains"],
    ["rain falls on the roof", "it is raining on the roof of the house"],
    ["birds sing", "many birds sing at dawn"],
]
GIVEN = {
    "BLEU-1": 0.941176470532872,
    "BLEU-2": 0.7610423905955362,
    "BLEU-3": 0.614175605119347,
    "BLEU-4": 0.42652541261818666,
    "ROUGE-L": [0.8798076923076923, 0.5907990314769976, 0.8591549295774649, 0.6288659793814433],
    "CIDEr-D": [3.537074664099973, 1.0730399237532855, 2.8118304905699927, 1.319317991142226],
}
TOLD, KNOWN = [words(text) for text in CANDIDATES], [[words(text) for text in told] for told in REFERENCES]

sentence = st.lists(st.sampled_from("abcd"), min_size=1, max_size=7)
clips = st.lists(st.tuples(sentence, st.lists(sentence, min_size=1, max_size=3)), min_size=1, max_size=5)


def test_words_are_what_is_compared() -> None:
    assert words("A dog's bark — twice, it’s LOUD.") == ["a", "dog's", "bark", "twice", "it's", "loud"]
    assert words("犬が吠える dog") == ["犬", "が", "吠", "え", "る", "dog"]
    assert words("élève über") == ["élève", "über"]


def test_figures_are_those_of_aac_metrics() -> None:
    counts = bleu_counts(TOLD, KNOWN)
    for n in range(1, 5):
        assert bleu(counts, n) == pytest.approx(GIVEN[f"BLEU-{n}"], abs=1e-8)
    assert rouge_l(TOLD, KNOWN) == pytest.approx(GIVEN["ROUGE-L"])
    assert cider_d(TOLD, KNOWN) == pytest.approx(GIVEN["CIDEr-D"])


def test_figures_against_aac_metrics_itself() -> None:
    theirs = pytest.importorskip("aac_metrics.functional", reason="aac-metrics isn't installed", exc_type=ImportError)
    for n in range(1, 5):
        found, _ = theirs.bleu(CANDIDATES, REFERENCES, n=n, tokenizer=str.split)
        assert bleu(bleu_counts(TOLD, KNOWN), n) == pytest.approx(float(found[f"bleu_{n}"]), abs=1e-8)
    for ours, name in ((rouge_l, "rouge_l"), (cider_d, "cider_d")):
        _, each = getattr(theirs, name)(CANDIDATES, REFERENCES, tokenizer=str.split)
        assert ours(TOLD, KNOWN) == pytest.approx(np.asarray(each[name]))


def test_bleu_by_hand() -> None:
    # "the the the" against "the cat": one of three words counts, and it is longer than its reference.
    counts = bleu_counts([["the"] * 3], [[["the", "cat"]]])
    assert counts[0].tolist()[:4] == [3, 2, 1, 3]
    assert bleu(counts, 1) == pytest.approx(1 / 3)
    assert bleu(counts, 2) == 0.0
    # A caption of one word against one of three: the penalty is exp(1 - 3).
    assert bleu(bleu_counts([["cat"]], [[["the", "cat", "sits"]]]), 1) == pytest.approx(math.exp(-2))


@given(clips)
def test_bleu_is_the_product_of_its_precisions(found: list[tuple[list[str], list[list[str]]]]) -> None:
    told, known = [one for one, _ in found], [many for _, many in found]
    for n in (1, 2):
        value = bleu(bleu_counts(told, known), n)
        assert value == pytest.approx(slow_bleu(told, known, n), abs=1e-9)


def slow_bleu(told: list[list[str]], known: list[list[list[str]]], n: int) -> float:
    logs = []
    for size in range(1, n + 1):
        matches = runs = 0
        for caption, references in zip(told, known, strict=True):
            mine = list(zip(*(caption[i:] for i in range(size)), strict=False))
            runs += len(mine)
            for run in set(mine):
                best = max(list(zip(*(one[i:] for i in range(size)), strict=False)).count(run) for one in references)
                matches += min(mine.count(run), best)
        if not matches:
            return 0.0
        logs.append(math.log(matches / runs))
    length = sum(map(len, told))
    wanted = sum(
        sorted((abs(len(one) - len(caption)), len(one)) for one in references)[0][1]
        for caption, references in zip(told, known, strict=True)
    )
    return min(1.0, math.exp(1 - wanted / length)) * math.exp(sum(logs) / n)


@given(sentence, sentence)
def test_rouge_finds_the_longest_common_subsequence(caption: list[str], reference: list[str]) -> None:
    parts = {part for size in range(1, len(caption) + 1) for part in combinations(caption, size)}
    common = max((len(part) for part in parts if is_within(part, reference)), default=0)
    precision, recall = common / len(caption), common / len(reference)
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if common else 0.0
    assert rouge_l([caption], [[reference]])[0] == pytest.approx(expected)


def is_within(part: tuple[str, ...], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


def test_cider_knows_what_is_rare() -> None:
    # "a" is in every clip's references and weighs nothing, "dog" in one of two.
    known = [[["a", "dog"]], [["a", "cat"]]]
    assert cider_d([["a", "dog"], ["a", "dog"]], known)[0] == pytest.approx(10 * 2 / 4)
    assert cider_d([["a", "dog"], ["a", "dog"]], known)[1] == 0.0
    # One word too many costs exp(-1 / 72), and "dog" twice gains nothing: of (2, 1), (1, 1) counts.
    longer = cider_d([["a", "dog", "dog"], ["a"]], known)[0]
    one, two = 1 / math.sqrt(4), 1 / math.sqrt(2)
    assert longer == pytest.approx(10 * math.exp(-1 / 72) * (one + two) / 4)


def test_distinct_and_vocabulary() -> None:
    told = [["a", "dog"], ["a", "cat"]]
    assert distinct(told, 1) == 3 / 4
    assert distinct(told, 2) == 1.0
    assert distinct([["a"]], 2) == 0.0
    named = {figure.name: figure for figure in text_figures(CANDIDATES, REFERENCES)}
    assert named["vocabulary"].value == len({word for text in CANDIDATES for word in text.split()})
    assert named["BLEU-1"].low <= named["BLEU-1"].value <= named["BLEU-1"].high
    assert named["CIDEr-D"].value == pytest.approx(np.mean(GIVEN["CIDEr-D"]))


@pytest.mark.parametrize(("candidates", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_nothing_to_measure_is_refused(candidates: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        text_figures(candidates, references)


def test_a_caption_finds_its_own_clip() -> None:
    heard = [np.eye(3, dtype=np.float32)[[i]] for i in range(3)]
    right = {figure.name: figure.value for figure in sound_figures(np.eye(3, dtype=np.float32), heard)}
    assert right["own clip R@1"] == 1.0
    assert right["caption-audio similarity"] == 1.0
    same = np.repeat(np.eye(3, dtype=np.float32)[:1], 3, axis=0)
    figures = {figure.name: figure.value for figure in sound_figures(same, heard)}
    assert figures["own clip R@1"] == pytest.approx(1 / 3)
    assert figures["own clip MRR"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_what_cannot_run_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "find_spec", lambda _: None)
    found, absent = outside_figures(CANDIDATES, REFERENCES)
    assert found == []
    assert list(absent) == list(OUTSIDE)
    assert all(why.startswith("not run: needs") for why in absent.values())


def test_what_fails_in_another_package_is_told_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(name: str) -> object:
        def values(candidates: list[str], references: list[list[str]]) -> np.ndarray:
            if name != "METEOR":
                raise FileNotFoundError("no models")
            return np.full(len(candidates), 0.5)

        return values

    monkeypatch.setattr(caption_metrics, "find_spec", lambda _: object())
    monkeypatch.setattr(caption_metrics, "_measure", measure)
    found, absent = outside_figures(CANDIDATES, REFERENCES)
    assert [(figure.name, figure.value) for figure in found] == [("METEOR", 0.5)]
    assert absent["SPICE"] == "not run: needs what aac-metrics-download brings (no models)"
