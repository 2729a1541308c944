"""What training reads, packed and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from exporters.towers import AudioConfig, AudioTower
from trainer.fingerprints import StageError
from trainer.hearing import Views
from trainer.inputs import AudioInputs, TextInputs, quantised
from trainer.vocabulary import learn_tokenizer

CONFIG = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


def test_levels_are_the_nearest():
    vectors = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    vectors[:, 3] = 0
    vectors = normalize(vectors, dim=1)
    levels, scale = quantised(vectors)
    assert levels.dtype == torch.int8
    assert bool(((levels * scale - vectors).abs() <= scale / 2 + 1e-7).all())
    close = (normalize(levels * scale, dim=1) * vectors).sum(1)
    assert float(close.min()) > 0.9998


def test_texts_mean_what_they_meant(tmp_path: Path):
    chance = np.random.default_rng(0)
    meant = normalize(torch.from_numpy(chance.standard_normal((40, 24)).astype(np.float32)), dim=1)
    basis, _ = torch.linalg.qr(torch.from_numpy(chance.standard_normal((24, 12)).astype(np.float32)))
    targets = meant.half().numpy()[chance.integers(40, size=90)]  # many say the same
    ids = [list(map(int, chance.integers(3, 30, length))) for length in chance.integers(1, 9, 90)]
    weights, phrasings = chance.random(90), chance.random(90)
    tokenizer = learn_tokenizer(["a dog", "the rain", "a roof"], 30)
    given = TextInputs(ids, targets, basis, weights, phrasings, tokenizer, {"texts": "abc"})
    given.save(tmp_path / "text.pt")
    found = TextInputs.load(tmp_path / "text.pt")
    assert found.ids == ids
    assert np.array_equal(found.weights, weights)
    assert np.array_equal(found.phrasings, phrasings)
    assert found.tokenizer.to_str() == tokenizer.to_str()
    assert found.made_of == {"texts": "abc"}
    assert (found.points() * given.points()).sum(1).min() > 0.9998
    # A vector that many texts share is kept once, in a byte a number.
    assert torch.load(tmp_path / "text.pt", weights_only=True)["levels"].shape == (len({*map(bytes, targets)}), 12)


def test_sounds_are_what_they_were_bit_by_bit(tmp_path: Path):
    torch.manual_seed(0)
    tower, chance = AudioTower(CONFIG).eval(), np.random.default_rng(0)
    features = [chance.random((count, 2, 8)).astype(np.float16) for count in (3, 2)]
    mixed = Views(np.array([[0, 1, 2], [1, -1, -1]]), np.array([[0.5, 0.3, 0.2], [1, 0, 0]], np.float32), features[1])
    views = [Views.alone(np.arange(3), features[0]), mixed]
    texts = [normalize(torch.randn(3, 4), dim=1)] * 2
    told = views, texts, [False, True], torch.ones(4)
    given = AudioInputs(CONFIG, tower.state_dict(), *told, chance.random(5), {"clean": "abc"})
    given.save(tmp_path / "audio.pt")
    found = AudioInputs.load(tmp_path / "audio.pt")
    assert found.config == CONFIG
    assert found.made_of == {"clean": "abc"}
    assert np.array_equal(found.weights, given.weights)
    for one, other in zip(found.lessons(found.tower()), given.lessons(tower), strict=True):
        assert np.array_equal(one.features, other.features)
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.teacher, other.teacher)
        assert torch.equal(one.belief, other.belief)


def test_sounds_that_were_packed_before_today_are_to_be_packed_again(tmp_path: Path):
    tower = AudioTower(CONFIG).eval()
    AudioInputs(CONFIG, tower.state_dict(), [], [], [], torch.ones(4), np.ones(0), {}).save(tmp_path / "audio.pt")
    told = torch.load(tmp_path / "audio.pt", weights_only=True)
    del told["certain"]
    torch.save(told, tmp_path / "audio.pt")
    with pytest.raises(StageError, match=r"audio\.pt without certain"):
        AudioInputs.load(tmp_path / "audio.pt")
