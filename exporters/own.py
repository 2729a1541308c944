"""What our own trainer saves: ``towers.pt`` with its configurations, and ``tokenizer.json``.

The starter that is shipped is written by ``exporters.starter``, which also rounds what it stores and fits relevance;
here a checkpoint is exported like any other, its towers in torch being their own reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from engine.types import FloatArray
from engine.windows import pad_to
from exporters.source import AudioPart, Source, TextPart, fingerprint, reading
from exporters.starter import PAD, Checkpoint, load_checkpoint, write_towers

NAME = "own"
SUMMARY = "what earshot's trainer saves: towers.pt and tokenizer.json"


def reads(source: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is of this family."""
    return (source / "towers.pt").is_file()


def load(source: Path, name: str) -> Source:
    """Read a checkpoint folder. Raises ``SourceError``."""
    with reading(source):
        checkpoint = load_checkpoint(source)
    return source_of(checkpoint, name)


def source_of(checkpoint: Checkpoint, name: str) -> Source:
    """Towers of this family as what is exported. Raises ``SourceError`` where the tokenizer can't be read."""
    with reading(checkpoint.tokenizer):
        tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
    tokenizer.no_truncation()
    tokenizer.enable_padding(**{key: value for key, value in (tokenizer.padding or {}).items() if key != "length"})
    audio, text = checkpoint.audio, checkpoint.text
    weights = [(f"{tower}.{key}", value) for tower in ("audio", "text") for key, value in _weights(checkpoint, tower)]
    return Source(
        family=NAME,
        name=name,
        fingerprint=fingerprint(weights, tokenizer, {"audio": asdict(audio.config), "text": asdict(text.config)}),
        dim=audio.config.dim,
        audio=_audio(checkpoint),
        text=_text(checkpoint, tokenizer),
        facts={},
        note=lambda folder: write_towers(folder, audio, text),
    )


def _weights(checkpoint: Checkpoint, tower: str) -> Sequence[tuple[str, torch.Tensor]]:
    return list(getattr(checkpoint, tower).state_dict().items())


def _audio(checkpoint: Checkpoint) -> AudioPart:
    tower, config = checkpoint.audio, checkpoint.audio.config

    @torch.inference_mode()
    def reference(clip: FloatArray) -> FloatArray:
        window = pad_to(clip, config.window_samples, PAD)
        return np.asarray(tower(torch.from_numpy(window)[None])[0].numpy())

    return AudioPart(
        module=tower,
        reference=reference,
        sample_rate_hz=config.front.sample_rate_hz,
        window_samples=config.window_samples,
        hop_samples=config.hop_samples,
        pad=PAD,
        exact=("front.bank",),
    )


def _text(checkpoint: Checkpoint, tokenizer: Tokenizer) -> TextPart:
    tower, config = checkpoint.text, checkpoint.text.config
    reader = Tokenizer.from_str(tokenizer.to_str())
    reader.enable_truncation(config.max_tokens)

    @torch.inference_mode()
    def reference(texts: Sequence[str]) -> FloatArray:
        read = reader.encode_batch([text.lower() for text in texts])
        ids, mask = torch.tensor([one.ids for one in read]), torch.tensor([one.attention_mask for one in read])
        return np.asarray(tower(ids, mask).numpy())

    return TextPart(tower, reference, tokenizer, config.max_tokens, config.languages, lowercase=True)
