"""Text as filters compare it, and the copies a store keeps of it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.memory.base import fold
from engine.memory.checks import FOLDED
from engine.memory.folding import with_folded, without_folded
from engine.types import Payload


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("STRASSE", "straße"),
        ("Ǆ", "ǆ"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("Å", "A\u030a"),
        ("\u1e9b\u0323", "\u1e9b\u0323".upper()),
    ],
)
def test_case_and_spelling_make_no_difference(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@given(st.text())
def test_folding_is_settled_and_ignores_the_unicode_form(text: str) -> None:
    assert fold(text) == fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))
    assert fold(fold(text)) == fold(text)


def test_copies_are_made_of_texts_and_taken_out_again() -> None:
    payload: Payload = {"title": "A", "paths": ["B", "c"], "window": 1, "sha256": "AB", "artist": None, "tags": []}
    stored = with_folded(payload)
    assert {key: value for key, value in stored.items() if key.startswith(FOLDED)} == {
        FOLDED + "title": "a",
        FOLDED + "paths": ["b", "c"],
        FOLDED + "window": None,
        FOLDED + "artist": None,
        FOLDED + "tags": None,
    }
    assert without_folded(stored) == payload
