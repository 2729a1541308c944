"""Pieces that make no word."""

from __future__ import annotations

import pytest

from engine.spelling import ANY, Words, tidy

WORDS = Words(["A dog runs, a piece of music", "chirp and blow", "he can carry; a chase", "Engine"])


@pytest.mark.parametrize("text", ["a dog", "dogs running", "chirping", "engines", "carried", "chasing", "A piece, of"])
def test_words_and_their_endings_are_known(text: str) -> None:
    assert WORDS.know(text)


@pytest.mark.parametrize("text", ["a piecee", "eded", "dogblow", "chirpinging", "ruff", "chirpings", "runsing"])
def test_what_is_no_word_is_not(text: str) -> None:
    assert not WORDS.know(text)


@pytest.mark.parametrize(
    "text", ["rain and then rain", "it barks as barking", "a birds chirp", "wooden wood", "an ants"]
)
def test_what_says_a_thing_twice_or_a_few_as_one_does_not_flow(text: str) -> None:
    assert not WORDS.flow(text)
    assert ANY.flow(text)


@pytest.mark.parametrize(
    "text", ["a series of beeps", "a bus", "a cat, a dog", "a glass clinks", "birds chirp", "it is as it"]
)
def test_other_captions_flow(text: str) -> None:
    assert WORDS.flow(text)


def test_spaces_and_words_are_said_once() -> None:
    assert tidy(" electric  electric buzz,  a chainsaw  chainsaw chainsaw ") == "electric buzz, a chainsaw"
    assert tidy("a cat catches it") == "a cat catches it"
