"""Microsoft's CLAP of 2023: HTSAT and GPT-2, 7 s at 44.1 kHz (arXiv:2309.05767), from ``CLAP_weights_2023.pth``.

Names and numbers are those of the package ``msclap`` 1.3.4 (``models/clap.py``, ``models/htsat.py``,
``configs/config_2023.yml``), whose classes the tests compare with. The weights go into ``transformers``' HTSAT and
GPT-2, which are the same networks under other names.

The front end comes from the checkpoint, not from the settings: the package's HTSAT takes no notice of the mel range in
``config_2023.yml`` and brings its own, and then the checkpoint's tables replace those (``logmel_extractor.melW``).

A text is read as the package does: `` <|endoftext|>`` at its end, 77 tokens at most, and as many tokens from the start
as have another id than 0, which is both the padding's and that of "!". The package pads to 77; GPT-2 looks back only,
so that no vector depends on it, and we don't.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ClapAudioConfig, GPT2Config, GPT2Model, GPT2Tokenizer
from transformers.models.clap.modeling_clap import ClapAudioModel
from transformers.pytorch_utils import Conv1D

from engine.types import FloatArray
from engine.windows import pad_to
from exporters.errors import SourceError
from exporters.htsat import Htsat
from exporters.hub import MSCLAP_2023, fetch_tokenizer
from exporters.laion import HTSAT_EXACT, HtsatTower
from exporters.melspec import FLOOR, DecibelMel, MelSettings
from exporters.source import (
    AudioPart,
    OtherFamilyError,
    Source,
    TextPart,
    backend_tokenizer,
    fingerprint,
    reading,
    require_keys,
)
from exporters.towers import unit

NAME = "msclap"
SUMMARY = "Microsoft's CLAP of 2023: CLAP_weights_2023.pth of microsoft/msclap"

SAMPLE_RATE_HZ, WINDOW_S, HOP_SAMPLES = 44_100, 7, 320
MAX_TOKENS, SUFFIX = 77, " <|endoftext|>"
#: Where the package takes its tokenizer from, if none lies beside the weights.
TOKENIZER = "openai-community/gpt2"
_HTSAT = "audio_encoder.base.htsat."
#: In the checkpoint, but no part of a vector: the heads of classification, and what older libraries kept as state.
_UNUSED = re.compile(
    rf"logit_scale|{_HTSAT}(tscam_conv|head)\..*|{_HTSAT}layers\.\d+\.blocks\.\d+\.attn_mask"
    r"|caption_encoder\.base\.h\.\d+\.attn\.(bias|masked_bias)"
)
#: The package's names within HTSAT -> those of ``ClapAudioModel``.
_RENAMED = (
    (r"^bn0\.", "batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.relative_position_", ".attention.self.relative_position_"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


class Projection(nn.Module):
    """``[batch, hidden] -> [batch, dim]``: two layers, of which the second only adds, and a norm."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        dim, hidden = weights["linear1.weight"].shape
        self.linear1, self.linear2 = nn.Linear(hidden, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.layer_norm = nn.LayerNorm(dim)
        _fill(self, weights, "the projection")

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        first = self.linear1(x)
        return self.layer_norm(first + self.linear2(F.gelu(first)))


class Gpt2Tower(nn.Module):
    """``input_ids, attention_mask [batch, tokens] -> unit vectors [batch, dim]``."""

    #: ``<|endoftext|>`` ends a text, and what follows the last token is not heard: another one goes before it.
    closes = True

    def __init__(self, model: GPT2Model, projection: Projection) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self._pooled(states, (input_ids != 0).sum(1))

    @property
    def token_dim(self) -> int:
        """Numbers in a token's vector."""
        return int(self.model.config.n_embd)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings ``[batch, tokens, token_dim]`` before positions are added, and a mask.

        The mask ends with the token that is pooled, which those of id 0 have brought forward (see this file's head).
        """
        read = (input_ids != 0).sum(1, keepdim=True)
        mask = torch.arange(input_ids.shape[1], device=input_ids.device)[None] < read
        return self.model.get_input_embeddings()(input_ids), mask.to(attention_mask.dtype)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What ``embed`` gives -> unit ``[batch, dim]``: what ``forward`` gives for the same tokens."""
        states = self.model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
        return self._pooled(states, mask.sum(1))

    def _pooled(self, states: Tensor, count: Tensor) -> Tensor:
        last = (count - 1)[:, None, None].expand(-1, 1, states.shape[2])
        return unit(self.projection(states.gather(1, last)[:, 0]))


def reads(source: Path, config: dict[str, Any]) -> bool:
    """Whether this is the checkpoint, or a folder that holds it."""
    return source.suffix in (".pth", ".pt") or (source / MSCLAP_2023).is_file()


def load(source: Path, name: str) -> Source:
    """Read a checkpoint, with a tokenizer beside it or that of GPT-2 on the Hub.

    Raises ``SourceError``; ``OtherFamilyError`` where the file holds no state dict under ``model``.
    """
    path = source / MSCLAP_2023 if source.is_dir() else source
    with reading(path):
        weights = _weights(torch.load(path, map_location="cpu", weights_only=True))
    htsat, gpt2 = _part(weights, _HTSAT), _part(weights, "caption_encoder.base.")
    if not htsat or "wte.weight" not in gpt2:
        raise SourceError(
            f"{path} without {_HTSAT}* or caption_encoder.base.wte.weight", "HTSAT and GPT-2", f"get {MSCLAP_2023}"
        )
    own = {key for key in weights if not _UNUSED.fullmatch(key)}
    with reading(path):
        tokenizer, reader = _tokenizer(path.parent)
        sound = _part(weights, "audio_encoder.projection.")
        audio, heard = _audio(htsat, Projection(sound))
        text = _text(gpt2, Projection(_part(weights, "caption_encoder.projection.")), tokenizer, reader)
    taken = {f"{_HTSAT}{key}" for key in heard} | {key for key in own if ".projection." in key}
    taken |= {f"caption_encoder.base.{key}" for key in gpt2}
    require_keys(str(path), (), own - taken)
    settings = {"rate": SAMPLE_RATE_HZ, "window": WINDOW_S, "hop": HOP_SAMPLES, "tokens": MAX_TOKENS, "end": SUFFIX}
    return Source(
        family=NAME,
        name=_called(name),
        fingerprint=fingerprint(((key, weights[key]) for key in own), tokenizer, settings),
        dim=sound["linear2.weight"].shape[0],
        audio=audio,
        text=text,
        facts={"licence": "MIT", "logit_scale": float(weights.get("logit_scale", torch.tensor(0.0)).exp())},
    )


def _weights(saved: Any) -> dict[str, Tensor]:
    """The state dict of a checkpoint, in float32. Raises ``OtherFamilyError`` where it is kept in another way."""
    weights = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise OtherFamilyError
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def _called(name: str) -> str:
    return "msclap-2023" if name in (MSCLAP_2023, "msclap") else name.removesuffix(".pth").removesuffix(".pt")


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _fill(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights. Raises ``SourceError`` unless they are exactly those of the module, but for counters and ids."""
    own = module.state_dict()
    resized = [key for key, value in weights.items() if key in own and own[key].shape != value.shape]
    require_keys(what, own.keys() - weights.keys() - _counters(own), weights.keys() - own.keys(), resized)
    module.load_state_dict(weights, strict=False)


def _counters(keys: Mapping[str, Tensor]) -> set[str]:
    """What a network counts or computes itself."""
    return {key for key in keys if key.endswith(("num_batches_tracked", "relative_position_index"))}


def _audio(htsat: Mapping[str, Tensor], projection: Projection) -> tuple[AudioPart, set[str]]:
    """The audio tower, and the names of what it took."""
    tables = {key: value for key, value in htsat.items() if "_extractor." in key}
    rest = {key: value for key, value in htsat.items() if key not in tables and not _UNUSED.fullmatch(_HTSAT + key)}
    model = ClapAudioModel(_htsat_config(rest)).eval()
    _fill(model, {f"audio_encoder.{key}": value for key, value in _renamed(rest).items()}, "HTSAT")
    samples = WINDOW_S * SAMPLE_RATE_HZ
    front, mels = _front(tables)
    tower = HtsatTower(front, Htsat(model, 1 + samples // HOP_SAMPLES), projection).eval()

    @torch.inference_mode()
    def reference(clip: FloatArray) -> FloatArray:
        heard = torch.from_numpy(mels(pad_to(clip, samples, "repeat")))[None, None]
        return np.asarray(unit(projection(model(heard).pooler_output))[0].numpy())

    part = AudioPart(
        module=tower,
        reference=reference,
        sample_rate_hz=SAMPLE_RATE_HZ,
        window_samples=samples,
        hop_samples=samples // 2,
        pad="repeat",
        front=front,
        front_reference=mels,
        batch=1,
        exact=HTSAT_EXACT,
    )
    return part, set(htsat) - {key for key in htsat if _UNUSED.fullmatch(_HTSAT + key)}


def _htsat_config(weights: Mapping[str, Tensor]) -> ClapAudioConfig:
    """The sizes of a network from its weights."""
    blocks = sorted(
        {tuple(map(int, found)) for key in weights for found in re.findall(r"^layers\.(\d+)\.blocks\.(\d+)", key)}
    )
    stages = range(1 + max(stage for stage, _ in blocks))
    bias = "layers.{}.blocks.0.attn.relative_position_bias_table"
    return ClapAudioConfig(
        depths=[sum(1 for stage, _ in blocks if stage == wanted) for wanted in stages],
        num_attention_heads=[weights[bias.format(stage)].shape[1] for stage in stages],
        patch_embeds_hidden_size=weights["patch_embed.proj.weight"].shape[0],
        hidden_size=weights["norm.weight"].shape[0],
    )


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HTSAT's weights under the names of ``ClapAudioModel.audio_encoder``."""
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        if ".attn.qkv." in key:
            before, after = key.split(".attn.qkv.")
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[f"{before}.attention.self.{part}.{after}"] = third
            continue
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    return named


def _front(tables: Mapping[str, Tensor]) -> tuple[DecibelMel, Any]:
    """Our front end from the checkpoint's tables, and the plain one: products with those tables, in float64."""
    prefix = "spectrogram_extractor.stft.conv_{}.weight"
    real, imaginary = (tables[prefix.format(part)][:, 0].double().numpy() for part in ("real", "imag"))
    bank = tables["logmel_extractor.melW"].double().numpy()
    fft = real.shape[1]
    window = real[0]  # at 0 Hz the cosine is one

    def mels(clip: FloatArray) -> FloatArray:
        padded = np.pad(clip.astype(np.float64), fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, fft)[::HOP_SAMPLES]
        power = ((frames @ real.T) ** 2 + (frames @ imaginary.T) ** 2) @ bank
        return np.asarray(10 / math.log(10) * np.log(np.maximum(power, FLOOR)), np.float32)

    return DecibelMel(MelSettings(fft, HOP_SAMPLES, window, bank)), mels


def _tokenizer(folder: Path) -> tuple[Tokenizer, GPT2Tokenizer]:
    beside = (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()
    reader = GPT2Tokenizer.from_pretrained(folder if beside else fetch_tokenizer(TOKENIZER), local_files_only=True)
    reader.add_special_tokens({"pad_token": "!"})
    if reader.pad_token_id != 0:
        raise SourceError(f'"!" as token {reader.pad_token_id}', "token 0", f"take the tokenizer of {TOKENIZER}")
    return backend_tokenizer(reader), reader


def _text(gpt2: Mapping[str, Tensor], projection: Projection, tokenizer: Tokenizer, reader: GPT2Tokenizer) -> TextPart:
    pieces, width = gpt2["wte.weight"].shape
    layers = len({key.split(".")[1] for key in gpt2 if key.startswith("h.")})
    config = GPT2Config(vocab_size=pieces, n_embd=width, n_positions=gpt2["wpe.weight"].shape[0], n_layer=layers)
    model = GPT2Model(config).eval()
    own = {key: value for key, value in gpt2.items() if not _UNUSED.fullmatch(f"caption_encoder.base.{key}")}
    _fill(model, own, "GPT-2")
    tower = Gpt2Tower(_with_linears(model), projection).eval()
    plain = GPT2Model(config).eval()
    plain.load_state_dict(own, strict=False)

    @torch.inference_mode()
    def reference(texts: Sequence[str]) -> FloatArray:
        inputs = reader(
            [text + SUFFIX for text in texts],
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        states = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
        last = torch.ne(inputs["input_ids"], 0).sum(-1) - 1
        return np.asarray(unit(projection(states[torch.arange(len(states)), last])).numpy())

    return TextPart(tower, reference, tokenizer, MAX_TOKENS, ("eng",), suffix=SUFFIX)


def _with_linears(model: GPT2Model) -> GPT2Model:
    """GPT-2 with plain linear layers in place of its own, which lie the other way round and become no ``MatMul``."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight = nn.Parameter(child.weight.detach().T.contiguous())
                linear.bias = child.bias
                setattr(module, name, linear)
    return model
