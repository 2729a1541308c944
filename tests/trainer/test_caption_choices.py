"""How captions are chosen, compared on sounds that are their texts' vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import OnnxEncoders, normalise
from engine.memory.captions import ShippedCaptions
from engine.types import FloatArray
from trainer.recipes import caption_choices
from trainer.recipes.caption_choices import CHOICES, Choice, _told, choices
from trainer.references import Referenced

TEXTS = ("a dog barking", "rain on a roof", "a church bell", "someone typing", "a train passing", "a cat")


@dataclass(frozen=True)
class World:
    """Stands in for ``Work``, with the starter."""

    bundle: Path = STARTER_DIR
    encoders: OnnxEncoders = field(default_factory=lambda: OnnxEncoders(open_bundle("starter"), "cpu", threads=1))

    @property
    def held(self) -> list[Referenced]:
        """A clip a text."""
        return [Referenced(Path(text), text, (text, f"{text} once")) for text in TEXTS]

    def heard(self, name: str, clips: list[Referenced]) -> list[FloatArray]:
        """Two windows a clip."""
        chance = np.random.default_rng(0)
        vectors = self.encoded([clip.captions[0] for clip in clips])
        return [normalise(one + 0.02 * chance.standard_normal((2, len(one)))) for one in vectors]

    def encoded(self, texts: list[str]) -> FloatArray:
        """By the starter's tower."""
        return self.encoders.text.encode_text(texts)


def test_every_choice_has_a_row_and_is_compared_with_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_choices, "unpractised", lambda work, _: work)
    head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in choices(World()).splitlines()]  # type: ignore[arg-type]
    assert [row[0] for row in rows] == [choice.name for choice in CHOICES]
    assert all(len(row) == len(head) for row in rows)
    assert rows[-1][-1] == "-"
    assert all(row[-1].endswith(")") for row in rows[:-1])
    same = next(row for row in rows if row[0] == "projection, without practice")  # here it is what ships
    assert same[1:-1] == rows[-1][1:-1]
    assert same[-1] == "+0.000 (+0.000 to +0.000)"


def test_a_choice_says_what_it_may() -> None:
    work, shipped = World(), ShippedCaptions(STARTER_DIR / "memory.npz", 256)
    vectors, said = shipped.said(9999)
    sounds = vectors[[row for row, one in enumerate(said) if one.language == "eng"][::50]]
    remembered = {one.text for one in said}
    nearest = _told(work, Choice("the nearest itself", share=0, decoder=False), sounds)  # type: ignore[arg-type]
    assert set(nearest) <= remembered
    beams = _told(work, Choice("beams alone", remembered=False), sounds)  # type: ignore[arg-type]
    either = _told(work, CHOICES[-1], sounds)  # type: ignore[arg-type]
    assert len(remembered & set(beams)) < len(remembered & set(either)) < len(sounds)
