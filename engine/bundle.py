"""A model on disk: ``manifest.json`` beside its ONNX graphs, its tokenizer and golden outputs.

A bundle folder holds::

    manifest.json    what this module reads (format 1, below)
    audio.onnx       ``samples [batch, window_samples] float32 -> embedding [batch, dim] float32``
    text.onnx        ``input_ids [batch, tokens] int64, attention_mask [batch, tokens] int64 -> embedding [batch, dim]``
    tokenizer.json   Hugging Face ``tokenizers`` file; padding and truncation are set by the encoder
    golden.npz       audio_samples [n, window_samples], audio_vectors [n, dim], texts [m] str, text_vectors [m, dim]
    README.md        the model card

Either tower may be absent. A bundle that reads words and a sound as one question also has::

    compose.onnx     ``input_ids, attention_mask [batch, tokens], sound [batch, dim] -> embedding [batch, dim]``;
                     weights that it shares with text.onnx lie there; golden.npz has compose_texts, compose_sounds
                     [n, dim] and compose_vectors [n, dim]

One that can caption (``CaptionerPart``) has::

    caption_prefix.onnx     ``vectors [clips, dim] -> prefix [clips, p, width]``
    caption_decoder.onnx    a step from prefix or pieces to the likeliest next ones: ``exporters.captiongraph``
    caption_tokenizer.json  the pieces, ``[END]`` and ``[eng]`` among them
    caption_anchors.npz     silence [m, dim], noise [m, dim]: what the audio tower makes of sounds without an event;
                            common [dim]: the mean of sounds, or zeros; words: what it learnt to say in English, in one
                            string, or none; points [n, dim] with the scores [n, k] of their first pieces, for the
                            self-test
    memory.npz              captions to project onto, beside those that a library remembers
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from engine.errors import BundleError, ManifestError
from engine.shelf import tidy
from engine.types import Pad, Space, Strategy

MANIFEST_FORMAT = 1
#: The bundle that comes along, and its folder's name.
STARTER = "starter"
STARTER_DIR = Path(__file__).parent / STARTER


@dataclass(frozen=True, slots=True)
class AudioTower:
    """How the audio graph wants to be fed.

    ``batch``: windows in a call on the CPU, where a large model gains nothing by more, and an int8 one would let the
    windows of a call share their scales; default: ``encoders.BATCH_WINDOWS``.
    """

    graph: str
    sample_rate_hz: int
    window_s: float
    hop_s: float
    pad: Pad
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class TextTower:
    """How the text graph wants to be fed.

    ``suffix`` ends every text before it becomes tokens. ``batch``: texts in a call; default: all of them.
    """

    graph: str
    tokenizer: str
    max_tokens: int
    languages: tuple[str, ...]
    lowercase: bool = False
    suffix: str = ""
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class CaptionerPart:
    """How the caption graphs want to be fed, and how captions are made with them unless asked for otherwise.

    ``space_id``: the space whose vectors it learnt to read; another's are refused. ``strategy``: what is done to a
    sound's vector first (``audio``: nothing, ``nearest``, ``projection``), with ``tau`` and ``renormalise``. ``sigma``
    is the noise that it learnt with. What is as near as ``silence`` or ``noise`` says to a vector in ``anchors``, by
    cosine, has no event. ``calibration``: from the cosine of a sound and its caption to the chance that the caption is
    right; default: the curve for words, which believes too much of the best of many sentences. ``nearest``: the same
    for the nearest caption remembered, told word for word, of a language that ``nearest_in`` has no curve of.
    """

    prefix: str
    decoder: str
    tokenizer: str
    anchors: str
    space_id: str
    languages: tuple[str, ...]
    max_tokens: int
    beams: int
    length_penalty: float
    no_repeat: int
    strategy: Strategy
    tau: float
    renormalise: bool
    rerank: bool
    sigma: float
    silence: float
    noise: float
    calibration: Calibration | None
    nearest: Calibration | None = None
    nearest_in: Mapping[str, Calibration] = field(default_factory=dict)


ConvSearch: TypeAlias = Literal["HEURISTIC", "DEFAULT", "EXHAUSTIVE"]
Arena: TypeAlias = Literal["kSameAsRequested", "kNextPowerOfTwo"]


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How CUDA runs a graph; what is fastest is measured where a bundle is made beside a card (``exporters.tuning``).

    ``conv_search``: how cuDNN chooses its convolutions; an exhaustive search costs a second for every new shape.
    ``arena``: how the memory that is kept between calls grows; by what is asked for, it leaves room for a second model.
    ``graphs``: the work of a shape is recorded once and replayed. ``tensorrt``: TensorRT first, which takes minutes to
    build what it runs; never chosen by itself.
    """

    conv_search: ConvSearch = "HEURISTIC"
    arena: Arena = "kSameAsRequested"
    graphs: bool = False
    tensorrt: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """Score to relevance: ``relevance = 1 / (1 + exp(-(slope * cosine + intercept)))``.

    ``cutoff`` is the relevance below which the answer is "nothing sounds like that"; 0 where nobody has measured it.
    """

    slope: float
    intercept: float
    cutoff: float

    @property
    def fitted(self) -> bool:
        """Whether it was fitted to labelled sounds; one that wasn't orders, and hides nothing."""
        return self.cutoff > 0

    def relevance(self, score: float) -> float:
        """The calibrated chance, 0..1, that a sound at this cosine is what was asked for."""
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, self.slope * score + self.intercept))))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The validated content of ``manifest.json``.

    ``calibration`` has one entry for each kind of query: ``text``, ``text-cjk`` (Chinese or Japanese script, optional)
    and ``audio`` (sound against sound).
    ``compose`` is the graph for words with a sound, if there is one. ``files`` maps each file to its sha256, ``cuda``
    a graph to how a card runs it fastest. ``extra`` keeps what this version does not know (parity figures, credits).
    """

    name: str
    space_id: str
    dim: int
    precision: str
    audio: AudioTower | None
    text: TextTower | None
    calibration: dict[str, Calibration]
    files: dict[str, str]
    compose: str | None = None
    captioner: CaptionerPart | None = None
    cuda: dict[str, CudaOptions] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The space of the audio tower. Raises ``BundleError`` for a bundle without one."""
        if self.audio is None:
            raise BundleError(f"bundle {self.name} without an audio tower", "one", "choose another bundle")
        tower = self.audio
        return Space(self.space_id, self.dim, tower.sample_rate_hz, tower.window_s, tower.hop_s, tower.pad)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle folder whose manifest has been read and validated."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """A file of the bundle. Raises ``BundleError`` if it is not there."""
        path = self.folder / name
        if not path.is_file():
            raise BundleError(f"no {name} in {self.folder}", "a whole bundle", "copy or export it again")
        return path

    def verify(self) -> None:
        """Check the sha256 of every file. Raises ``BundleError`` naming all that differ or are missing."""
        files = self.manifest.files
        sums = {name: file_sha256(path) if (path := self.folder / name).is_file() else "" for name in files}
        wrong = [name for name, wanted in files.items() if sums[name] != wanted]
        if wrong:
            found = (f"{name} with sha256 {sums[name][:12]}…" if sums[name] else f"no {name}" for name in wrong)
            raise BundleError(
                f"{', '.join(found)} in {self.folder}",
                ", ".join(f"{name} with {files[name][:12]}…" for name in wrong),
                "copy or export the bundle again",
            )


def hold(folder: Path) -> int | None:
    """Say that a bundle is in use: a file descriptor to close when it no longer is, and None where none can be had."""
    try:
        held = os.open(folder / "manifest.json", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # a file system without locks
        os.close(held)
        return None
    return held


def require_free(folder: Path) -> None:
    """Raise ``BundleError`` while somebody uses the bundle in ``folder``; nothing there is free as well."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BundleError(
                f"the bundle {folder} in use by another process", "a free one", "wait for it, or stop it"
            ) from error
        except OSError:  # a file system without locks
            return


def open_bundle(name_or_folder: str | Path, bundles_dir: Path | None = None) -> Bundle:
    """Open a bundle by folder, or by name: ``starter``, or one registered in ``bundles_dir``.

    Raises ``BundleError`` listing the known names, ``ManifestError`` if the manifest can't be used.
    """
    known = known_bundles(bundles_dir)
    folder = known.get(str(name_or_folder), Path(name_or_folder))
    if not (folder / "manifest.json").is_file():
        raise BundleError(
            f"no bundle {str(name_or_folder)!r}",
            f"a folder with manifest.json, or one of: {', '.join(sorted(known))}",
            "see `earshot bundle list`",
        )
    return Bundle(folder, read_manifest(folder / "manifest.json"))


def known_bundles(bundles_dir: Path | None = None) -> dict[str, Path]:
    """Name -> folder of the starter, whose name nothing else takes, and of what is registered in ``bundles_dir``.

    A folder whose name begins with a dot is one that is being made. What killed commands left is cleared away.
    """
    folders = [STARTER_DIR]
    if bundles_dir is not None and bundles_dir.is_dir():
        tidy(bundles_dir)
        found = sorted(path.parent for path in bundles_dir.glob("*/manifest.json"))
        folders += [folder for folder in found if folder.name != STARTER and not folder.name.startswith(".")]
    return {folder.name: folder for folder in folders}


def read_manifest(path: Path) -> Manifest:
    """Read and validate ``manifest.json``. Raises ``ManifestError``: found, expected, what to do."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} ({error})", "a JSON manifest", "copy or export the bundle again") from error
    if not isinstance(raw, dict) or raw.get("format") is True or raw.get("format") != MANIFEST_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ManifestError(
            f"manifest format {found!r} in {path}", f"format {MANIFEST_FORMAT}", "update earshot or export it again"
        )
    reader = _Reader(raw, path)
    manifest = Manifest(
        name=reader.get("name", str),
        space_id=reader.get("space_id", str),
        dim=reader.positive("dim", int),
        precision=reader.get("precision", str),
        audio=_audio_tower(reader.section("audio")),
        text=_text_tower(reader.section("text")),
        calibration={
            kind: _calibration(reader.require("calibration").require(kind)) for kind in reader.get("calibration", dict)
        },
        files={name: reader.require("files").get(name, str) for name in reader.get("files", dict)},
        compose=None if (compose := reader.section("compose")) is None else compose.get("graph", str),
        extra={key: value for key, value in raw.items() if key not in _KNOWN_KEYS},
        captioner=_captioner(reader.section("captioner")),
        cuda={}
        if (cuda := reader.section("cuda")) is None
        else {name: _cuda(cuda.require(name)) for name in raw["cuda"]},
    )
    if manifest.audio is None and manifest.text is None:
        raise reader.error("audio and text", "nothing", "at least one tower")
    if "@" not in manifest.space_id:
        raise ManifestError(f"space_id {manifest.space_id!r}", "name@hash", "export the bundle again")
    return manifest


_KNOWN_KEYS = {
    "format",
    "name",
    "space_id",
    "dim",
    "precision",
    "audio",
    "text",
    "calibration",
    "files",
    "compose",
    "captioner",
    "cuda",
}


def _audio_tower(reader: _Reader | None) -> AudioTower | None:
    if reader is None:
        return None
    pad = reader.get("pad", str)
    if pad not in get_args(Pad):
        raise reader.error("pad", repr(pad), f"one of {', '.join(get_args(Pad))}")
    tower = AudioTower(
        graph=reader.get("graph", str),
        sample_rate_hz=reader.positive("sample_rate_hz", int),
        window_s=reader.positive("window_s", float),
        hop_s=reader.positive("hop_s", float),
        pad=cast("Pad", pad),
        batch=reader.optional("batch", int),
    )
    if tower.hop_s > tower.window_s:
        raise reader.error("hop_s", str(tower.hop_s), f"at most window_s = {tower.window_s}")
    for key, seconds in (("window_s", tower.window_s), ("hop_s", tower.hop_s)):
        if round(seconds * tower.sample_rate_hz) < 1:
            raise reader.error(key, str(seconds), f"at least one sample at {tower.sample_rate_hz} Hz")
    return tower


def _cuda(reader: _Reader) -> CudaOptions:
    search = _one_of(reader, "conv_search", get_args(ConvSearch))
    kept: dict[str, Any] = {key: reader.get(key, bool) for key in ("graphs", "tensorrt") if reader.has(key)}
    if reader.has("arena"):
        kept["arena"] = _one_of(reader, "arena", get_args(Arena))
    return CudaOptions(cast("ConvSearch", search), **kept)


def _one_of(reader: _Reader, key: str, known: tuple[str, ...]) -> str:
    value: str = reader.get(key, str)
    if value not in known:
        raise reader.error(key, repr(value), f"one of {', '.join(known)}")
    return value


def _calibration(reader: _Reader) -> Calibration:
    slope, intercept, cutoff = (reader.finite(key) for key in ("slope", "intercept", "cutoff"))
    if slope <= 0:
        raise reader.error("slope", str(slope), "a positive number: a higher cosine is more relevant")
    if not 0 <= cutoff <= 1:
        raise reader.error("cutoff", str(cutoff), "a relevance from 0 to 1")
    return Calibration(slope, intercept, cutoff)


def _text_tower(reader: _Reader | None) -> TextTower | None:
    if reader is None:
        return None
    return TextTower(
        graph=reader.get("graph", str),
        tokenizer=reader.get("tokenizer", str),
        max_tokens=reader.positive("max_tokens", int),
        languages=reader.texts("languages"),
        lowercase=reader.get("lowercase", bool),
        suffix=reader.get("suffix", str) if reader.has("suffix") else "",
        batch=reader.optional("batch", int),
    )


def _captioner(reader: _Reader | None) -> CaptionerPart | None:
    if reader is None:
        return None
    strategy = reader.get("strategy", str)
    if strategy not in get_args(Strategy):
        raise reader.error("strategy", repr(strategy), f"one of {', '.join(get_args(Strategy))}")
    values: dict[str, Any] = {key: reader.get(key, str) for key in _CAPTION_FILES}
    values |= {key: reader.positive(key, int) for key in ("max_tokens", "beams")}
    values |= {key: reader.get(key, bool) for key in ("renormalise", "rerank")}
    values |= {key: reader.finite(key) for key in ("length_penalty", "sigma", "silence", "noise")}
    curve, nearest, each = (reader.section(key) for key in ("calibration", "nearest", "nearest_in"))
    return CaptionerPart(
        **values,
        calibration=None if curve is None else _calibration(curve),
        nearest=None if nearest is None else _calibration(nearest),
        nearest_in={} if each is None else {language: _calibration(each.require(language)) for language in each},
        space_id=reader.get("space_id", str),
        languages=reader.texts("languages"),
        no_repeat=reader.get("no_repeat", int),
        strategy=cast("Strategy", strategy),
        tau=reader.positive("tau", float),
    )


_CAPTION_FILES = ("prefix", "decoder", "tokenizer", "anchors")


class _Reader:
    """Typed access to a JSON object, with errors that name the key."""

    def __init__(self, raw: dict[str, Any], path: Path, prefix: str = "") -> None:
        self._raw, self._path, self._prefix = raw, path, prefix

    def error(self, key: str, found: str, expected: str) -> ManifestError:
        where = f"{self._prefix}{key}"
        return ManifestError(f"{where} = {found} in {self._path}", expected, "export the bundle again")

    def get(self, key: str, kind: type) -> Any:
        value = self._raw.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**63 else math.inf
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "nothing" if value is None else f"{value!r}"
            raise self.error(key, found, f"a value of type {kind.__name__}")
        return value

    def positive(self, key: str, kind: type) -> Any:
        value = self.get(key, kind)
        if not 0 < value < 2**63:
            raise self.error(key, repr(value), "a positive number")
        return value

    def has(self, key: str) -> bool:
        return self._raw.get(key) is not None

    def optional(self, key: str, kind: type) -> Any:
        """A positive number, or None where the key is absent."""
        return self.positive(key, kind) if self.has(key) else None

    def finite(self, key: str) -> float:
        value: float = self.get(key, float)
        if not math.isfinite(value):
            raise self.error(key, repr(value), "a finite number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.error(key, repr(values), "a list of texts")
        return tuple(values)

    def section(self, key: str) -> _Reader | None:
        return None if self._raw.get(key) is None else self.require(key)

    def require(self, key: str) -> _Reader:
        return _Reader(self.get(key, dict), self._path, f"{self._prefix}{key}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)
