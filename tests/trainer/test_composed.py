"""The experiment on composed text: who is labelled, and that mixtures heard before teach what the product does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower
from trainer.compose import PROMPT, Heard, Told, composed_contrast, concatenated_contrast, pseudo_contrast
from trainer.data import Row
from trainer.hearing import Views
from trainer.recipes import evidence
from trainer.recipes.composed import Composed, Start, tables
from trainer.recipes.evidence import FeatureTowers, Mixed

TEXTS = ["rain on a roof", "a dog", "wind", "rain", "a dog in wind", "roof"]
AUDIO = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=8)


def given(**parts: object) -> Composed:
    """The experiment, with some of what it would read or work out."""
    work = Composed(Path("absent"), Path("absent"))
    work.__dict__.update(parts)
    return work


@pytest.fixture
def towers(tmp_path: Path) -> FeatureTowers:
    words = sorted({word for text in [*TEXTS, PROMPT] for word in text.split()})
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding()
    made.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    text = TextTower(TextConfig(pieces=40, dim=8, heads=2, inner=16))
    return FeatureTowers(AudioTower(AUDIO), text, tmp_path / "tokenizer.json", [*TEXTS, PROMPT]).eval()


@pytest.fixture
def work() -> Composed:
    rows = [Row(Path("x.ogg"), "train", "set", "", text, "CC0", "author", 1.0) for text in TEXTS]
    features = np.random.default_rng(0).random((6, 2, 8)).astype(np.float16)
    views = Views.alone(np.arange(6), features)
    return given(rows=rows, clean=views)


def mixed_in_features(work: Composed) -> Mixed:
    """Views 0, 1, 2 with 3, 4, 5, as if the trunk were linear."""
    first, second = np.arange(3), np.arange(3, 6)
    mean = (work.clean.features[first].astype(np.float32) + work.clean.features[second]) / 2
    return Mixed(first, second, mean)


@torch.no_grad()
def test_composed_terms_are_those_of_the_product(work: Composed, towers: FeatureTowers):
    found = work._contrasts("composed", towers, mixed_in_features(work), np.arange(3))
    features = torch.from_numpy(work.clean.features.astype(np.float32))
    heard = Heard(features[3:], ["3", "4", "5"])
    vectors = towers.encode_audio(heard.samples)
    told = Told(features[:3], TEXTS[:3], torch.arange(3), ["0", "1", "2"], ["eng"] * 3)
    wanted = {
        "a2t": pseudo_contrast(towers, heard, vectors),
        "composed": composed_contrast(towers, told, heard, vectors),
    }
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert torch.allclose(found[name].loss(0.07), one.loss(0.07), atol=1e-4), name


@torch.no_grad()
def test_concatenated_terms_are_those_of_the_product(work: Composed, towers: FeatureTowers):
    features = torch.from_numpy(work.clean.features.astype(np.float32))
    told = Told(features, TEXTS, torch.arange(6), [str(i) for i in range(6)], ["eng"] * 6)
    first, second = np.arange(6), np.roll(np.arange(6), -1)
    mean = (features[first] + features[second]) / 2
    found = work._contrasts("concatenate", towers, Mixed(first, second, mean.numpy()), np.arange(6))["concatenated"]
    assert torch.allclose(found.loss(0.07), concatenated_contrast(towers, told).loss(0.07), atol=1e-4)


def test_few_labelled_clips_are_among_many_and_never_among_the_others():
    work = given(pool=np.arange(50, 150))
    assert set(work.labelled(3, 10)) < set(work.labelled(3, 40)) < set(range(50, 150))
    assert set(work.labelled(3, 40)) | set(work.unlabelled(3, 40)) == set(range(50, 150))
    assert not set(work.labelled(3, 40)) & set(work.unlabelled(3, 40))
    assert set(work.labelled(3, 40)) != set(work.labelled(4, 40))


def test_the_tables_tell_each_method_and_each_difference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "ROUNDS", 50)

    class Known(Composed):
        def marks(self, start: Start, way: str | None, seed: int, count: int) -> dict[str, np.ndarray]:
            rank = {None: 9.0, "finetune": 2.0, "concatenate": 2.0, "composed": 1.0, "a2t first": 2.0}[way]
            names = ("t2a", "a2t", "mixed t2a", "mixed a2t")
            return {n: np.full(4, rank) for n in names} | {f"{n} ap": np.full(4, 1 / rank) for n in names}

    rows = list(tables(Known(Path("absent"), Path("absent")), "taught"))
    assert "| 0 | nothing yet | 0.000 | 0.111 | 0.000 | 0.111 | 0.000 | 0.111 | 0.000 | 0.111 |" in rows
    assert "| 100 | composed | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |" in rows
    hits, ranks = [row for row in rows if row.startswith("| 100 | composed less concatenate")]
    assert "+1.000 (+1.000 to +1.000)" in hits
    assert "+0.500 (+0.500 to +0.500), +100%" in ranks
