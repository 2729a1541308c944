"""What is refused when a bundle is compared with its reference: each bound, on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.bundle import Bundle
from engine.encoders import normalise
from exporters.compare import CollapsedError, Heard, ask_for_sounds, compare_mels, compare_sounds, compare_texts
from exporters.compare import ask_for_texts as ask
from exporters.export import write_unchecked
from exporters.melspec import DecibelMel, MelSettings, hann
from exporters.parity import ParityError, clips, measure
from exporters.precision import TOLERANCES, Precision
from exporters.source import AudioPart, Source
from tests.trainer import tiny_towers

FFT, MELS = 64, 8


@pytest.fixture(scope="module")
def source() -> Source:
    torch.set_num_threads(1)
    return tiny_towers.own()


@pytest.fixture(scope="module")
def heard(source: Source) -> Heard:
    """What the reference says of the probe sounds, which a small random tower hardly tells apart."""
    assert source.audio is not None
    return ask_for_sounds(source.audio, allow_collapsed=True)


@pytest.fixture(scope="module")
def bundle(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_unchecked(source, tmp_path_factory.mktemp("bundle"), "fp32")


def test_the_bounds_are_those_that_were_asked_for() -> None:
    assert (TOLERANCES["fp32"], TOLERANCES["fp16"]) == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("precision", "off", "refused"),
    [("fp32", 5e-4, False), ("fp32", 2e-3, True), ("fp16", 5e-3, False), ("fp16", 2e-2, True)],
)
def test_each_precision_has_its_bound(
    source: Source, bundle: Bundle, precision: Precision, off: float, refused: bool
) -> None:
    assert source.text is not None
    read = ask(source.text, allow_collapsed=True)
    moved = read.vectors.copy()
    step = np.random.default_rng(0).standard_normal(moved.shape[1]).astype(np.float32)
    moved[3] += step * off / measure(np.vstack([moved[:3], moved[3:4] + step, moved[4:]]), read.vectors)
    asked = replace(bundle, manifest=replace(bundle.manifest, precision=precision))
    if refused:
        with pytest.raises(ParityError, match=rf"text\.onnx off by .*; expected at most {TOLERANCES[precision]:.0e}"):
            compare_texts(replace(read, vectors=moved), asked, {})
    else:
        assert compare_texts(replace(read, vectors=moved), asked, {})["text_graph"] == pytest.approx(off, rel=0.1)


class Leaning(nn.Module):
    """Hears a window as the loudest beside it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, samples: Tensor) -> Tensor:
        return self.tower(samples + 0.1 * samples.amax(0, keepdim=True))


def test_a_sound_must_mean_alone_what_it_means_among_others(
    source: Source, heard: Heard, bundle: Bundle, tmp_path: Path
) -> None:
    """Loud ones and silence among them."""
    assert {"silence", "square"} <= clips(100, 16_000).keys()
    assert compare_sounds(heard, bundle, {})["audio_alone"] <= TOLERANCES["fp32"]
    assert source.audio is not None
    audio = replace(source.audio, module=Leaning(source.audio.module))
    leaning = write_unchecked(replace(source, audio=audio, text=None), tmp_path, "fp32")
    with torch.inference_mode():  # as if its publisher's code did the same: only the batch mates tell
        together = normalise(audio.module(torch.from_numpy(heard.windows)).numpy())
    with pytest.raises(ParityError, match=r"audio\.onnx, one window at a time, off by"):
        compare_sounds(replace(heard, vectors=together), leaning, {})


def test_a_tower_that_hears_everything_alike_is_refused_with_the_numbers(source: Source) -> None:
    assert source.audio is not None
    same = replace(source.audio, reference=lambda _: np.eye(tiny_towers.DIM, dtype=np.float32)[0])
    with pytest.raises(CollapsedError, match=r"collapsed audio tower: the median cosine between \d+ .* is 1\.0000"):
        ask_for_sounds(same, allow_collapsed=False)
    assert ask_for_sounds(same, allow_collapsed=True).alike == pytest.approx(1)


def with_front(part: AudioPart, off_db: float, frames: int) -> AudioPart:
    """The part with log-mels, and a reference that is off by so much in its first ``frames``."""
    bank = np.random.default_rng(0).uniform(0, 1e-3, (FFT // 2 + 1, MELS))
    front = DecibelMel(MelSettings(FFT, FFT, hann(FFT), bank))

    def reference(window: np.ndarray) -> Any:
        with torch.inference_mode():
            mels = front(torch.from_numpy(window)[None])[0].numpy()
        mels[:frames] += off_db
        return mels

    return replace(part, front=front, front_reference=reference)


@pytest.mark.parametrize(
    ("off_db", "frames", "message"),
    [(0.0, 0, ""), (0.6, 1, r"off by 0\.6 dB \(max\)"), (0.02, 10_000, r"off by 0\.02 dB \(mean\)")],
)
def test_log_mels_are_held_to_their_greatest_and_mean_error(
    source: Source, tmp_path: Path, off_db: float, frames: int, message: str
) -> None:
    assert source.audio is not None
    part = with_front(source.audio, off_db, frames)
    windows = np.random.default_rng(1).uniform(-0.5, 0.5, (3, part.window_samples)).astype(np.float32)
    if message:
        with pytest.raises(ParityError, match=message):
            compare_mels(part, windows, tmp_path)
    else:
        found = compare_mels(part, windows, tmp_path)
        assert found["mel_max_db"] < 1e-3
        assert not list(tmp_path.iterdir())
