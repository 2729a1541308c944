"""What the starter remembers, and what captioners learn from."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import OnnxEncoders, normalise
from trainer.caption_metrics import words
from trainer.parallel import LANGUAGES
from trainer.recipes.caption_shipping import MOST_REMEMBERED, described, farthest
from trainer.recipes.captions import Work
from trainer.references import Echoes, reference_sentences

DATA = Path("../shared/data")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(DATA, tmp_path_factory.mktemp("captions"), STARTER_DIR)


@pytest.fixture(scope="module")
def remembered() -> dict[str, np.ndarray]:
    with np.load(STARTER_DIR / "memory.npz", allow_pickle=False) as held:
        return dict(held)


def test_the_memory_is_ours_small_and_the_same_in_every_language(work: Work, remembered: dict[str, np.ndarray]) -> None:
    texts, languages = remembered["texts"].tolist(), remembered["languages"].tolist()
    assert len(texts) <= MOST_REMEMBERED
    counts = Counter(languages)
    assert set(counts) == set(LANGUAGES)
    assert max(counts.values()) - min(counts.values()) <= 10  # a text that two concepts share counts once
    ours = {(described(one, lang), lang) for one in work.events + work.sentences for lang in LANGUAGES}
    assert set(zip(texts, languages, strict=True)) <= ours


def test_nothing_remembered_echoes_a_reference(remembered: dict[str, np.ndarray]) -> None:
    echoes = Echoes(reference_sentences())
    english = remembered["texts"][remembered["languages"] == "eng"].tolist()
    assert not [text for text in english if text in echoes]


def test_remembered_vectors_are_those_of_the_text_tower(remembered: dict[str, np.ndarray]) -> None:
    some = np.arange(0, len(remembered["texts"]), 250)
    vectors = OnnxEncoders(open_bundle("starter"), "cpu", 1).text.encode_text(remembered["texts"][some].tolist())
    assert remembered["vectors"].dtype == np.float16
    assert np.einsum("nd,nd->n", vectors, remembered["vectors"][some].astype(np.float32)).min() > 0.999


@pytest.mark.skipif(not (DATA / "text" / "audiocaps.csv").is_file(), reason="../shared/data is absent")
def test_nothing_learnt_echoes_a_reference(work: Work) -> None:
    echoes = Echoes(reference_sentences())
    ours = [text for one in work.sentences + work.phrased for text in one.english]
    for found in (ours, *work.captions):
        assert len(found) > 1000
        assert not [text for text in found if text in echoes]


@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 999))
def test_the_farthest_are_those_that_a_slow_search_finds(others: int, count: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    start, rest = (normalise(chance.standard_normal((n, 3)).astype(np.float32)) for n in (2, others))
    found = farthest(start, rest, count)
    assert len(found) == min(count, others) == len(set(found))
    known = list(start)
    for number in found:
        left = [n for n in range(others) if n not in found[: found.index(number)]]
        nearest = [max(float(rest[n] @ one) for one in known) for n in left]
        assert nearest[left.index(number)] == pytest.approx(min(nearest), abs=1e-6)
        known.append(rest[number])


#: Columns of the texts that must not ship.
OTHERS = {
    "audiocaps.csv": ("caption",),
    "audiocaps_eng_jpn.csv": ("eng",),
    "wavtext5k.csv": ("title", "description"),
    "audioset_ontology.csv": ("name", "description"),
}
#: What is remembered and somebody else wrote, too, of four words or more: so short that it is said by chance. These
#: stay until the starter learns anew, as it has learnt from them.
BY_CHANCE = {
    "a cat is meowing",
    "a duck is quacking",
    "a person whistling a tune",
    "an alarm is going off",
    "an infant is crying",
    "crickets chirping at night",
    "cutting wood with a saw",
    "water flowing and splashing",
}


@pytest.mark.skipif(not (DATA / "text").is_dir(), reason="../shared/data is absent")
def test_no_more_is_remembered_as_others_wrote_it_than_by_chance(remembered: dict[str, np.ndarray]) -> None:
    theirs = set()
    for name, columns in OTHERS.items():
        with (DATA / "text" / name).open(encoding="utf-8", newline="") as stream:
            theirs |= {" ".join(words(row[column])) for row in csv.DictReader(stream) for column in columns}
    assert "crickets chirping at night" in theirs  # what is looked for can be found
    texts = zip(remembered["texts"].tolist(), remembered["languages"].tolist(), strict=True)
    told = {" ".join(words(text)) for text, language in texts if language == "eng"}
    same = {text for text in told & theirs if len(text.split()) >= 4}
    print(f"{len(same)} sentences as others wrote them:", *sorted(same), sep="\n")
    assert same <= BY_CHANCE
