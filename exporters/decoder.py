"""The decoder that turns a vector of the space into a caption, as it runs in torch.

WSAC (arXiv:2309.12242, section 2): a mapping network of two layers gives a prefix, a transformer goes on from it. The
transformer is GPT-2's, so that a published one fits. Its graphs: ``exporters.captiongraph``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes: of the space, the vocabulary, the transformer, the prefix and the mapping network.

    ``max_tokens``: pieces of the longest caption, its end among them.
    """

    dim: int
    pieces: int
    width: int = 768
    layers: int = 4
    heads: int = 4
    prefix: int = 1
    hidden: int = 768
    max_tokens: int = 40
    dropout: float = 0.0

    @property
    def positions(self) -> int:
        """Places in the longest sequence: the prefix, the piece that starts a caption, and the caption."""
        return self.prefix + 1 + self.max_tokens


class CaptionDecoder(nn.Module):
    """``vectors [n, dim], ids [n, tokens] -> logits [n, tokens, pieces]``; ids begin with the piece of a language."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.mapper = nn.Sequential(
            nn.Linear(config.dim, config.hidden), nn.Tanh(), nn.Linear(config.hidden, config.prefix * config.width)
        )
        self.pieces = nn.Embedding(config.pieces, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.leave = nn.LayerNorm(config.width)
        self._start()

    def _start(self) -> None:
        """GPT-2's starting weights: what is added to the stream is small, and smaller the more layers add.

        The numbers of a unit vector are small; weights of about one tell vectors apart from the first step on.
        """
        nn.init.normal_(self.mapper[0].weight)  # type: ignore[arg-type]
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith("mapper"):
                out = name.endswith(("back.weight", "inner.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5 if out else 0.02)

    def prefix(self, vectors: Tensor) -> Tensor:
        """``[n, dim] -> [n, prefix, width]``."""
        mapped: Tensor = self.mapper(vectors)
        return mapped.reshape(len(vectors), self.config.prefix, self.config.width)

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """What comes after each of ``ids``: int64 ``[n, tokens]``, at most ``max_tokens + 1`` of them."""
        hidden = self.stream(torch.cat([self.prefix(vectors), self.pieces(ids)], 1))[:, self.config.prefix :]
        return hidden @ self.pieces.weight.T

    def stream(self, x: Tensor) -> Tensor:
        """Embeddings ``[n, places, width]`` -> what the last layer makes of them, normed."""
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        left: Tensor = self.leave(x)
        return left


class DecoderLayer(nn.Module):
    """One pre-norm transformer layer that looks back."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout, width = config.heads, config.dropout, config.width
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.back = nn.Linear(width, width)
        self.norm_inner = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, places, width]`` -> like it."""
        n, places, width = x.shape
        mixed = self.mix(self.norm(x)).reshape(n, places, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self._drop(self.back(heard.transpose(1, 2).reshape(n, places, width)))
        return x + self._drop(self.inner(self.norm_inner(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


@torch.no_grad()
def from_gpt2(model: Any, dim: int, prefix: int, max_tokens: int) -> CaptionDecoder:
    """A decoder with the weights of ``transformers``' ``GPT2LMHeadModel``; its mapping network is still untaught."""
    theirs = model.config
    decoder = CaptionDecoder(
        DecoderConfig(
            dim=dim,
            pieces=theirs.vocab_size,
            width=theirs.n_embd,
            layers=theirs.n_layer,
            heads=theirs.n_head,
            prefix=prefix,
            hidden=theirs.n_embd,
            max_tokens=max_tokens,
        )
    )
    trunk = model.transformer
    decoder.pieces.weight.copy_(trunk.wte.weight)
    decoder.positions.copy_(trunk.wpe.weight[: decoder.config.positions])
    decoder.leave.load_state_dict(trunk.ln_f.state_dict())
    for ours, block in zip(decoder.layers, trunk.h, strict=True):
        ours.norm.load_state_dict(block.ln_1.state_dict())
        ours.norm_inner.load_state_dict(block.ln_2.state_dict())
        pairs = (
            (ours.mix, block.attn.c_attn),
            (ours.back, block.attn.c_proj),
            (ours.inner[0], block.mlp.c_fc),
            (ours.inner[2], block.mlp.c_proj),
        )
        for linear, convolution in pairs:  # GPT-2 keeps them the other way round
            linear.weight.copy_(convolution.weight.T)
            linear.bias.copy_(convolution.bias)
    return decoder.eval()
