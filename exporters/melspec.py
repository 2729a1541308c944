"""Log-mels in decibels inside the graph, as torchlibrosa, torchaudio and ``transformers`` compute them for CLAP.

``10 log10(max(1e-10, |STFT|^2 @ bank))`` over centred frames, reflected at both ends, under a periodic Hann window
as long as the transform. The transform is products with the bins that the mel bank reads, over frames folded about
their centre (cosines see sums, sines differences) and each half about its middle (there even and odd bins see sums and
differences): each fold halves the work. The products are float64: the floor lies 150 dB below a loud tone's peak,
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
    """``samples [batch, n] -> log-mels [batch, 1 + n // hop, mels]`` in dB; n more than half a frame."""

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.fft, self.hop = settings.fft_samples, settings.hop_samples
        window, half = settings.window, settings.fft_samples // 2
        if self.fft % 4 or not np.allclose(window[1:], window[:0:-1]) or abs(window[0]) > 1e-9:
            raise ValueError("found another window, expected one of 4 n samples, zero first and symmetric after it")
        self.register_buffer("window", torch.from_numpy(window.copy()))
        lag = np.arange(1, half // 2 + 1)
        for name, first in (("even", 0), ("odd", 1)):
            used = np.flatnonzero(settings.bank.sum(1) * (np.arange(half + 1) % 2 == first))
            angle = 2 * np.pi * np.outer(lag, used) / self.fft
            cosines, sines = np.cos(angle), np.sin(angle)
            cosines[-1] /= 2  # the middle is folded onto itself, so it is counted twice
            sines[-1] /= 2
            self.register_buffer(f"{name}_cosines", torch.from_numpy(cosines))
            self.register_buffer(f"{name}_sines", torch.from_numpy(sines))
            self.register_buffer(f"{name}_bank", torch.from_numpy(settings.bank[used]).float())

    def forward(self, samples: Tensor) -> Tensor:
        """As the class says."""
        half = self.fft // 2
        frames = self._frames(F.pad(samples[:, None], (half, half), mode="reflect")[:, 0].double()) * self.window
        # By lag from the centre, 1 to half - 1; the window leaves nothing at the lag of half a transform.
        after, centre, before = frames[..., half + 1 :], frames[..., half : half + 1], frames[..., 1:half].flip(-1)
        near, far = self._mirrored(after + before)
        near_odd, far_odd = self._mirrored(after - before)
        even = ((near + far) @ self.even_cosines + centre).square() + ((near_odd - far_odd) @ self.even_sines).square()
        odd = ((near - far) @ self.odd_cosines + centre).square() + ((near_odd + far_odd) @ self.odd_sines).square()
        power = even.float() @ self.even_bank + odd.float() @ self.odd_bank
        return torch.log(power.clamp(min=FLOOR)) * (10 / math.log(10))

    def _mirrored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lags ``1 .. fft / 2 - 1`` -> ``1 .. fft / 4``, and what lies as far from the other end."""
        quarter = self.fft // 4
        return x[..., :quarter], x[..., quarter - 1 :].flip(-1)

    def _frames(self, samples: Tensor) -> Tensor:
        """``[batch, frames, fft]``, put together from blocks as long as the greatest common divisor."""
        block = math.gcd(self.fft, self.hop)
        step, per_frame = self.hop // block, self.fft // block
        count = 1 + (samples.shape[1] - self.fft) // self.hop
        needed = (count - 1) * step + per_frame
        blocks = samples[:, : needed * block].reshape(-1, needed, block)
        chosen = step * torch.arange(count)[:, None] + torch.arange(per_frame)
        return blocks.index_select(1, chosen.reshape(-1)).reshape(-1, count, self.fft)  # one Gather
