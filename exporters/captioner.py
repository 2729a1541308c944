"""A caption decoder -> graphs, tokenizer, anchors and a manifest section, put into the bundle whose space it reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.beams import IntArray
from engine.bundle import Calibration, file_sha256, open_bundle, require_free
from engine.decoding import CachedSteps
from engine.distinctive import distinctive_of
from engine.encoders import OnnxEncoders
from engine.errors import BundleError
from engine.eventless import anchors_in, heard_by
from engine.session import KeepingSession, Session
from engine.spelling import words_of
from engine.types import FloatArray, Strategy
from exporters.captiongraph import decoder_model, prefix_model
from exporters.decoder import CaptionDecoder
from exporters.parity import FP32_TOLERANCE, ParityError
from exporters.store import pack, round_to_bytes

PREFIX, DECODER = "caption_prefix.onnx", "caption_decoder.onnx"
TOKENIZER, ANCHORS = "caption_tokenizer.json", "caption_anchors.npz"
#: Candidates whose log-probabilities are golden.
_GOLDEN = 8
#: Short and muffled noises of each kind that are heard; what those kept of 2 would miss, those of 64 know.
DRAWS = 64


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """How captions are made unless asked for otherwise: ``engine.bundle.CaptionerPart`` says what each is.

    By default as served the starter best (docs/experiments.md).
    """

    languages: tuple[str, ...]
    beams: int = 5
    length_penalty: float = 1.0
    no_repeat: int = 3
    strategy: Strategy = "projection"
    tau: float = 0.02
    renormalise: bool = True
    rerank: bool = True
    sigma: float = 0.0
    calibration: Calibration | None = None


def export_captioner(
    decoder: CaptionDecoder,
    tokenizer: Path,
    space_id: str,
    settings: CaptionSettings,
    bundle: Path,
    *,
    english: Iterable[str] = (),
    common: FloatArray | None = None,
) -> Mapping[str, Any]:
    """Add a decoder to the bundle in the folder ``bundle``; returns the manifest's section.

    ``space_id`` is the space of the vectors that it learnt from, ``english`` are texts whose words it may say; without
    any it may say all. ``common [dim]`` is the mean of many sounds; by default what the bundle has. Weights are
    rounded to int8 steps. How far the nearest caption is to be believed stays, as it is none of the decoder's. Raises
    ``BundleError`` if that isn't the bundle's or the bundle is in use, ``ParityError`` if a graph isn't its decoder.
    """
    opened = open_bundle(bundle)
    if space_id != opened.manifest.space_id:
        raise BundleError(f"a decoder that learnt to read {space_id}", opened.manifest.space_id, "train one for this")
    require_free(bundle)
    rounded = copy.deepcopy(decoder).eval()
    round_to_bytes(rounded)
    onnx.save_model(pack(prefix_model(rounded)), str(bundle / PREFIX))
    onnx.save_model(pack(decoder_model(rounded)), str(bundle / DECODER))
    (bundle / TOKENIZER).write_bytes(tokenizer.read_bytes())
    start = Tokenizer.from_file(str(tokenizer)).token_to_id(f"[{settings.languages[0]}]")
    golden = _checked(decoder, rounded, bundle, start)
    before = opened.manifest.captioner
    ours = before if before is not None and before.space_id == space_id else None
    if common is None:
        common = distinctive_of(opened).common * np.ones(opened.manifest.dim, np.float32)
    words = " ".join(sorted(words_of(english)))
    floors = _save_anchors(
        bundle, {"points": golden.points, "scores": golden.scores, "common": common, "words": np.array(words)}
    )
    nearest, each = (ours.nearest, ours.nearest_in) if ours else (None, {})
    section = {
        "prefix": PREFIX,
        "decoder": DECODER,
        "tokenizer": TOKENIZER,
        "anchors": ANCHORS,
        "space_id": space_id,
        "max_tokens": decoder.config.max_tokens,
        **asdict(settings),
        **floors,
        "nearest": asdict(nearest) if nearest else None,
        "nearest_in": {language: asdict(one) for language, one in each.items()},
        "parity": {"storage_nats": golden.storage, "graph_nats": golden.graph},
        "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
    }
    _write_manifest(bundle, section)
    return section


def hear_eventless_again(bundle: Path) -> None:
    """Let the audio tower of a bundle with a captioner say anew where silence and noise lie; the rest stays."""
    kept = anchors_in(open_bundle(bundle), ANCHORS)
    floors = _save_anchors(bundle, kept)
    _write_manifest(bundle, _section(bundle) | floors)


def calibrate_captions(
    bundle: Path,
    curve: Calibration,
    nearest: Calibration | None = None,
    nearest_in: Mapping[str, Calibration] | None = None,
) -> None:
    """Say in the manifest how the cosine of a sound and its caption is to be believed; and of the nearest one, of
    any language and of some."""
    told: dict[str, Any] = {"calibration": asdict(curve)} | ({"nearest": asdict(nearest)} if nearest else {})
    if nearest_in is not None:
        told["nearest_in"] = {language: asdict(one) for language, one in nearest_in.items()}
    _write_manifest(bundle, _section(bundle) | told)


def _section(bundle: Path) -> dict[str, Any]:
    section: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["captioner"]
    return section


def _save_anchors(bundle: Path, kept: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Write where silence and noise lie, beside what is ``kept``; returns from which likeness on."""
    opened = open_bundle(bundle)
    found = heard_by(OnnxEncoders(opened, "cpu").audio, opened.manifest.space, DRAWS)
    np.savez_compressed(bundle / ANCHORS, **{**kept, "silence": found.silence, "noise": found.noise})
    return {"silence": found.silence_floor, "noise": found.noise_floor}


def _write_manifest(bundle: Path, section: Mapping[str, Any]) -> None:
    """Put the section into the manifest, and the hashes of the files that it names."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["captioner"] = dict(section)
    hashes = {name: file_sha256(bundle / name) for name in (PREFIX, DECODER, TOKENIZER, ANCHORS)}
    manifest["files"] = dict(sorted((manifest["files"] | hashes).items()))
    draft = path.with_name("manifest.json.draft")
    draft.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True, slots=True)
class _Golden:
    """Points ``[n, dim]``, the log-probabilities of their first candidates ``[n, k]``, and how far off things are."""

    points: FloatArray
    scores: FloatArray
    storage: float
    graph: float


def _checked(decoder: CaptionDecoder, rounded: CaptionDecoder, bundle: Path, start: int) -> _Golden:
    """Compare the graphs with the decoder over whole captions of random pieces. Raises ``ParityError``."""
    config, chance = decoder.config, np.random.default_rng(7)
    points = chance.standard_normal((4, config.dim)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    ids = chance.integers(0, config.pieces, (4, config.max_tokens))
    ids[:, 0] = start
    with torch.inference_mode():
        exact, expected = (
            torch.log_softmax(one(torch.from_numpy(points), torch.from_numpy(ids)), -1).numpy()
            for one in (decoder, rounded)
        )
    found, scores = _stepwise(bundle, points, ids, config.pieces)
    off = float(np.abs(found - expected).max())
    if not off <= FP32_TOLERANCE:
        raise ParityError(f"{DECODER} off by {off:.2e} nats", f"at most {FP32_TOLERANCE:.0e}", "the export is wrong")
    return _Golden(points, scores[:, :_GOLDEN], float(np.abs(exact - expected).mean()), off)


def _stepwise(bundle: Path, points: FloatArray, ids: IntArray, pieces: int) -> tuple[FloatArray, FloatArray]:
    """Log-probabilities ``[n, tokens, pieces]`` through the graphs and their cache, and the first ones in order."""
    prefix = Session(bundle / PREFIX, "cpu", threads=1).run({"vectors": points})
    steps = CachedSteps(KeepingSession(bundle / DECODER, "cpu", threads=1), prefix, int(ids[0, 0]), pieces)
    scores, order = steps.begin(pieces)
    first, found = scores[:, 0], []
    for place in range(ids.shape[1]):
        found.append(np.take_along_axis(scores[:, 0], np.argsort(order[:, 0], axis=1), axis=1))
        if place + 1 < ids.shape[1]:
            scores, order = steps.advance(ids[:, place + 1 : place + 2], np.zeros((len(ids), 1), np.int64), pieces)
    return np.stack(found, axis=1), first
