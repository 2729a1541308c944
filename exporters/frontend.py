"""Log-mel spectra inside the graph: framing, a folded DFT and the mel bank are three matrix products.

The numbers are the teacher's (YAMNet): 16 kHz, 25 ms periodic Hann window, 10 ms hop, 512-point magnitude spectrum,
64 HTK mel bands from 125 to 7500 Hz, ``log(mel + 0.001)``. Only the bins that the mel bank reads are computed.
A window symmetric about its centre lets a frame be folded there first, cosines against sums and sines against
differences, which halves the multiplications.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """How samples become log-mels; lengths in samples, frequencies in Hz."""

    sample_rate_hz: int = 16_000
    frame_samples: int = 400
    hop_samples: int = 160
    fft_samples: int = 512
    mels: int = 64
    low_hz: float = 125.0
    high_hz: float = 7500.0
    offset: float = 1e-3


def frames_of(samples: int, config: FrontConfig) -> int:
    """Whole frames in that many samples."""
    return 1 + (samples - config.frame_samples) // config.hop_samples


def hz_to_mel(hz: Tensor) -> Tensor:
    """HTK's mel scale: ``1127 ln(1 + hz / 700)`` (The HTK Book, eq. 5.13)."""
    return 1127.0 * torch.log1p(hz / 700.0)


def mel_bank(config: FrontConfig) -> Tensor:
    """Triangles, linear on the mel scale, ``[fft/2 + 1, mels]`` float64; the bin at 0 Hz counts nowhere."""
    bins = hz_to_mel(torch.linspace(0, config.sample_rate_hz / 2, config.fft_samples // 2 + 1, dtype=torch.float64))
    low, high = (hz_to_mel(torch.tensor(hz, dtype=torch.float64)) for hz in (config.low_hz, config.high_hz))
    edges = low + (high - low) * torch.linspace(0, 1, config.mels + 2, dtype=torch.float64)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - lower) / (centre - lower)
    fall = (upper - bins[:, None]) / (upper - centre)
    bank = torch.minimum(rise, fall).clamp(min=0)
    bank[0] = 0
    return bank


class LogMel(nn.Module):
    """``samples [batch, n] -> log-mels [batch, frames, mels]``."""

    def __init__(self, config: FrontConfig) -> None:
        super().__init__()
        self.config = config
        bank = mel_bank(config)
        used = torch.nonzero(bank.sum(1))[:, 0]
        half = config.frame_samples // 2
        lag = torch.arange(half, dtype=torch.float64)
        # Hann, periodic: 0.5 - 0.5 cos(2 pi n / frame), read from its centre outwards; its first sample is zero.
        window = 0.5 + 0.5 * torch.cos(math.pi * lag / half)
        angle = 2 * math.pi * lag[:, None] * used / config.fft_samples
        cosines = window[:, None] * torch.cos(angle)
        cosines[0] /= 2  # the centre is folded onto itself, so it is counted twice
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("sines", (window[:, None] * torch.sin(angle)).float(), persistent=False)
        self.register_buffer("bank", bank[used].float(), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """``[batch, n]`` float32 at 16 kHz, n at least one frame -> ``[batch, frames, mels]``."""
        frames = self._frames(samples)
        half = self.config.frame_samples // 2
        after, before = frames[..., half:], frames[..., 1 : half + 1].flip(-1)
        real, imaginary = (after + before) @ self.cosines, (after - before) @ self.sines
        magnitude = torch.sqrt(real * real + imaginary * imaginary)
        return torch.log(magnitude @ self.bank + self.config.offset)

    def _frames(self, samples: Tensor) -> Tensor:
        """``[batch, frames, frame_samples]``, put together from blocks as long as the greatest common divisor."""
        frame, hop = self.config.frame_samples, self.config.hop_samples
        block = math.gcd(frame, hop)
        step, per_frame = hop // block, frame // block
        count = frames_of(samples.shape[1], self.config)
        needed = (count - 1) * step + per_frame
        blocks = samples[:, : needed * block].reshape(-1, needed, block)
        last = (count - 1) * step + 1
        return torch.cat([blocks[:, i : i + last : step] for i in range(per_frame)], dim=-1)
