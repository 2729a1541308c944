"""Every way of bridging the gap is learnt, kept and asked: here on a world of twelve words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.encoders import normalise
from engine.fakes import FakeEncoders
from engine.types import FloatArray
from trainer.bridging import Bridge
from trainer.captioner import CaptionerConfig, load
from trainer.loop import Plan
from trainer.recipes import caption_ways
from trainer.recipes.caption_tables import Tables
from trainer.recipes.caption_ways import WAYS, Ways, full, small
from trainer.references import Referenced

WORDS = "rain dog wind bell door fire bird car horn clock wave owl".split()  # noqa: SIM905
TEXTS = [f"a {one} and a {other}" for one in WORDS for other in WORDS if one != other]


@dataclass(frozen=True)
class World:
    """Stands in for ``Work``: sounds are their texts' vectors, moved by a fixed gap and a little noise."""

    out: Path
    encoders: FakeEncoders = field(default_factory=FakeEncoders)
    seeds: tuple[int, ...] = (1,)

    @cached_property
    def gap(self) -> FloatArray:
        """What lies between sounds and texts."""
        return np.asarray(0.5 * np.random.default_rng(1).standard_normal(self.encoders.space.dim), np.float32)

    @property
    def held(self) -> list[Referenced]:
        """Every ninth text is a clip."""
        return [Referenced(Path(text), text, (text,)) for text in TEXTS[::9]]

    def heard(self, name: str, clips: list[Referenced]) -> list[FloatArray]:
        """Two windows a clip."""
        vectors = self.encoded([clip.captions[0] for clip in clips])
        chance = np.random.default_rng(2)
        return [normalise(one + self.gap + 0.02 * chance.standard_normal((2, len(one)))) for one in vectors]

    @property
    def captions(self) -> tuple[list[str], list[str]]:
        """All are learnt."""
        return TEXTS, []

    @property
    def pairs(self) -> tuple[FloatArray, FloatArray]:
        """Of every third text."""
        texts = self.encoded(TEXTS[::3])
        return normalise(texts + self.gap), texts

    @property
    def reference_vectors(self) -> dict[str, FloatArray]:
        """Of all texts."""
        return dict(zip(TEXTS, self.encoded(TEXTS), strict=True))

    def encode(self, name: str, texts: list[str]) -> FloatArray:
        """Not kept."""
        return self.encoded(texts)

    def encoded(self, texts: list[str]) -> FloatArray:
        """As the fakes read them."""
        return self.encoders.encode_text(texts)


def tiny(bridge: Bridge, seed: int) -> CaptionerConfig:
    """A second."""
    plan = Plan(steps=120, rate=1e-2, warmup=10, average=0.9, save_every=120, seed=seed)
    return CaptionerConfig(
        pieces=120, width=32, layers=1, heads=2, hidden=48, max_tokens=12, dropout=0, batch=32, bridge=bridge, plan=plan
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_ways, "small", tiny)
        made = Tables(Ways(World(tmp_path_factory.mktemp("ways"))))  # type: ignore[arg-type]
        made.ways.decoder("baseline", 1)
    torch.set_num_threads(threads)
    return made


def test_every_way_moves_texts_as_it_says(tables: Tables) -> None:
    bridges = {way: tables.ways.bridge(way, 0.06) for way in WAYS}
    assert {way for way, bridge in bridges.items() if bridge.sigma} == {"noise", "shift + noise", "adapter + noise"}
    assert {way for way, bridge in bridges.items() if bridge.matrix is not None} == {"adapter", "adapter + noise"}
    shifted = {way for way, bridge in bridges.items() if bridge.offset is not None and bridge.matrix is None}
    assert shifted == {"shift", "shift + noise"}
    sounds, texts = tables.ways.work.pairs
    moved = bridges["adapter"](torch.from_numpy(texts), None).numpy()
    assert (moved * sounds).sum(axis=1).mean() > (texts * sounds).sum(axis=1).mean() + 0.1


def test_what_was_said_is_kept(tables: Tables) -> None:
    first = tables.score("baseline", "projection", seeds=(1,))
    assert len(first.cider) == len(tables.ways.work.held)
    [path] = (tables.ways.run_of("baseline", 1, 0) / "said").glob("projection*")
    before = path.stat().st_mtime_ns
    again = tables.score("baseline", "projection", seeds=(1,))
    assert path.stat().st_mtime_ns == before
    assert again.cider.tolist() == first.cider.tolist()


def test_what_another_memory_says_is_asked_anew(tables: Tables) -> None:
    """Of as many captions."""
    told = tables.ways.run_of("baseline", 1, 0) / "said"
    tables.score("baseline", "nearest", seeds=(1,))
    before = set(told.iterdir())
    tables.score("baseline", "nearest", seeds=(1,), memory=tables.memory[::-1])
    assert len(set(told.iterdir()) - before) == 1


def test_a_decoder_of_the_papers_size_is_judged_beside_a_small_one(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    paper = full(Bridge(), 1)
    assert (paper.width, paper.layers, paper.heads, paper.prefix, paper.batch) == (768, 4, 4, 1, 64)
    assert paper.plan.steps == small(Bridge(), 1).plan.steps
    monkeypatch.setattr(caption_ways, "full", lambda bridge, seed: replace(tiny(bridge, seed), hidden=40))
    rows = [row.strip("|").split("|") for row in tables.of_full_size().splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["small", "full"] * 3
    sizes = {name: load(tables.ways.work.out / name / "baseline-0-1").config.hidden for name in ("ways", "ways-full")}
    assert sizes == {"ways": 48, "ways-full": 40}
