"""Pieces that make no word."""

from __future__ import annotations

import pytest

from engine.spelling import Words, tidy

WORDS = Words(["A dog runs, a piece of music", "chirp and blow", "he can carry; a chase", "Engine"])


@pytest.mark.parametrize("text", ["a dog", "dogs running", "chirping", "engines", "carried", "chasing", "A piece, of"])
def test_words_and_their_endings_are_known(text: str) -> None:
    assert WORDS.know(text)


@pytest.mark.parametrize("text", ["a piecee", "eded", "dogblow", "chirpinging", "ruff"])
def test_what_is_no_word_is_not(text: str) -> None:
    assert not WORDS.know(text)


def test_spaces_and_words_are_said_once() -> None:
    assert tidy(" electric  electric buzz,  a chainsaw  chainsaw chainsaw ") == "electric buzz, a chainsaw"
    assert tidy("a cat catches it") == "a cat catches it"
