"""Does the bundle, as the engine runs it, do what the published code does?

The reference is asked first, which also shows whether a tower tells anything apart; then the bundle is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.bundle import Bundle
from engine.encoders import OnnxAudioEncoder, OnnxTextEncoder, normalise
from engine.errors import BundleError
from engine.types import FloatArray, Space
from engine.windows import cut
from exporters.graph import MAX_BATCH, export_graph, remove_graph, run_graph
from exporters.parity import ParityError, alike, clips, require
from exporters.precision import TOLERANCES, check_precision
from exporters.source import AudioPart, TextPart

#: Texts to compare on: one word and many, digits and signs, one with and without; and one that is too long.
TEXTS = (
    "rain",
    "a dog barking",
    "A dog barking!",
    "footsteps on gravel, slowly, then faster",
    "an old engine starts on the third try and settles into a rough idle",
    "church bells",
    "someone typing on a keyboard while a fan hums",
    "glass breaking",
    "waves on a beach at night",
    "a crowd cheers in a stadium",
    "440 Hz sine tone, -12 dB",
)
LONG_TEXT = "wind in the trees, " * 120
#: Of these the bundle keeps the answers.
GOLDEN_TEXTS = TEXTS[:5]
GOLDEN_CLIPS = ("chirp", "bursts")
#: A tower whose texts, or sounds, are usually as alike as this can't tell them apart.
MOST_ALIKE = 0.97
#: How far log-mels may be from the reference's, in dB: at most, and on average.
MEL_TOLERANCES_DB = {"max": 0.5, "mean": 0.01}


class CollapsedError(BundleError):
    """A tower gives everything the same vector."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the reference says of the probe sounds: ``windows [n, window_samples]`` as the engine pads them."""

    windows: FloatArray
    golden: FloatArray
    vectors: FloatArray
    alike: float


@dataclass(frozen=True, slots=True)
class Read:
    """What the reference says of ``TEXTS`` and ``LONG_TEXT``, ``[n, dim]``."""

    vectors: FloatArray
    alike: float


def ask_for_texts(part: TextPart, allow_collapsed: bool) -> Read:
    """The reference's vectors of the texts. Raises ``CollapsedError`` where they are all alike."""
    short = part.reference(TEXTS)
    value = _refuse_collapsed("text", short, allow_collapsed)
    return Read(np.concatenate([short, part.reference([LONG_TEXT])]), value)


def ask_for_sounds(part: AudioPart, allow_collapsed: bool) -> Heard:
    """The reference's vectors of sounds of every length. Raises ``CollapsedError`` where they are all alike.

    A long sound is cut by the engine, as the published code would cut it by chance; a short one comes as it is.
    """
    made = clips(part.window_samples, part.sample_rate_hz)
    pieces, windows = _cut(made, part)
    vectors = np.stack([part.reference(piece) for piece in pieces])
    value = _refuse_collapsed("audio", vectors, allow_collapsed)
    return Heard(windows, np.stack([made[name] for name in GOLDEN_CLIPS]), vectors, value)


def compare_texts(wanted: Read, bundle: Bundle, golden: dict[str, Any]) -> dict[str, float]:
    """How far the bundle's texts are from the reference's; adds its answers to ``golden``. Raises ``ParityError``."""
    encoder = OnnxTextEncoder(bundle, "cpu")
    found = np.concatenate([encoder.encode_text(TEXTS), encoder.encode_text([LONG_TEXT])])
    alone = np.concatenate([encoder.encode_text([text]) for text in TEXTS])
    golden |= {"texts": np.array(GOLDEN_TEXTS), "text_vectors": encoder.encode_text(GOLDEN_TEXTS)}
    return {
        "text_alike": wanted.alike,
        "text_graph": require("text.onnx", found, wanted.vectors, _tolerance(bundle)),
        "text_alone": require("text.onnx, one text at a time,", alone, found[: len(alone)], _tolerance(bundle)),
        "text_cosine": float((found * wanted.vectors).sum(1).min()),
    }


def compare_sounds(wanted: Heard, bundle: Bundle, golden: dict[str, Any]) -> dict[str, float]:
    """How far the bundle's sounds are from the reference's; adds its answers to ``golden``. Raises ``ParityError``."""
    encoder = OnnxAudioEncoder(bundle, "cpu")
    alone = np.concatenate([encoder.encode_audio(window[None]) for window in wanted.windows])
    # An int8 graph is asked for one window at a time, always; the others must not care who lies beside whom.
    together = {"samples": torch.from_numpy(wanted.windows)}
    int8 = bundle.manifest.precision == "int8"
    found = alone if int8 else normalise(run_graph(bundle.path("audio.onnx"), together))
    golden |= {"audio_samples": wanted.golden, "audio_vectors": encoder.encode_audio(wanted.golden)}
    return {
        "audio_alike": wanted.alike,
        "audio_graph": require("audio.onnx", found, wanted.vectors, _tolerance(bundle)),
        "audio_alone": require("audio.onnx, one window at a time,", alone, found, _tolerance(bundle)),
        "audio_cosine": float((found * wanted.vectors).sum(1).min()),
    }


def compare_mels(part: AudioPart, windows: FloatArray, folder: Path) -> dict[str, float]:
    """Largest and mean difference of the log-mels, in dB, between the graph's front end and the reference's."""
    if part.front is None or part.front_reference is None:
        return {}
    path = folder / "mels.onnx"
    examples = {"samples": torch.zeros(2, part.window_samples)}
    export_graph(part.front, examples, [{0: "batch"}], "mels", path, {"batch": MAX_BATCH})
    found = run_graph(path, {"samples": torch.from_numpy(windows)})
    remove_graph(path)
    off = np.abs(found - np.stack([part.front_reference(window) for window in windows]))
    values = {"max": float(off.max()), "mean": float(off.mean())}
    for kind, most in MEL_TOLERANCES_DB.items():
        if not values[kind] <= most:
            raise ParityError(f"log-mels off by {values[kind]:.3g} dB ({kind})", f"at most {most} dB", "don't ship it")
    return {f"mel_{kind}_db": value for kind, value in values.items()}


def _cut(sounds: Mapping[str, FloatArray], part: AudioPart) -> tuple[list[FloatArray], FloatArray]:
    """Each window's own samples, before padding, and the windows ``[n, window_samples]`` that the engine makes."""
    rate = part.sample_rate_hz
    space = Space("probe@", 1, rate, part.window_samples / rate, part.hop_samples / rate, part.pad)
    pieces, windows = [], []
    for sound in sounds.values():
        for window in cut([sound], space):
            pieces.append(sound[round(window.start_s * rate) : round(window.end_s * rate)])
            windows.append(window.samples)
    return pieces, np.stack(windows)


def _tolerance(bundle: Bundle) -> float:
    return TOLERANCES[check_precision(bundle.manifest.precision)]


def _refuse_collapsed(tower: str, vectors: FloatArray, allowed: bool) -> float:
    """How alike the tower's vectors are. Raises ``CollapsedError`` where nothing could be found by them."""
    value = alike(vectors)
    if not value <= MOST_ALIKE and not allowed:
        raise CollapsedError(
            f"a collapsed {tower} tower: the median cosine between {len(vectors)} different inputs is {value:.4f}",
            f"at most {MOST_ALIKE}",
            "choose another checkpoint; --allow-collapsed exports it all the same",
        )
    return value
