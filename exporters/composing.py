"""A sound as a token: the a2t module and the text tower that reads its token among words.

After "Leveraging Unlabeled Audio for Audio-Text Contrastive Learning via Audio-Composed Text Features" (Komatsu et
al.), whose equations are named below. It lives with the towers that it joins; ``trainer.compose`` has the losses.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 1024


class TokenTower(Protocol):
    """A text tower that can be given token embeddings: those of ``exporters.towers``, ``laion`` and ``msclap``.

    ``token_dim``: numbers in a token. ``closes``: whether a text ends with a token of its own, before which others go.
    """

    closes: bool

    @property
    def token_dim(self) -> int:
        """Numbers in a token's vector."""

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``[batch, tokens]`` each -> embeddings ``[batch, tokens, token_dim or one more]`` and a mask."""

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What ``embed`` gives -> unit ``[batch, dim]``."""


class A2t(nn.Module):
    """A sound's unit vector ``[batch, dim]`` -> one text token ``[batch, token_dim]`` (eq. 7).

    Two layers of 1024 with dropout and ReLU, then an output layer (section 4.2).
    """

    def __init__(self, dim: int, token_dim: int, dropout: float = 0.0, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(dim, hidden), nn.Dropout(dropout), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.Dropout(dropout), nn.ReLU()),
            nn.Linear(hidden, token_dim),
        )

    def forward(self, sounds: Tensor) -> Tensor:
        """As the class says."""
        return self.layers(sounds)


def insert_token(embeddings: Tensor, mask: Tensor, token: Tensor, closes: bool) -> tuple[Tensor, Tensor]:
    """One more token in each text: eqs. 8 and 15, ``[X; z]`` along the token axis.

    ``embeddings [batch, tokens, width]`` with padding behind each text, ``mask [batch, tokens]``, ``token [batch, n]``
    -> the same, a token longer. It comes last, but before the token that ``closes`` a text, and inside the mask: a
    causal tower pooled at its last token hears nothing of what lies behind. A width beyond ``n`` is filled with ones,
    which is how much the token weighs in a bag.
    """
    token = F.pad(token, (0, embeddings.shape[2] - token.shape[1]), value=1.0)[:, None]
    place = (mask.sum(1) - int(closes))[:, None, None]
    position = torch.arange(embeddings.shape[1] + 1, device=mask.device)[None, :, None]
    before = torch.cat([embeddings, torch.zeros_like(embeddings[:, :1])], dim=1)
    behind = torch.cat([torch.zeros_like(embeddings[:, :1]), embeddings], dim=1)
    longer = torch.where(position < place, before, torch.where(position == place, token, behind))
    return longer, torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)


class ComposedText(nn.Module):
    """Words and a sound as one text, the graph ``compose.onnx``: eqs. 13 to 16.

    ``input_ids, attention_mask [batch, tokens]``, unit ``sound [batch, dim]`` -> unit ``[batch, dim]``.
    """

    def __init__(self, text: TokenTower, a2t: A2t) -> None:
        super().__init__()
        self.text, self.a2t = text, a2t

    def forward(self, input_ids: Tensor, attention_mask: Tensor, sound: Tensor) -> Tensor:
        """As the class says."""
        embeddings, mask = self.text.embed(input_ids, attention_mask)
        return self.text.encode(*insert_token(embeddings, mask, self.a2t(sound), self.text.closes))
