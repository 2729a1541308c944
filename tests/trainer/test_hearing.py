"""Views: the windows that the engine would cut, and mixtures whose shares are true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.types import Space
from engine.windows import cut
from exporters.towers import AudioConfig, AudioTower
from trainer import hearing
from trainer.cache import MelTable, mel_table, text_table, window_starts
from trainer.hearing import clean_windows, hear_changed, hear_clean

CONFIG = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


@pytest.mark.parametrize("seconds", [1.94, 2.0, 2.91, 5.0, 9.7])
def test_windows_are_the_engines_to_a_frame(seconds):
    samples = np.zeros(round(seconds * 16_000), np.float32)
    space = Space("x@y", 4, 16_000, CONFIG.window_samples / 16_000, CONFIG.hop_samples / 16_000, "repeat")
    engine = [window.start_s for window in cut([samples], space)]
    frames = 1 + (len(samples) - 400) // 160
    found = [start / 100 for start in window_starts(frames, CONFIG)]
    # The engine's last window ends with the last sample, ours with the last whole frame.
    assert np.allclose(found[: len(engine)], engine[: len(found)], atol=0.011)
    assert abs(len(found) - len(engine)) <= 1


@pytest.fixture
def mels() -> MelTable:
    """A loud tone, a silence and a faint noise, 3 s each."""
    t = np.arange(48_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(48_000)
    clips = [np.sin(2 * np.pi * 500 * t), np.zeros(48_000), 1e-2 * noise]
    parts = mel_table_of(clips)
    return MelTable(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))


def mel_table_of(clips: list[np.ndarray]) -> list[np.ndarray]:
    front = AudioTower(CONFIG).front
    return [front(torch.from_numpy(clip.astype(np.float32))[None])[0].numpy().astype(np.float16) for clip in clips]


def test_clean_views_are_cached_and_thinned(mels, tmp_path):
    tower = AudioTower(CONFIG).eval()
    views = hear_clean(mels, tower, tmp_path / "clean.npy")
    again = hear_clean(mels, AudioTower(CONFIG).eval(), tmp_path / "clean.npy")
    assert np.array_equal(views.features, again.features)
    assert views.features.shape == (len(views.first), 2, 8)
    assert len(clean_windows(mels, CONFIG, most=1)) == 3
    assert np.array_equal(views.shares.sum(1), views.first != 1)  # the second clip is silent
    only = views.only(np.array([True, False, True]))
    assert set(only.first) == {0, 2}


def test_shares_of_mixtures(mels, tmp_path):
    views = hear_changed(mels, np.arange(3), 120, AudioTower(CONFIG).eval(), tmp_path / "changed.npy", 1)
    sounds = (views.clips >= 0).sum(1)
    assert (views.clips[:, 0] >= 0).all()
    # 60 % are mixtures, a third of these of three.
    np.testing.assert_allclose(np.bincount(sounds, minlength=4)[1:] / 120, [0.4, 0.4, 0.2], atol=0.12)
    heard = (views.clips >= 0) & (views.clips != 1)
    some = heard.any(1)
    assert (views.shares[~heard] == 0).all()
    np.testing.assert_allclose(views.shares[some].sum(1), 1, atol=1e-6)
    assert (~some).any()
    # At most 12 dB from the first: of three, one is at least 1 in 1 + 2 * 15.8.
    assert views.shares[heard].min() > 0.03
    assert np.isfinite(views.features.astype(np.float32)).all()


@pytest.mark.parametrize("clips", [[0, 2, -1], [2, 0, 0], [2, 1, 0], [1, 0, -1], [2, -1, -1], [1, 1, 1]])
def test_a_mixture_is_a_sum_of_powers(mels, monkeypatch, clips):
    monkeypatch.setattr(hearing, "FILTER_DB", 0.0)
    monkeypatch.setattr(hearing, "GAIN_DB", (0.0, 0.0))
    monkeypatch.setattr(hearing, "_cut", lambda table, clip, size, chance: table.clip(clip)[:size].astype(np.float32))
    offset, size, seed = CONFIG.front.offset, 192, 4
    found, shares = hearing._mixture(mels, np.array(clips), CONFIG, np.random.default_rng(seed))
    assert found.shape == (size, 64)
    chance, powers, total = np.random.default_rng(seed), [], np.zeros((size, 64))
    sounds = [np.maximum(np.exp(mels.clip(clip)[:size].astype(float)) - offset, 0) for clip in clips if clip >= 0]
    sounds = [np.where(sound < hearing.ROUNDING, 0, sound) for sound in sounds]
    chance.uniform(size=(len(sounds), 5))  # the filters'
    loud = [number for number, sound in enumerate(sounds) if sound.any()]
    for number, sound in enumerate(sounds):
        gain = 1.0
        if number in loud[1:]:
            gain = 10 ** (chance.uniform(-12, 12) / 20)
            gain *= math.sqrt((sounds[loud[0]] ** 2).sum() / (sound**2).sum())
        total += (gain * sound) ** 2
        powers.append(float(((gain * sound) ** 2).sum()))
    np.testing.assert_allclose(found, np.log(np.sqrt(total) + offset), atol=2e-3)
    wanted = [power / sum(powers) for power in powers] if any(powers) else [0]
    np.testing.assert_allclose(shares, [*wanted, 0, 0][:3], atol=1e-4)


def test_mixtures_of_other_sounds_are_heard_anew(mels, tmp_path):
    tower = AudioTower(CONFIG).eval()
    path = tmp_path / "changed.npy"
    whole = hear_changed(mels, np.arange(3), 8, tower, path, 1)
    # As kept when a view knew two sounds at most: one share each.
    np.save(tmp_path / "changed.share.npy", np.ones(8, np.float32))
    np.save(path, np.zeros_like(whole.features))
    again = hear_changed(mels, np.arange(3), 8, tower, path, 1)
    assert np.array_equal(again.features, whole.features)
    assert np.array_equal(again.shares, whole.shares)


def test_log_mels_are_made_once(tmp_path):
    calls = []

    def clip() -> np.ndarray:
        calls.append(1)
        return np.zeros(32_000, np.float32)

    for _ in range(2):
        table = mel_table(tmp_path, "x", [clip, clip], CONFIG)
    assert len(calls) == 2
    assert table.clip(1).shape == (198, 64)
    assert len(table.and_then(table)) == 4
    assert np.array_equal(table.and_then(table).clip(3), table.clip(1))


def test_only_new_texts_are_encoded(tmp_path):
    seen = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.append(texts)
        return np.array([[ord(text), 0, 1] for text in texts], np.float32)

    for texts in (["a"], ["a"], ["b", "a", "b"], ["b"]):
        table = text_table(tmp_path, texts, encode)
        assert table.texts == texts
        assert table.vectors[:, 0].tolist() == [ord(text) for text in texts]
    assert seen == [["a"], ["b"]]


def test_what_is_practised_on_is_levelled_as_in_use(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, CONFIG.window_samples).astype(np.float32)
    tower = AudioTower(CONFIG).eval()
    listen, seen = tower.hear, []

    def hear(mels: torch.Tensor) -> torch.Tensor:
        seen.append(mels)
        return listen(mels)

    monkeypatch.setattr(tower, "hear", hear)
    hear_clean(mel_table(tmp_path, "levels", [lambda: noise], CONFIG), tower, tmp_path / "levels.npy")
    with torch.inference_mode():
        faint = tower.front(torch.from_numpy(noise)[None])
        assert torch.allclose(seen[0], tower.levelled(faint), atol=2e-2)
        assert not torch.allclose(seen[0], faint, atol=0.5)
