"""Pieces: what is dropped, what is kept, and where their vectors start."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.vocabulary import learn_tokenizer, starting_vectors

TEXTS = [
    "a dog barking",
    "Hundegebell",
    "Hund bellt",
    "perro ladrando",
    "雨の音",
    "ガラガラ",
    "カラカラ",
    "下雨的声音",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(TEXTS, 120)


@pytest.mark.parametrize(
    ("typed", "meant"), [("Hundegebéll", "hundegebell"), ("PERRO", "perro"), ("straße", "strasse")]
)
def test_case_and_latin_accents_are_dropped(tokenizer, typed: str, meant: str):
    assert tokenizer.encode(typed).ids == tokenizer.encode(meant).ids


def test_japanese_voicing_marks_are_kept(tokenizer):
    assert tokenizer.encode("ガラガラ").ids != tokenizer.encode("カラカラ").ids


def test_an_unknown_character_costs_one_piece_only(tokenizer):
    known, strange = tokenizer.encode("雨の音").ids, tokenizer.encode("雨の鬱音").ids
    assert set(known) & set(strange) - {tokenizer.token_to_id("[BEGIN]")}


def test_even_an_empty_text_has_a_piece(tokenizer):
    assert tokenizer.encode("").tokens == ["[BEGIN]"]


def test_starting_vectors_against_loops():
    chance = np.random.default_rng(0)
    texts = [chance.integers(0, 6, n).tolist() for n in (1, 2, 3, 4, 5)]
    targets = chance.standard_normal((5, 3))
    found = starting_vectors(texts, targets, pieces=8)
    sums, counts = np.zeros((8, 3)), np.zeros(8)
    for ids, target in zip(texts, targets, strict=True):
        for piece in ids:
            sums[piece] += target / len(ids)
            counts[piece] += 1 / len(ids)
    mean = sums.sum(axis=0) / counts.sum()
    for piece in range(8):
        if counts[piece]:
            vector = sums[piece] / counts[piece] - mean
            np.testing.assert_allclose(found[piece], vector / np.linalg.norm(vector), atol=1e-5)
        else:
            assert not found[piece].any()
