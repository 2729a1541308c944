"""The experiment on language enhancement: what a batch says in which languages, and what the tables tell."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.data import Row
from trainer.hearing import Views
from trainer.parallel import LANGUAGES
from trainer.recipes import enhanced, evidence
from trainer.recipes.enhanced import MIXES, Enhanced, Mix, english_table, language_table, read_translations


def given(**parts: object) -> Enhanced:
    """The experiment, with some of what it would read or work out."""
    work = Enhanced(Path("absent"), Path("absent"))
    work.__dict__.update(parts)
    return work


class Listening:
    """Towers that note what they read."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def encode_audio(self, samples: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(samples[:, 0], dim=1)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        self.read.append(list(texts))
        return torch.nn.functional.normalize(torch.ones(len(texts), 8), dim=1)


@pytest.mark.parametrize(
    ("mix", "captions"), [(Mix("x", 0.4), 3.8), (Mix("x"), 1.0), (Mix("x", 0.3, ("jpn", "cat")), 1.6)]
)
def test_a_clip_has_its_english_words_and_a_share_of_each_language(mix: Mix, captions: float):
    told = read_translations()
    texts = [*told, "not translated"]
    rows = [Row(Path("x.ogg"), "train", "set", "", text, "CC0", "author", 1.0) for text in texts]
    features = np.random.default_rng(0).random((len(rows), 2, 8)).astype(np.float16)
    views = Views.alone(np.arange(len(rows)), features)
    work = given(rows=rows, clean=views, pool=np.arange(len(rows)), translations=told)
    towers, step, steps = Listening(), work.losses(mix), 30
    for number in range(steps):
        step(towers, np.random.default_rng(number))  # type: ignore[arg-type]
    language_of = {said[language]: language for said in told.values() for language in reversed(LANGUAGES)}
    counts = Counter(language_of[text] for read in towers.read for text in read)
    clips = steps * enhanced.BATCH
    assert sum(counts.values()) / clips == pytest.approx(captions, rel=0.06)
    # Words that two languages share are counted for one of them.
    assert counts["eng"] >= clips
    assert set(counts) == {"eng"} if not mix.ratio else counts["jpn"] > 0.8 * mix.ratio * clips


def test_the_tables_tell_every_mix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "ROUNDS", 50)

    class Known(Enhanced):
        def marks(self, mix: Mix, seed: int) -> dict[str, np.ndarray]:
            value = 0.5 if mix.ratio else 0.25
            found = {f"{language} t2a ap": np.full(4, value) for language in LANGUAGES}
            return found | {name: np.ones(4) for name in ("t2a", "t2a ap", "a2t", "a2t ap")}

    work = Known(Path("absent"), Path("absent"))
    work.__dict__["asked_known"] = np.array([True, False, True, False])
    english, languages = list(english_table(work)), list(language_table(work))
    assert len(english) == len(languages) == len(MIXES) + 2
    assert english[2] == "| English alone | 1.000 | 1.000 | 1.000 | 1.000 | - |"
    assert languages[3].startswith(
        "| mixture, 10% | " + " | ".join(["0.500"] * 10) + " | +0.250 (+0.250 to +0.250), +100%"
    )
