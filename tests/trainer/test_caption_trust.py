"""A caption is believed as often as it turned out to be right."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.caption_trust import caption_curve, rightness


def test_a_caption_is_right_that_names_what_a_reference_names() -> None:
    said = ["a dog is barking", "someone talks in the background", "rain on a roof", ""]
    references = [["two dogs", "a bark"], ["a person in a room", "the sound of a door"], ["it is raining"], ["rain"]]
    assert rightness(said, references).tolist() == [True, False, True, False]


def test_the_curve_says_how_often_captions_are_right() -> None:
    chance = np.random.default_rng(0)
    cosines = chance.uniform(0.4, 0.9, 4000)
    true = 1 / (1 + np.exp(-(12 * cosines - 9)))
    right = chance.random(4000) < true
    said = ["a dog" if one else "a cat" for one in right]
    curve = caption_curve(said, [["dog"]] * 4000, cosines.astype(np.float32))
    for cosine in (0.5, 0.65, 0.8):
        assert curve.relevance(cosine) == pytest.approx(1 / (1 + np.exp(-(12 * cosine - 9))), abs=0.05)


def test_what_tells_nothing_is_refused() -> None:
    cosines = np.linspace(0.4, 0.8, 6).astype(np.float32)
    with pytest.raises(ValueError, match="some of both kinds"):
        caption_curve(["dog"] * 6, [["dog"]] * 6, cosines)
    with pytest.raises(ValueError, match="expected them nearer"):
        caption_curve(["dog"] * 3 + ["cat"] * 3, [["dog"]] * 6, cosines)
