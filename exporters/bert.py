"""BERT and RoBERTa as they run in the graph: the weights of ``transformers``' classes, and no padding.

The architecture is BERT's (arXiv:1810.04805), as in ``transformers`` 5 (``models/bert``, ``models/roberta``, the text
tower of ``models/clap``). What differs is what is left out:

- Texts of different lengths are padded to be asked together, but only attention needs them so: all else is computed for
  the tokens that there are, one below the other (as arXiv:2210.03052, section 4.1, does).
- Where only a text's first token is read, the last layer computes no other.
- Queries, keys and values come from one product, the scale of the scores folded into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Added to the scores of padding.
_FAR_BELOW = -1e9


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a padded batch are: ``kept [tokens]`` their places in ``[batch * length]``, ``row [batch *
    length]`` which of them lies at a place (at padding any), ``bias [batch, 1, 1, length]`` what attention adds.
    """

    batch: int
    length: int
    kept: Tensor
    row: Tensor
    bias: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Layout:
        """From ``mask [batch, length]``, 1 at tokens."""
        flat = mask.reshape(-1)
        kept = flat.nonzero()[:, 0]
        bias = (1.0 - mask.float())[:, None, None, :] * _FAR_BELOW
        return cls(mask.shape[0], mask.shape[1], kept, (flat.cumsum(0) - 1).clamp(min=0), bias)

    def padded(self, x: Tensor) -> Tensor:
        """``[tokens, dim] -> [batch, length, dim]``; what lies at padding means nothing."""
        return x.index_select(0, self.row).reshape(self.batch, self.length, -1)

    def packed(self, x: Tensor) -> Tensor:
        """``[batch, length, dim] -> [tokens, dim]``."""
        return x.reshape(self.batch * self.length, -1).index_select(0, self.kept)


class Bert(nn.Module):
    """``input_ids, attention_mask [batch, length] -> [batch, dim]``: the last layer at each text's first token.

    Without ``first_only``: ``[batch, length, dim]``, at padding zero.
    """

    def __init__(self, model: nn.Module, first_only: bool) -> None:
        super().__init__()
        self.embeddings, self.first_only = model.embeddings, first_only
        layers = model.encoder.layer
        self.layers = nn.ModuleList(Layer(one, first_only and one is layers[-1]) for one in layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        layout = Layout.of(attention_mask)
        own = self.embeddings
        ids = input_ids.reshape(-1).index_select(0, layout.kept)
        places = self._positions(input_ids).reshape(-1).index_select(0, layout.kept)
        x = own.word_embeddings(ids) + own.token_type_embeddings.weight[0] + own.position_embeddings(places)
        x = own.LayerNorm(x)
        for layer in self.layers:
            x = layer(x, layout)
        return x if self.first_only else layout.padded(x) * attention_mask[..., None]

    def _positions(self, ids: Tensor) -> Tensor:
        """RoBERTa counts what isn't padding, from behind the padding's own number on; BERT counts from 0."""
        padding = self.embeddings.position_embeddings.padding_idx
        if padding is None:
            return torch.arange(ids.shape[1]).expand(ids.shape)
        real = ids.ne(padding).long()
        return real.cumsum(1) * real + padding


class Layer(nn.Module):
    """One layer over the tokens ``[tokens, dim]`` of a batch; with ``first`` it gives ``[batch, dim]``, the first's."""

    def __init__(self, layer: nn.Module, first: bool) -> None:
        super().__init__()
        attention = layer.attention.self
        self.heads, self.first = attention.num_attention_heads, first
        scale = attention.attention_head_size**-0.5
        self.query = joined((attention.query, scale)) if first else None
        rest = (attention.key, 1.0), (attention.value, 1.0)
        self.mix = joined(*rest) if first else joined((attention.query, scale), *rest)
        self.out, self.norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        self.inner, self.activation = layer.intermediate.dense, layer.intermediate.intermediate_act_fn
        self.outer, self.norm_after = layer.output.dense, layer.output.LayerNorm

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """As the class says."""
        mixed = self._by_head(layout.padded(self.mix(x)))
        if self.query is None:
            query, key, value = mixed.unbind(0)
        else:
            x = x.index_select(0, layout.row.reshape(layout.batch, layout.length)[:, 0])
            (query,), (key, value) = self._by_head(self.query(x)[:, None]), mixed.unbind(0)
        heard = ((query @ key.transpose(2, 3) + layout.bias).softmax(-1) @ value).transpose(1, 2)
        heard = heard.reshape(layout.batch, -1, x.shape[1])
        heard = layout.packed(heard) if self.query is None else heard[:, 0]
        x = self.norm(self.out(heard) + x)
        return self.norm_after(self.outer(self.activation(self.inner(x))) + x)

    def _by_head(self, x: Tensor) -> Tensor:
        """``[batch, length, parts * dim] -> [parts, batch, heads, length, dim / heads]``."""
        width = self.out.in_features
        return x.reshape(x.shape[0], x.shape[1], -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)


def joined(*parts: tuple[nn.Linear, float]) -> nn.Linear:
    """Several layers as one, each with its factor."""
    first = parts[0][0]
    made = nn.Linear(first.in_features, sum(one.out_features for one, _ in parts), bias=first.bias is not None)
    with torch.no_grad():
        made.weight.copy_(torch.cat([one.weight * factor for one, factor in parts]))
        if first.bias is not None:
            made.bias.copy_(torch.cat([one.bias * factor for one, factor in parts]))
    return made
