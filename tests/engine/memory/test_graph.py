from __future__ import annotations

import math

import pytest

from engine.errors import DamagedMemoryError
from engine.memory.graph import best_hits
from engine.types import Filter, Hit


@pytest.mark.parametrize("score", [1e38, math.inf, math.nan, -1.1])
def test_a_score_that_is_no_cosine_is_damage(score: float):
    hits = [Hit("a", 1.0000002, {}), Hit("b", score, {})]
    with pytest.raises(DamagedMemoryError, match=r"found a cosine of .*; expected .*; .*earshot repair"):
        best_hits(2, [Filter()], lambda limit, wheres: [hits])
    assert best_hits(2, [Filter()], lambda limit, wheres: [hits[:1]]) == [hits[:1]]
