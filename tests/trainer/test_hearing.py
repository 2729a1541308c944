"""Views: the windows that the engine would cut, and mixtures whose shares are true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.types import Space
from engine.windows import cut
from exporters.towers import AudioConfig, AudioTower
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
    only = views.only(np.array([True, False, True]))
    assert set(only.first) == {0, 2}


def test_shares_of_mixtures(mels, tmp_path):
    views = hear_changed(mels, np.arange(3), 60, AudioTower(CONFIG).eval(), tmp_path / "changed.npy", 1)
    alone = views.second < 0
    assert 0.2 < alone.mean() < 0.6
    audible = views.first != 1
    assert np.allclose(views.share[alone & audible], 1)
    silent_second = (views.second == 1) & audible
    assert np.allclose(views.share[silent_second], 1)
    both = ~alone & audible & (views.second != 1)
    # At most 12 dB apart: neither has less than 6 % of the power.
    assert ((views.share[both] > 0.055) & (views.share[both] < 0.945)).all()
    assert np.isfinite(views.features.astype(np.float32)).all()


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
