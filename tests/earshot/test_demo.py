from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot.demo import PEAK, QUERIES, SIREN_FROM_S, SIREN_TO_S, TAKES, Take, _render, write_sounds
from indexer.scan import Found, scan
from indexer.tags import read_tags


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's library, written once."""
    folder = tmp_path_factory.mktemp("demo")
    assert write_sounds(folder / "new" / "sounds") == [folder / "new" / "sounds" / take.path for take in TAKES]
    return folder / "new" / "sounds"


def test_the_set_is_varied_and_small(folder: Path) -> None:
    assert len(TAKES) == len({take.path for take in TAKES}) >= 18
    assert len({take.sound for take in TAKES}) == len(TAKES)
    assert {take.rate_hz for take in TAKES} >= {8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000}
    assert {Path(take.path).suffix for take in TAKES} == {".wav", ".flac", ".ogg", ".mp3"}
    assert {take.channels for take in TAKES} == {1, 2}
    assert 6 <= len(QUERIES) <= 8
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6


def test_a_scan_finds_just_these_files(folder: Path) -> None:
    items = list(scan([folder]))
    assert all(isinstance(item, Found) for item in items)
    assert {str(item.path.relative_to(folder)) for item in items} == {take.path for take in TAKES}


@pytest.mark.parametrize("take", TAKES, ids=lambda take: take.path)
def test_each_file_is_as_its_take_says(folder: Path, take: Take) -> None:
    samples, rate_hz = soundfile.read(folder / take.path, always_2d=True)
    assert (rate_hz, samples.shape[1]) == (take.rate_hz, take.channels)
    assert len(samples) / rate_hz == pytest.approx(take.seconds, abs=0.1)
    assert 3 <= take.seconds <= 40
    assert np.abs(samples).max() == pytest.approx(PEAK, rel=0.25)  # lossy codecs move peaks
    assert np.abs(samples.mean()) < 0.02
    mono = samples.mean(axis=1)
    loudest = (samples**2).mean(axis=0).max()
    assert (mono**2).mean() > 0.1 * loudest, "the channels must not cancel"
    assert read_tags(folder / take.path).title == (take.title or None)


def test_the_windy_evening_has_its_siren_in_the_middle(folder: Path) -> None:
    samples, rate_hz = soundfile.read(folder / "weather/balcony_windy_evening.ogg")
    spectrum = np.abs(np.fft.rfft(samples[: 40 * rate_hz].reshape(40, rate_hz)))  # [seconds, Hz]
    siren = (spectrum[:, 600:3000] ** 2).sum(axis=1)
    inside = slice(int(SIREN_FROM_S) + 1, int(SIREN_TO_S) - 1)
    outside = np.concatenate((siren[: int(SIREN_FROM_S)], siren[int(SIREN_TO_S) + 1 :]))
    assert siren[inside].min() > 30 * outside.max()


def test_a_take_is_the_same_every_time() -> None:
    take = next(take for take in TAKES if take.path.endswith("dog_barks.wav"))
    np.testing.assert_array_equal(_render(take), _render(take))
