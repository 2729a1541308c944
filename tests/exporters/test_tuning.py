"""Which options are kept for a card: the fastest of those with which it runs the graph. No card is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import AudioTower, CudaOptions
from engine.encoders import BATCH_WINDOWS
from engine.errors import BundleError, DeviceError
from exporters import tuning
from exporters.tuning import ROUNDS, WARM_UPS, tune

TOWER = AudioTower("audio.onnx", 100, 2.0, 1.0, "zero")
SECONDS = {"HEURISTIC": 0.020, "DEFAULT": 0.010, "EXHAUSTIVE": 0.030}


class Card:
    """A card on which each kind of search takes its time, recorded work three quarters, and the first calls longer."""

    def __init__(self, refused: str = "") -> None:
        self.now_s, self.refused, self.calls = 0.0, refused, 0

    def session(self, graph: Path, device: str, cuda: CudaOptions) -> Any:
        assert (graph.name, device) == ("audio.onnx", "cuda")
        if self.refused == "all":
            raise DeviceError("no card", "one")
        card, called = self, 0

        class Session:
            def run(self, feeds: dict[str, np.ndarray]) -> None:
                nonlocal called
                assert feeds["samples"].shape == (BATCH_WINDOWS, 200)
                if cuda.graphs and card.refused == "graphs":
                    raise BundleError("an operation that can't be recorded", "another")
                called += 1
                card.calls += 1
                card.now_s += SECONDS[cuda.conv_search] * (0.75 if cuda.graphs else 1) + (called <= WARM_UPS)

        return Session()


def tuned(card: Card, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(tuning, "Session", card.session)
    monkeypatch.setattr(tuning, "perf_counter", lambda: card.now_s)
    return tune(Path("bundle"), TOWER)


def test_the_fastest_is_kept_with_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    found = tuned(card, monkeypatch)["audio.onnx"]
    assert (found["conv_search"], found["graphs"], found["tensorrt"]) == ("DEFAULT", True, False)
    assert found["batch_ms"] == {
        "HEURISTIC": 20.0,
        "HEURISTIC, recorded": 15.0,
        "DEFAULT": 10.0,
        "DEFAULT, recorded": 7.5,
        "EXHAUSTIVE": 30.0,
        "EXHAUSTIVE, recorded": 22.5,
    }
    assert card.calls == 6 * (WARM_UPS + ROUNDS)


def test_what_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(Card("graphs"), monkeypatch)["audio.onnx"]
    assert (found["conv_search"], found["graphs"], len(found["batch_ms"])) == ("DEFAULT", False, 3)
    assert tuned(Card("all"), monkeypatch) == {}
