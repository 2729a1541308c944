"""The references stay as they were before anything was trained, and their echoes are found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle import file_sha256
from trainer.caption_metrics import words
from trainer.data import read_rows
from trainer.references import (
    FOLDER,
    GRAM,
    SHARE,
    Echoes,
    dev_references,
    held_references,
    reference_sentences,
)

DATA = Path("../shared/data")
FROZEN = {
    "references_dev.tsv": "24763a715780de26822d40eb6c4b7cd32252035ed3e79105602769385fefb88b",
    "references_held.tsv": "9f9a519421a22676f19f145acb4aa8d8924ced8671e3234f1f933064a6a63b0f",
}


@pytest.mark.parametrize("name", FROZEN)
def test_references_are_frozen(name: str) -> None:
    assert file_sha256(FOLDER / name) == FROZEN[name]


@pytest.mark.skipif(not (DATA / "sounds.csv").is_file(), reason="../shared/data is absent")
def test_every_dev_clip_and_enough_held_out_ones_have_captions() -> None:
    rows = read_rows(DATA)
    dev, held = dev_references(rows), held_references(rows)
    assert len(dev) == 223
    assert len(Counter(clip.kind for clip in dev)) == 45
    assert len(held) >= 200
    assert all(len(set(clip.captions)) >= 3 for clip in [*dev, *held])
    assert not {clip.path for clip in dev} & {clip.path for clip in held}


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        ("Dog barks.", True),
        ("A person types on a keyboard", True),
        ("Someone types on a keyboard while a dog barks in the yard", True),
        ("A dog barks at a passing train", False),
        ("Typing", False),
    ],
)
def test_echoes(text: str, echo: bool) -> None:
    assert (text in Echoes(["a dog barks", "someone types on a keyboard"])) is echo


def slow_echo(text: str, reference: str) -> bool:
    """The rule, word for word."""
    here, there = words(text), words(reference)
    articles = ("a", "an", "the")
    if [word for word in here if word not in articles] == [word for word in there if word not in articles]:
        return True
    runs = {" ".join(there[i : i + GRAM]) for i in range(len(there) - GRAM + 1)}
    shared = {run for run in runs if f" {run} " in f" {' '.join(here)} "}
    return len(runs) >= 2 and len(shared) >= SHARE * len(runs)


sentences = st.lists(st.sampled_from(["a", "dog", "barks", "and", "rain", "falls"]), min_size=1).map(" ".join)


@given(sentences, st.lists(sentences, max_size=4))
def test_echoes_follow_the_rule(text: str, references: list[str]) -> None:
    assert (text in Echoes(references)) is any(slow_echo(text, reference) for reference in references)


def test_every_reference_echoes_itself() -> None:
    told = reference_sentences()
    found = Echoes(told)
    assert len(told) > 900
    assert all(sentence in found for sentence in told)
