"""The starter family: a checkpoint of our own trainer -> a verified bundle.

A checkpoint is a folder: ``towers.pt`` (configurations and weights of ``exporters.towers``) and ``tokenizer.json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tokenizers import Tokenizer
from torch import Tensor

from engine.bundle import MANIFEST_FORMAT, Calibration, file_sha256
from exporters.card import card
from exporters.errors import SourceError
from exporters.frontend import FrontConfig
from exporters.graph import MAX_BATCH, export_graph, run_graph
from exporters.parity import measure, probes, require
from exporters.source import reading
from exporters.store import PackedEmbedding, pack, round_to_bytes, round_to_half
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower
from exporters.weights import TOWERS, find_weights, read_weights

NAME = "starter"
PAD = "repeat"
#: Rounding the stored weights may move a vector by this share of the usual distance between two.
STORAGE_TOLERANCE = 0.05
GOLDEN_TEXTS = ("a dog barking", "rain on a window", "雨の音", "knarrende Tür")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Both towers, ready to run, and the tokenizer's file."""

    audio: AudioTower
    text: TextTower
    tokenizer: Path

    @property
    def space_id(self) -> str:
        """Name and hash of all that decides where a vector lies: weights, tokenizer, front end, windows."""
        digest = hashlib.sha256()
        for tower in (self.audio, self.text):
            digest.update(json.dumps(asdict(tower.config), sort_keys=True).encode())
            for name, value in sorted(tower.state_dict().items()):
                digest.update(name.encode() + value.contiguous().numpy().tobytes())
        digest.update(self.tokenizer.read_bytes() + PAD.encode())
        return f"{NAME}@{digest.hexdigest()[:12]}"


def save_checkpoint(folder: Path, audio: AudioTower, text: TextTower, tokenizer: Tokenizer) -> None:
    """Write the towers and the tokenizer where ``load_checkpoint`` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    torch.save(
        {
            "audio_config": asdict(audio.config),
            "text_config": asdict(text.config),
            "audio": audio.state_dict(),
            "text": text.state_dict(),
        },
        folder / "towers.pt",
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """The towers of a checkpoint folder, in evaluation mode."""
    saved = torch.load(folder / "towers.pt", weights_only=True)
    audio, text = new_towers(saved["audio_config"], saved["text_config"])
    audio.load_state_dict(saved["audio"])
    text.load_state_dict(saved["text"])
    return Checkpoint(audio.eval(), text.eval(), folder / "tokenizer.json")


def new_towers(audio: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[AudioTower, TextTower]:
    """Towers that have learnt nothing, from their configurations as ``asdict`` or JSON has them."""
    front = FrontConfig(**audio["front"])
    blocks = tuple((int(out), int(stride)) for out, stride in audio["blocks"])
    config = TextConfig(**{**text, "languages": tuple(text["languages"])})
    return AudioTower(AudioConfig(**{**audio, "front": front, "blocks": blocks})), TextTower(config)


def write_towers(folder: Path, audio: AudioTower, text: TextTower) -> None:
    """``towers.json``: what the graphs in ``folder`` were made of, so that ``read_towers`` makes it of them."""
    told = {
        kind: {"config": asdict(tower.config), "weights": find_weights(folder / f"{kind}.onnx", tower.state_dict())}
        for kind, tower in (("audio", audio), ("text", text))
    }
    (folder / TOWERS).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_towers(folder: Path, packed: bool = False) -> Checkpoint:
    """The towers that a bundle was made of, as it stores them; ``packed``: with the pieces as the rows they are in.

    Raises ``SourceError`` for a bundle that doesn't tell.
    """
    path = folder / TOWERS
    if not path.is_file():
        raise SourceError(
            f"{folder} without {TOWERS}", "a bundle in fp32 of our own family", "train from its checkpoint"
        )
    with reading(folder):
        told = json.loads(path.read_text(encoding="utf-8"))
        towers = new_towers(told["audio"]["config"], told["text"]["config"])
        for kind, tower in zip(("audio", "text"), towers, strict=True):
            state = read_weights(folder / f"{kind}.onnx", told[kind]["weights"])
            rows, scale = state.pop("pieces.rows", None), state.pop("pieces.scale", None)
            if rows is not None and scale is not None:
                state["pieces.weight"] = rows.float() * scale
            tower.load_state_dict(state)
            if packed and rows is not None and scale is not None:
                tower.pieces = PackedEmbedding.of(rows, scale)
    audio, text = towers
    return Checkpoint(audio.eval(), text.eval(), folder / "tokenizer.json")


def export_starter(
    source: Path, out: Path, calibration: Mapping[str, Calibration], facts: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Write the bundle of checkpoint ``source`` into ``out`` and return its manifest.

    ``facts`` (credits, training, scores …) go into manifest and card as they are. Raises ``ParityError`` if a graph
    isn't its tower.
    """
    checkpoint = load_checkpoint(source)
    space_id = checkpoint.space_id
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint.tokenizer, out / "tokenizer.json")
    parity = {**_export_audio(checkpoint.audio, out), **_export_text(checkpoint, out)}
    write_towers(out, checkpoint.audio, checkpoint.text)
    _write_golden(checkpoint, out)
    manifest: dict[str, Any] = {
        "format": MANIFEST_FORMAT,
        "name": NAME,
        "space_id": space_id,
        "dim": checkpoint.audio.config.dim,
        "precision": "fp32",
        **_feeding(checkpoint),
        "calibration": {kind: asdict(curve) for kind, curve in calibration.items()},
        "parity": parity,
        "parameters": {"audio": _count(load_checkpoint(source).audio), "text": _count(load_checkpoint(source).text)},
        **facts,
    }
    (out / "README.md").write_text(card(manifest, out), encoding="utf-8")
    names = sorted(path.name for path in out.iterdir() if path.is_file() and path.name != "manifest.json")
    manifest["files"] = {name: file_sha256(out / name) for name in names}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def _feeding(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest's sections on how the graphs want to be fed."""
    config = checkpoint.audio.config
    rate = config.front.sample_rate_hz
    return {
        "audio": {
            "graph": "audio.onnx",
            "sample_rate_hz": rate,
            "window_s": config.window_samples / rate,
            "hop_s": config.hop_samples / rate,
            "pad": PAD,
        },
        "text": {
            "graph": "text.onnx",
            "tokenizer": "tokenizer.json",
            "max_tokens": checkpoint.text.config.max_tokens,
            "languages": list(checkpoint.text.config.languages),
            "lowercase": True,
        },
    }


def _export_audio(tower: AudioTower, out: Path) -> dict[str, float]:
    """Round, export and check the audio tower: what storing costs, how far the graph is from the tower."""
    samples = _probe_batch(tower)
    with torch.inference_mode():
        exact = tower(samples).numpy()
        round_to_half(tower)
        rounded = tower(samples).numpy()
    path, limits = out / "audio.onnx", {"batch": MAX_BATCH}
    export_graph(tower, {"samples": samples}, [{0: "batch"}], "embedding", path, limits)
    found = run_graph(path, {"samples": samples})
    alone = np.concatenate([run_graph(path, {"samples": samples[i : i + 1]}) for i in range(len(samples))])
    return {
        "audio_storage": require("stored audio weights", rounded, exact, STORAGE_TOLERANCE),
        "audio_graph": require("audio.onnx", found, rounded),
        "audio_alone": measure(alone, found),
    }


def _export_text(checkpoint: Checkpoint, out: Path) -> dict[str, float]:
    """The same for the text tower, whose piece vectors become int8 rows."""
    tower = checkpoint.text
    texts = (*GOLDEN_TEXTS, "rain", "two sirens and a crowd that cheers", "")
    asked = slice(len(texts) - 1)  # nobody can ask for the empty one, which the graph must bear
    ids, mask = _tokens(checkpoint, texts)
    with torch.inference_mode():
        exact = tower(ids, mask).numpy()
        tower.pieces = PackedEmbedding(tower.pieces.weight)  # type: ignore[assignment]
        round_to_bytes(tower)
        rounded = tower(ids, mask).numpy()
    inputs, axes = {"input_ids": ids, "attention_mask": mask}, {0: "batch", 1: "tokens"}
    path, limits = out / "text.onnx", {"batch": MAX_BATCH, "tokens": tower.config.max_tokens}
    export_graph(tower, inputs, [axes, axes], "embedding", path, limits)
    onnx.save_model(pack(onnx.load(str(path))), str(path))
    return {
        "text_storage": require("stored text weights", rounded[asked], exact[asked], STORAGE_TOLERANCE),
        "text_graph": require("text.onnx", run_graph(path, inputs), rounded),
    }


def _write_golden(checkpoint: Checkpoint, out: Path) -> None:
    """What the graphs give for two made sounds and a few texts, for the engine's self-test."""
    sounds = probes(checkpoint.audio.config.window_samples, checkpoint.audio.config.front.sample_rate_hz)
    samples = torch.from_numpy(np.stack([sounds["chirp"], sounds["bursts"]]))
    ids, mask = _tokens(checkpoint, GOLDEN_TEXTS)
    np.savez_compressed(
        out / "golden.npz",
        audio_samples=samples.numpy(),
        audio_vectors=run_graph(out / "audio.onnx", {"samples": samples}),
        texts=np.array(GOLDEN_TEXTS),
        text_vectors=run_graph(out / "text.onnx", {"input_ids": ids, "attention_mask": mask}),
    )


def _probe_batch(tower: AudioTower) -> Tensor:
    """All probe sounds as one batch: silence and faint ones lie beside loud ones."""
    return torch.from_numpy(
        np.stack(list(probes(tower.config.window_samples, tower.config.front.sample_rate_hz).values()))
    )


def _tokens(checkpoint: Checkpoint, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """``(input_ids, attention_mask)`` int64 ``[texts, longest]`` as the engine would make them."""
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
    tokenizer.enable_truncation(checkpoint.text.config.max_tokens)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(texts))
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def _count(tower: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())
