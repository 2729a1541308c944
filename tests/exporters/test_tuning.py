"""Which options are kept for a card: the fastest of those with which it runs the graph. No card is needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import STARTER_DIR, AudioTower, CudaOptions, open_bundle
from engine.encoders import BATCH_WINDOWS, OnnxAudioEncoder
from engine.errors import BundleError, DeviceError
from exporters import tuning
from exporters.tuning import ROUNDS, WARM_UPS, tune

TOWER = AudioTower("audio.onnx", 100, 2.0, 1.0, "zero")
SECONDS = {"HEURISTIC": 0.020, "DEFAULT": 0.010, "EXHAUSTIVE": 0.030}


class Card:
    """A card on which each kind of search takes its time, recorded work three quarters, and the first calls longer.

    ``doubling`` is what a batch takes with an arena that doubles, as a share of what it takes otherwise.
    """

    def __init__(self, refused: str = "", doubling: float = 1.0) -> None:
        self.now_s, self.refused, self.doubling, self.calls = 0.0, refused, doubling, 0

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
                took_s = SECONDS[cuda.conv_search] * (0.75 if cuda.graphs else 1)
                card.now_s += took_s * (card.doubling if cuda.arena == "kNextPowerOfTwo" else 1) + (called <= WARM_UPS)

        return Session()


def tuned(card: Card, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(tuning, "Session", card.session)
    monkeypatch.setattr(tuning, "perf_counter", lambda: card.now_s)
    return tune(Path("bundle"), TOWER)


def test_the_fastest_is_kept_with_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(doubling=0.9)
    found = tuned(card, monkeypatch)["audio.onnx"]
    assert (found["conv_search"], found["arena"], found["graphs"]) == ("DEFAULT", "kNextPowerOfTwo", True)
    assert not found["tensorrt"]
    assert found["batch_ms"] == {
        "HEURISTIC": 20.0,
        "HEURISTIC, recorded": 15.0,
        "HEURISTIC, doubling": 18.0,
        "HEURISTIC, doubling, recorded": 13.5,
        "DEFAULT": 10.0,
        "DEFAULT, recorded": 7.5,
        "DEFAULT, doubling": 9.0,
        "DEFAULT, doubling, recorded": 6.75,
        "EXHAUSTIVE": 30.0,
        "EXHAUSTIVE, recorded": 22.5,
        "EXHAUSTIVE, doubling": 27.0,
        "EXHAUSTIVE, doubling, recorded": 20.25,
    }
    assert card.calls == 12 * (WARM_UPS + ROUNDS)


def test_an_arena_that_doubles_must_be_worth_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(Card(doubling=0.98), monkeypatch)["audio.onnx"]
    assert (found["conv_search"], found["arena"], found["graphs"]) == ("DEFAULT", "kSameAsRequested", True)


def test_what_was_chosen_is_what_the_engine_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through the manifest, as it is written and read."""
    folder = Path(shutil.copytree(STARTER_DIR, tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["cuda"] = tuned(Card(doubling=0.9), monkeypatch)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    asked: list[CudaOptions] = []

    def opened(graph: Path, device: str, threads: int | None, cuda: CudaOptions) -> Any:
        asked.append(cuda)
        raise DeviceError("no card", "one")

    monkeypatch.setattr("engine.encoders.Session", opened)
    with pytest.raises(DeviceError):
        OnnxAudioEncoder(open_bundle(folder), "cuda")
    assert asked == [CudaOptions("DEFAULT", "kNextPowerOfTwo", graphs=True)]


def test_what_does_not_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(Card("graphs"), monkeypatch)["audio.onnx"]
    assert (found["conv_search"], found["graphs"], len(found["batch_ms"])) == ("DEFAULT", False, 6)
    assert tuned(Card("all"), monkeypatch) == {}
