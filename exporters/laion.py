"""LAION's CLAP as ``transformers`` publishes it: HTSAT and RoBERTa, 10 s at 48 kHz (arXiv:2211.06687).

A source is a folder as the Hub has it: ``config.json`` with ``model_type: clap``, ``preprocessor_config.json``, weights
(``model.safetensors`` or ``pytorch_model.bin``) and a tokenizer. What the weights are called and what the settings
mean is ``transformers``' to say (``models/clap`` of version 5): its classes read both, and are the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerBase

from engine.types import FloatArray, Pad
from exporters.bert import Bert
from exporters.errors import SourceError
from exporters.htsat import Htsat
from exporters.melspec import DecibelMel, MelSettings, hann
from exporters.source import (
    AudioPart,
    Source,
    TextPart,
    backend_tokenizer,
    fingerprint,
    published,
    reading,
    require_keys,
)
from exporters.towers import unit

NAME = "laion"
SUMMARY = "CLAP as transformers has it: laion/clap-htsat-unfused, laion/larger_clap_general and kin"

#: The front end and the stretching in time: few products, on decibels that 8 bits can't hold.
HTSAT_EXACT = ("trunk.stretch",)
#: What the feature extractor calls its padding, and what we do.
_PADS: dict[str, Pad] = {"repeatpad": "repeatpad", "repeat": "repeat", "pad": "zero"}


class HtsatTower(nn.Module):
    """``samples [batch, n] -> unit vectors [batch, dim]``: log-mels, HTSAT, projection."""

    def __init__(self, front: DecibelMel, trunk: Htsat, projection: nn.Module) -> None:
        super().__init__()
        self.front, self.trunk, self.projection = front, trunk, projection

    def forward(self, samples: Tensor) -> Tensor:
        """As the class says."""
        return unit(self.projection(self.trunk(self.front(samples))))


class RobertaTower(nn.Module):
    """``input_ids, attention_mask [batch, tokens] -> unit vectors [batch, dim]``."""

    #: ``</s>`` ends a text: another token goes before it.
    closes = True

    def __init__(self, model: ClapModel) -> None:
        super().__init__()
        self.model, self.projection = model.text_model, model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        return unit(self.projection(self.model(input_ids=input_ids, attention_mask=attention_mask).pooler_output))

    @property
    def token_dim(self) -> int:
        """Numbers in a token's vector."""
        return int(self.model.config.hidden_size)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings ``[batch, tokens, token_dim]`` before positions are added, and the mask."""
        return self.model.get_input_embeddings()(input_ids), attention_mask

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What ``embed`` gives -> unit ``[batch, dim]``: what ``forward`` gives for the same tokens."""
        # RoBERTa counts positions from pad_token_id + 1 on.
        positions = mask.cumsum(1) * mask + self.model.config.pad_token_id
        states = self.model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions)
        return unit(self.projection(states.pooler_output))

    def packed(self) -> PackedRobertaTower:
        """The same, with the weights of now, as it runs in the graph."""
        return PackedRobertaTower(self).eval()


class PackedRobertaTower(nn.Module):
    """The same as it runs in the graph."""

    def __init__(self, tower: RobertaTower) -> None:
        super().__init__()
        self.model, self.pooler = Bert(tower.model, first_only=True), tower.model.pooler
        self.projection = tower.projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        return unit(self.projection(self.pooler(self.model(input_ids, attention_mask)[:, None])))


def reads(source: Path, config: dict[str, Any]) -> bool:
    """Whether a folder with this ``config.json`` (``{}`` where it has none) is of this family."""
    return config.get("model_type") == "clap"


def load(source: Path, name: str) -> Source:
    """Read a checkpoint folder. Raises ``SourceError``."""
    with reading(source):
        model, info = ClapModel.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, dtype=torch.float32
        )
        require_keys(str(source), info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
        extractor = ClapFeatureExtractor.from_pretrained(source, local_files_only=True)
        reader = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    model.eval()
    tokenizer = backend_tokenizer(reader)
    settings = {"extractor": extractor.to_dict(), "audio": model.config.audio_config.to_dict()}
    return Source(
        family=NAME,
        name=name,
        fingerprint=fingerprint(model.state_dict().items(), tokenizer, settings),
        dim=model.config.projection_dim,
        audio=_audio(model, extractor, source),
        text=_text(model, reader, tokenizer),
        facts={**published(source), "logit_scale": float(model.logit_scale_t.detach().exp())},
    )


def _audio(model: ClapModel, extractor: ClapFeatureExtractor, source: Path) -> AudioPart:
    fused: bool = model.config.audio_config.enable_fusion
    if extractor.padding not in _PADS or fused != (extractor.truncation == "fusion") or extractor.top_db is not None:
        raise SourceError(
            f"{source} with padding {extractor.padding}, truncation {extractor.truncation}, top_db {extractor.top_db}",
            f"padding {', '.join(_PADS)}; truncation {'fusion' if fused else 'rand_trunc'}; no top_db",
            "check that preprocessor_config.json belongs to the weights",
        )
    samples = int(extractor.nb_max_samples)
    bank = extractor.mel_filters if fused else extractor.mel_filters_slaney
    settings = MelSettings(extractor.fft_window_size, extractor.hop_length, hann(extractor.fft_window_size), bank)
    front = DecibelMel(settings)

    def mels(clip: FloatArray) -> FloatArray:
        features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_features"]
        return np.asarray(features[0, 0], np.float32)

    @torch.inference_mode()
    def reference(clip: FloatArray) -> FloatArray:
        # One clip at a time: of several, the extractor would choose by chance which of them counts as longer.
        features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        vectors = model.get_audio_features(features["input_features"].float(), is_longer=features["is_longer"])
        return np.asarray(vectors.pooler_output[0].numpy())

    return AudioPart(
        module=HtsatTower(front, Htsat(model.audio_model, settings.frames(samples)), model.audio_projection).eval(),
        reference=reference,
        sample_rate_hz=int(extractor.sampling_rate),
        window_samples=samples,
        hop_samples=samples // 2,
        pad=_PADS[extractor.padding],
        front=front,
        front_reference=mels,
        batch=1,
        exact=HTSAT_EXACT,
    )


def _text(model: ClapModel, reader: PreTrainedTokenizerBase, tokenizer: Tokenizer) -> TextPart:
    config = model.config.text_config
    # RoBERTa counts positions from pad_token_id + 1 on.
    max_tokens = min(config.max_position_embeddings - config.pad_token_id - 1, reader.model_max_length)

    @torch.inference_mode()
    def reference(texts: Sequence[str]) -> FloatArray:
        inputs = reader(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        features = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        return np.asarray(features.pooler_output.numpy())

    tower = RobertaTower(model).eval()
    return TextPart(tower, reference, tokenizer, max_tokens, ("eng",), runs=tower.packed())
