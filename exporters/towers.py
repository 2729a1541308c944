"""The two towers of the starter family, as they run.

They live with the exporter, as the architecture of every other family does: the trainer (which may import us, not
we it) adds losses around them, and a checkpoint can be exported again without a trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.frontend import FrontConfig, LogMel


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The audio tower: window in samples, trunk blocks as (channels out, stride), classes of the bottleneck.

    ``level`` is the root mean square of a window's mel magnitudes below which it is made louder, by ``most_gain`` at
    most (30 dB).
    """

    front: FrontConfig = field(default_factory=FrontConfig)
    window_samples: int = 31_040
    hop_samples: int = 15_520
    patch_frames: int = 96
    level: float = 1.75
    most_gain: float = 31.6
    stem: int = 32
    blocks: tuple[tuple[int, int], ...] = (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
    )  # fmt: skip
    classes: int = 521
    hidden: int = 256
    dim: int = 256


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text tower: pieces in the vocabulary, longest text in pieces, transformer sizes, what it was taught."""

    pieces: int = 20_000
    max_tokens: int = 64
    layers: int = 2
    heads: int = 4
    inner: int = 512
    dim: int = 256
    languages: tuple[str, ...] = ("eng",)


class Block(nn.Module):
    """Depthwise 3x3, ReLU6, pointwise, ReLU6 (MobileNet v1, arXiv:1704.04861, section 3.1; norms folded)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, groups=channels)
        self.pointwise = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, time, mel] -> [batch, out, time/stride, mel/stride]``."""
        return F.relu6(self.pointwise(F.relu6(self.depthwise(_same(x, self.stride)))))


class Trunk(nn.Module):
    """Log-mels to a map of features: a stem and separable blocks, 32 times smaller in time and in mel (both even)."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, config.stem, 3, 2)
        widths = [config.stem, *(out for out, _ in config.blocks)]
        self.blocks = nn.ModuleList(
            Block(channels, out, stride) for channels, (out, stride) in zip(widths, config.blocks, strict=False)
        )

    def forward(self, mels: Tensor) -> Tensor:
        """``[batch, frames, mels] -> [batch, channels, frames/32, mels/32]``."""
        x = F.relu6(self.stem(_same(mels.unsqueeze(1), 2)))
        for block in self.blocks:
            x = block(x)
        return x


def _same(x: Tensor, stride: int) -> Tensor:
    """Zeros around a map of even sides, so that a 3x3 kernel gives ceil(side / stride): TensorFlow's SAME."""
    return F.pad(x, (0, 1, 0, 1)) if stride == 2 else F.pad(x, (1, 1, 1, 1))


class AudioTower(nn.Module):
    """``samples [batch, window_samples] -> unit vectors [batch, dim]``.

    A window is heard as patches of 0.96 s side by side, which is how the teacher was trained: its features blow up on
    longer inputs, where fewer positions see the zeros at the edge. Each patch says how likely each class is; over
    the window a class counts by its linear softmax (arXiv:1810.09050, eq. 4), so a short event isn't diluted by what
    follows. The vector is the classes' meanings weighted by their chances, plus a learnt detail.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.front = LogMel(config.front)
        self.trunk = Trunk(config)
        channels = config.blocks[-1][0]
        self.classifier = nn.Linear(channels, config.classes)
        self.meanings = nn.Linear(config.classes, config.dim)
        self.sharpness = nn.Parameter(torch.ones(config.classes))
        self.detail = nn.Sequential(
            nn.Linear(2 * channels, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.dim)
        )

    def forward(self, samples: Tensor) -> Tensor:
        """``[batch, window_samples]`` float32 -> ``[batch, dim]``, L2-normalised.

        A constant offset is no sound, but leaks into the lowest bands, where levelling would make it one.
        """
        return self.embed(self.hear(self.levelled(self.front(samples - samples.mean(1, keepdim=True)))))

    def levelled(self, mels: Tensor) -> Tensor:
        """Log-mels ``[batch, frames, mels]`` with faint windows made louder, loud ones left as they are.

        The trunk learnt from levelled recordings: 20 dB fainter and half of what it knew of rare sounds is lost. The
        gain ends at ``most_gain``, so that silence stays silence.
        """
        offset = self.config.front.offset
        magnitudes = (mels.exp() - offset).clamp(min=0)
        level = magnitudes.square().mean((1, 2), keepdim=True).sqrt()
        gain = (self.config.level / level.clamp(min=1e-9)).clamp(1.0, self.config.most_gain)
        return torch.log(gain * magnitudes + offset)

    def hear(self, mels: Tensor) -> Tensor:
        """Log-mels ``[batch, frames, mels]`` -> features of the patches ``[batch, patches, channels]``."""
        patch = self.config.patch_frames
        count = mels.shape[1] // patch
        patches = mels[:, : count * patch].reshape(-1, patch, mels.shape[2])
        return self.trunk(patches).mean((2, 3)).reshape(-1, count, self.classifier.in_features)

    def chances(self, logits: Tensor) -> Tensor:
        """``[batch, patches, classes] -> [batch, classes]``: how likely each class is heard in the window."""
        p = torch.sigmoid(logits)
        return (p * p).sum(1) / (p.sum(1) + 1e-6)

    def embed(self, features: Tensor) -> Tensor:
        """``[batch, patches, channels] -> [batch, dim]``, L2-normalised."""
        chances = self.chances(self.classifier(features)).clamp(min=1e-6)
        pooled = torch.cat([features.mean(1), features.amax(1)], dim=1)
        return unit(self.meanings(chances**self.sharpness) + self.detail(pooled))


class TextTower(nn.Module):
    """``input_ids, attention_mask [batch, tokens] -> unit vectors [batch, dim]``.

    A weighted bag of piece vectors, which is already near the teacher (Model2Vec's finding), plus what two small
    transformer layers add: order and the pieces of rare words.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.pieces = nn.Embedding(config.pieces, config.dim)
        self.weights = nn.Parameter(torch.ones(config.pieces, 1))
        self.positions = nn.Parameter(torch.zeros(config.max_tokens, config.dim))
        self.enter = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.leave = nn.LayerNorm(config.dim)
        self.out = nn.Linear(config.dim, config.dim)

    #: The last token is a word like the others: another one follows it.
    closes = False

    @property
    def token_dim(self) -> int:
        """Numbers in a token's vector."""
        return self.config.dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 ``[batch, tokens]`` each, tokens at most ``max_tokens`` -> ``[batch, dim]``, L2-normalised."""
        return self._read(self.pieces(input_ids), self.weights[input_ids], attention_mask)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings ``[batch, tokens, dim + 1]``, a piece's vector and its weight in the bag, and the mask."""
        return torch.cat([self.pieces(input_ids), self.weights[input_ids]], dim=2), attention_mask

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What ``embed`` gives -> ``[batch, dim]``, L2-normalised: what ``forward`` gives for the same tokens."""
        return self._read(embeddings[:, :, :-1], embeddings[:, :, -1:], mask)

    def _read(self, pieces: Tensor, weights: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.to(torch.float32).unsqueeze(2)
        count = mask.sum(1)
        bag = (pieces * weights * mask).sum(1)
        x = self.enter(pieces) + self.positions[: pieces.shape[1]]
        bias = (mask.transpose(1, 2) - 1).unsqueeze(1) * 1e4
        for layer in self.layers:
            x = layer(x, bias)
        pooled = (self.leave(x) * mask).sum(1) / count
        return unit(bag + self.out(pooled))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim)
        self.mix = nn.Linear(config.dim, 3 * config.dim)
        self.back = nn.Linear(config.dim, config.dim)
        self.norm_inner = nn.LayerNorm(config.dim)
        self.inner = nn.Sequential(
            nn.Linear(config.dim, config.inner), nn.GELU(approximate="tanh"), nn.Linear(config.inner, config.dim)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``x [batch, tokens, dim]``, ``bias [batch, 1, 1, tokens]`` (0, or far below it at padding) -> like ``x``."""
        batch, tokens, dim = x.shape
        mixed = self.mix(self.norm(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(2, 3) / math.sqrt(dim // self.heads) + bias
        heard = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.back(heard)
        return x + self.inner(self.norm_inner(x))


def unit(vectors: Tensor) -> Tensor:
    """``[batch, dim]`` scaled to length one; finite even for the zero vector."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
