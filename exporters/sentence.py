"""Text encoders of ``sentence-transformers``: words only, for captions and keywords beside the sound vectors.

A source is a folder with ``modules.json``. The modules themselves are exported: transformer, pooling, dense layers,
normalisation. Prompts are left out: a text is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import BertModel, RobertaModel, XLMRobertaModel

from engine.types import FloatArray
from exporters.bert import Bert
from exporters.errors import SourceError
from exporters.source import (
    Source,
    TextPart,
    backend_tokenizer,
    fingerprint,
    published,
    reading,
    require_keys,
)
from exporters.towers import unit

NAME = "sentence-transformers"
SUMMARY = "text encoders of sentence-transformers: multilingual MiniLM, LaBSE and kin; words only"

#: Transformers that ``Bert`` computes.
_PACKED = (BertModel, RobertaModel, XLMRobertaModel)


class SentenceTower(nn.Module):
    """``input_ids, attention_mask [batch, tokens] -> unit vectors [batch, dim]``."""

    def __init__(self, model: SentenceTransformer, packed: bool) -> None:
        super().__init__()
        self.steps = nn.ModuleList(model)
        if packed:
            self.steps[0] = PackedTransformer(model[0].auto_model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        for step in self.steps:
            features = step(features)
        return unit(features["sentence_embedding"])


class PackedTransformer(nn.Module):
    """The library's ``Transformer`` for BERT and its kin, without padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = Bert(model, first_only=False)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """``input_ids, attention_mask [batch, tokens] -> token_embeddings [batch, tokens, dim]`` beside them."""
        return {**features, "token_embeddings": self.model(features["input_ids"], features["attention_mask"])}


def reads(source: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is of this family."""
    return (source / "modules.json").is_file()


def load(source: Path, name: str) -> Source:
    """Read a checkpoint folder. Raises ``SourceError``."""
    with reading(source):
        model = SentenceTransformer(str(source), device="cpu", trust_remote_code=False, local_files_only=True)
        reader, max_tokens = model.tokenizer, model.max_seq_length
        _require_whole(source, model)
    model.eval().float()
    if not getattr(reader, "is_fast", False) or not max_tokens:
        raise SourceError(f"{source} without a tokenizer.json, or without a longest text", "both", "choose another")
    tokenizer = backend_tokenizer(reader)
    dim = int(model.get_embedding_dimension())
    facts = published(source)

    @torch.inference_mode()
    def reference(texts: Sequence[str]) -> FloatArray:
        return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), np.float32)

    settings = {"modules": [type(step).__name__ for step in model], "max_tokens": max_tokens}
    return Source(
        family=NAME,
        name=name,
        fingerprint=fingerprint(model.state_dict().items(), tokenizer, settings),
        dim=dim,
        audio=None,
        text=TextPart(
            SentenceTower(model, packed=False).eval(),
            reference,
            tokenizer,
            max_tokens,
            tuple(facts.pop("languages", ("und",))),
            runs=SentenceTower(model, packed=True).eval() if isinstance(model[0].auto_model, _PACKED) else None,
        ),
        facts=facts,
    )


def _require_whole(source: Path, model: SentenceTransformer) -> None:
    """Raise ``SourceError`` where weights of the transformer are missing, which the library would make up.

    Others than it reads are no fault: many of these were saved with the head that they were trained with. Nor is a
    missing ``pooler``, whose output the pooling modules don't take.
    """
    modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    kind = type(model[0].auto_model)
    _, info = kind.from_pretrained(
        source / modules[0]["path"], output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
    )
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    require_keys(str(source), missing, (), info["mismatched_keys"])
