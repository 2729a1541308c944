"""Log-mels in decibels inside the graph, as torchlibrosa, torchaudio and ``transformers`` compute them for CLAP.

``10 log10(max(1e-10, |STFT|^2 @ bank))`` over centred frames, reflected at both ends, under a window as long as the
transform. The transform is that of Cooley and Tukey (1965) in two steps, each a product of matrices: 32 transforms of
every 32nd sample, the window in them, then the bins that the mel bank reads, the twiddle factors in them. That is a
quarter of the work of one product with all those bins' cosines and sines, and nothing lies between the two but a move
of whole rows, since frames are columns. The products are float64: the floor lies 150 dB below a loud tone's peak,
beyond what float32 sums can hold, and there they were off by several decibels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

#: Power below which everything is -100 dB.
FLOOR = 1e-10


@dataclass(frozen=True, slots=True)
class MelSettings:
    """How samples become log-mels: lengths in samples, ``window [fft]``, ``bank [fft / 2 + 1, mels]``."""

    fft_samples: int
    hop_samples: int
    window: NDArray[np.float64]
    bank: NDArray[np.float64]

    def frames(self, samples: int) -> int:
        """Frames of that many samples."""
        return 1 + samples // self.hop_samples


def hann(samples: int) -> NDArray[np.float64]:
    """The periodic Hann window ``[samples]``: ``0.5 - 0.5 cos(2 pi n / samples)``."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / samples)


class DecibelMel(nn.Module):
    """``samples [batch, n] -> log-mels [batch, 1 + n // hop, mels]`` in dB; n more than half a frame.

    Raises ``ValueError`` on an odd transform.
    """

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.fft, self.hop = settings.fft_samples, settings.hop_samples
        # Sample `inner * i + j` of a frame is the i-th of the j-th short transform.
        self.short = math.gcd(self.fft, 1 << (self.fft.bit_length() // 2))
        self.inner = self.fft // self.short
        if self.short % 2:
            raise ValueError(f"found a transform of {self.fft} samples, expected an even number")
        bins = _by_remainder(np.flatnonzero(settings.bank.sum(1)), self.short)
        self.register_buffer("first", torch.from_numpy(_short_transforms(settings.window, self.short)))
        self.register_buffer("second", torch.from_numpy(_twiddled(bins, self.fft, self.short)))
        self.parts = 2 * bins.size
        bank = np.append(settings.bank, np.zeros((1, settings.bank.shape[1])), axis=0)[bins]  # no bin -1: a row of 0
        bank = np.concatenate([bank, bank], axis=1).reshape(-1, bank.shape[2])  # |X|^2 = re^2 + im^2
        self.register_buffer("bank", torch.from_numpy(bank.T.copy()).float())

    def forward(self, samples: Tensor) -> Tensor:
        """As the class says."""
        half = self.fft // 2
        frames = self._frames(F.pad(samples, (half, half), mode="reflect"))
        count = frames.shape[2]
        steps = frames.reshape(-1, self.short, self.inner, count).transpose(1, 2).double()
        found = (self.first @ steps).reshape(-1, self.inner, self.short // 2, 2, count).transpose(1, 2)
        parts = (self.second @ found.reshape(-1, self.short // 2, 2 * self.inner, count)).float()
        power = self.bank @ (parts * parts).reshape(-1, self.parts, count)
        return (torch.log(power.clamp(min=FLOOR)) * (10 / math.log(10))).transpose(1, 2)

    def _frames(self, samples: Tensor) -> Tensor:
        """``[batch, fft, frames]``: hops as columns, each frame's put one below the other."""
        count = 1 + (samples.shape[1] - self.fft) // self.hop
        whole, rest = divmod(self.fft, self.hop)
        hops = count + whole  # the last of them for `rest` samples, if any
        samples = F.pad(samples, (0, max(0, hops * self.hop - samples.shape[1])))[:, : hops * self.hop]
        columns = samples.reshape(-1, hops, self.hop).transpose(1, 2)
        parts = [columns[:, :, start : start + count] for start in range(whole)]
        return torch.cat([*parts, columns[:, :rest, whole : whole + count]], dim=1)


def _by_remainder(used: NDArray[np.int64], short: int) -> NDArray[np.int64]:
    """The bins, those that one output of the short transforms gives in a row: ``[short / 2, most]``, -1 where none is.

    Of real samples the outputs r and ``short - r`` are conjugate, so they go together; 0 and ``short / 2`` are real,
    and go together as if they were one complex number.
    """
    remainder = used % (short // 2) * np.where(used % short < short // 2, 1, -1) % (short // 2)
    rows = [used[remainder == row] for row in range(short // 2)]
    found = np.full((short // 2, max(map(len, rows))), -1)
    for row, bins in zip(found, rows, strict=True):
        row[: len(bins)] = bins
    return found


def _short_transforms(window: NDArray[np.float64], short: int) -> NDArray[np.float64]:
    """``[inner, short, short]``: windowed samples -> the real and imaginary part of each of ``short / 2`` outputs."""
    angle = 2 * np.pi * np.outer(np.arange(short // 2), np.arange(short)) / short
    parts = np.stack([np.cos(angle), -np.sin(angle)], axis=1)  # [output, part, sample]
    parts[0, 1] = np.cos(np.pi * np.arange(short))  # what has no imaginary part makes room for output short / 2
    windows = window.reshape(short, -1).T
    return np.asarray(parts.reshape(1, short, short) * windows[:, None, :])


def _twiddled(bins: NDArray[np.int64], fft: int, short: int) -> NDArray[np.float64]:
    """``[short / 2, 2 most, 2 inner]``: what the short transforms gave -> real, then imaginary parts of the bins."""
    angle = 2 * np.pi * bins[..., None] * np.arange(fft // short) / fft  # [row, bin, which short transform]
    cosine, sine = np.cos(angle), np.sin(angle)
    # (cos - i sin)(re + i im); the conjugate for outputs beyond half.
    sign = np.where(bins % short < short // 2, 1.0, -1.0)[..., None]
    real, imaginary = [cosine, sign * sine], [-sine, sign * cosine]
    # Row 0 holds two real outputs: of each bin, one is not its own.
    own = (bins[0] % short == 0)[:, None]
    real[0][0], real[1][0] = np.where(own, cosine[0], 0), np.where(own, 0, cosine[0])
    imaginary[0][0], imaginary[1][0] = np.where(own, -sine[0], 0), np.where(own, 0, -sine[0])
    parts = np.concatenate([np.stack(real, axis=-1), np.stack(imaginary, axis=-1)], axis=1)
    return parts.reshape(short // 2, 2 * bins.shape[1], -1)
