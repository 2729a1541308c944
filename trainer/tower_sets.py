"""Both towers of a model in torch behind one interface, whatever its family: what fine-tuning works on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.composing import A2t, ComposedText, TokenTower
from exporters.errors import SourceError
from exporters.htsat import Htsat
from exporters.source import Source
from trainer.patches import PatchDropout
from trainer.settings import DROPOUT


class Towers(nn.Module):
    """The towers of a ``Source``, its tokenizer, and, where sounds become words, an a2t module.

    >>> towers = Towers(load_base("starter"))
    >>> sounds = towers.encode_audio(samples)                 # [batch, window_samples] -> unit [batch, dim]
    >>> embeddings, mask = towers.embed_tokens(*towers.tokens(["rain"]))
    >>> texts = towers.encode_text(embeddings, mask)          # unit [batch, dim]
    """

    def __init__(
        self, source: Source, *, composes: bool = False, patch_dropout: float = 0.0, dropout: float = DROPOUT
    ) -> None:
        """``composes``: with an a2t module, that of the source where it has one, and its ``dropout``.

        ``patch_dropout``: share of time and of frequency.

        Raises ``SourceError`` for a source without both towers.
        """
        super().__init__()
        if source.audio is None or source.text is None:
            raise SourceError(f"{source.name} with one tower", "sound and words", "choose another --base")
        self.source = source
        self.audio: nn.Module = source.audio.module
        self.text: nn.Module = source.text.module
        self.a2t = _a2t(source, self.token_dim, dropout) if composes else None
        self.dim, self.sample_rate_hz = source.dim, source.audio.sample_rate_hz
        self.window_samples = source.audio.window_samples
        self._part, self._tokenizer = source.text, Tokenizer.from_str(source.text.tokenizer.to_str())
        front = getattr(self.audio, "front", None)
        if front is not None:  # decibels are no work for 16 bits
            front.forward = torch.autocast("cuda", enabled=False)(torch.autocast("cpu", enabled=False)(front.forward))
        trunk = getattr(self.audio, "trunk", None)
        if isinstance(trunk, Htsat) and patch_dropout:
            trunk.patches.register_forward_hook(PatchDropout(trunk, patch_dropout))

    @property
    def reader(self) -> TokenTower:
        """The text tower as one that takes token embeddings."""
        return self.text  # type: ignore[return-value]

    @property
    def token_dim(self) -> int:
        """Numbers in a text token."""
        return self.reader.token_dim

    def encode_audio(self, samples: Tensor) -> Tensor:
        """``[batch, window_samples]`` at ``sample_rate_hz`` -> unit ``[batch, dim]``."""
        return self.audio(samples)

    def tokens(self, texts: Sequence[str], room: int = 1) -> tuple[Tensor, Tensor]:
        """``(input_ids, attention_mask)`` int64 ``[texts, longest]``, cut so that ``room`` more tokens fit."""
        self._tokenizer.enable_truncation(self._part.max_tokens - room)
        lower, suffix = self._part.lowercase, self._part.suffix
        read = self._tokenizer.encode_batch([(text.lower() if lower else text) + suffix for text in texts])
        device = next(self.text.parameters()).device
        ids, mask = [one.ids for one in read], [one.attention_mask for one in read]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def embed_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, tokens]`` each -> token embeddings ``[batch, tokens, width]`` and their mask."""
        return self.reader.embed(input_ids, attention_mask)

    def encode_text(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What ``embed_tokens`` and ``insert_token`` give -> unit ``[batch, dim]``."""
        return self.reader.encode(embeddings, mask)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit ``[n, dim]``."""
        ids, mask = self.tokens(texts, room=0)
        return self.text(ids, mask)

    def compose(self, texts: Sequence[str], sounds: Tensor) -> Tensor:
        """n texts, each followed by its sound ``[n, dim]`` as a token -> unit ``[n, dim]`` (eqs. 8, 9 and 15, 16)."""
        if self.a2t is None:
            raise ValueError("found towers without an a2t module, expected Towers(…, composes=True)")
        return ComposedText(self.reader, self.a2t)(*self.tokens(texts), sounds)


def _a2t(source: Source, token_dim: int, dropout: float) -> A2t:
    """A module with what that of the source has learnt, or one that knows nothing."""
    if not isinstance(source.compose, ComposedText):
        return A2t(source.dim, token_dim, dropout)
    learnt = source.compose.a2t
    found = A2t(source.dim, token_dim, dropout, hidden=learnt.layers[0].out_features)
    found.load_state_dict(learnt.state_dict())
    return found
