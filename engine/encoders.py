"""Sound and words -> vectors in one space.

A tower has one method; ``Encoders`` holds the towers of one model. ``fakes.py`` implements the same protocols.
"""

from __future__ import annotations

import os
import unicodedata
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from engine.bundle import Bundle, Calibration, hold
from engine.errors import BundleError, DeviceError, QueryError, SelfTestError
from engine.session import CUDA, Session
from engine.types import Device, FloatArray, Space, Window
from engine.windows import cut

if TYPE_CHECKING:
    from engine.composer import Composer

#: Windows go to the graph in batches of exactly this many, so that a vector depends on its window alone.
BATCH_WINDOWS = 16
#: A sound is searched with at most this many of its windows.
QUERY_WINDOWS = 8
#: How far a golden vector may move on another machine; a wrong or collapsed graph moves by far more.
GOLDEN_TOLERANCE = 0.02
_PULL = "copy or export the bundle again"


#: What tokenizers call the piece for what they don't know.
_UNKNOWN = ("[UNK]", "<unk>")


class AudioEncoder(Protocol):
    """Turns windows into vectors."""

    def encode_audio(self, windows: FloatArray) -> FloatArray:
        """``[n, window_samples]`` -> unit ``[n, dim]``. Raises ``ValueError`` on other shapes, NaN, infinity."""


class TextEncoder(Protocol):
    """Turns texts into vectors of the same space."""

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """n texts -> L2-normalised ``[n, dim]``. Raises ``QueryError`` if one is empty."""


class Encoders(Protocol):
    """The towers of one model; either is loaded at first use."""

    @property
    def space(self) -> Space:
        """The space that both towers end in."""

    @property
    def audio(self) -> AudioEncoder:
        """The audio tower."""

    @property
    def text(self) -> TextEncoder:
        """The text tower."""

    @property
    def composer(self) -> Composer:
        """What makes one question of words and a sound."""

    @property
    def calibration(self) -> Mapping[str, Calibration]:
        """Score to relevance, for queries of kind ``text`` and ``audio``."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, such as a fall-back to the CPU."""

    @property
    def device(self) -> Device:
        """Where the audio tower runs."""


class OnnxEncoders:
    """The towers of a bundle in onnxruntime, each put to its self-test when first used."""

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        self.bundle = bundle
        held = hold(bundle.folder)
        if held is not None:
            weakref.finalize(self, os.close, held)
        self.calibration: Mapping[str, Calibration] = bundle.manifest.calibration
        self.notes: list[str] = []
        self._device: Device = device
        self._threads = threads

    @property
    def space(self) -> Space:
        """The space that both towers end in. Raises ``BundleError`` for a bundle that has words only."""
        return self.bundle.manifest.space

    @cached_property
    def audio(self) -> OnnxAudioEncoder:
        """The audio tower. Raises ``BundleError``, ``DeviceError``."""
        encoder = OnnxAudioEncoder(self.bundle, self._device, self._threads)
        samples, vectors = self._golden("audio_samples", "audio_vectors")
        if samples.shape[1:] != (self.space.window_samples,):
            raise BundleError(f"golden samples {list(samples.shape)}", f"[n, {self.space.window_samples}]", _PULL)
        _self_test(encoder.encode_audio(samples), vectors, "audio")
        self._note(encoder.session)
        return encoder

    @cached_property
    def text(self) -> OnnxTextEncoder:
        """The text tower. Raises ``BundleError``, ``DeviceError``."""
        encoder = OnnxTextEncoder(self.bundle, self._device, self._threads)
        texts, vectors = self._golden("texts", "text_vectors")
        try:
            found = encoder.encode_text([str(text) for text in texts])
        except QueryError as error:
            raise SelfTestError(f"golden texts that can't be read ({error})", "their vectors", _PULL) from error
        _self_test(found, vectors, "text")
        self._note(encoder.session)
        return encoder

    @cached_property
    def composer(self) -> Composer:
        """The bundle's own, put to its self-test, or one that adds vectors. Raises ``BundleError``, ``DeviceError``."""
        from engine.composer import OnnxComposer, SumComposer

        if self.bundle.manifest.compose is None:
            return SumComposer(lambda: self.text)
        composer = OnnxComposer(self.bundle, self.text, self._device, self._threads)
        texts, vectors = self._golden("compose_texts", "compose_vectors")
        sounds, _ = self._golden("compose_sounds", "compose_vectors")
        found = [composer.compose(str(text), sound[None]) for text, sound in zip(texts, sounds, strict=True)]
        _self_test(np.concatenate(found), vectors, "compose")
        self._note(composer.session)
        return composer

    @property
    def device(self) -> Device:
        """Where the audio tower runs."""
        return self.audio.session.device

    def _golden(self, inputs: str, outputs: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Golden inputs ``[n, …]`` and their vectors ``[n, dim]``, n >= 1. Raises ``BundleError``."""
        path = self.bundle.path("golden.npz")
        try:
            # np.load leaves a file open that it can't read, unless it is not its own.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as golden:
                found, vectors = golden[inputs], golden[outputs]
        except (ValueError, OSError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise BundleError(f"{path} ({error})", "golden inputs and outputs", _PULL) from error
        dim = self.bundle.manifest.dim
        if not len(found) or vectors.shape != (len(found), dim):
            shape = f"{outputs} {list(vectors.shape)} for {len(found)} {inputs} in {path}"
            raise BundleError(shape, f"[n, {dim}], n >= 1", _PULL)
        return found, vectors

    def _note(self, session: Session) -> None:
        if session.note and session.note not in self.notes:
            self.notes.append(session.note)


class OnnxAudioEncoder:
    """The audio graph of a bundle: ``samples [batch, window_samples] -> embedding [batch, dim]``."""

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        self._space = bundle.manifest.space
        tower = bundle.manifest.audio
        assert tower is not None  # .space has raised if it is
        self.session = session_for(bundle, tower.graph, device, threads)
        #: Whether the manifest asks for smaller ones, for a large model.
        self._large = tower.batch is not None and self.session.device == "cpu"
        self._batch = tower.batch if self._large and tower.batch else BATCH_WINDOWS

    def encode_audio(self, windows: FloatArray) -> FloatArray:
        """``[n, window_samples]`` -> unit ``[n, dim]``. Raises ``ValueError`` on other shapes, NaN, infinity."""
        windows = checked_windows(windows, self._space)
        starts = range(0, len(windows), self._batch)
        batches = [self._full(windows[start : start + self._batch]) for start in starts]
        found = self.session.run_each(batches) if self._large else [self.session.run(batch) for batch in batches]
        shape = (self._batch, self._space.dim)
        vectors = np.concatenate([np.empty((0, shape[1]), np.float32), *(checked_output(one, shape) for one in found)])
        return normalise(vectors[: len(windows)])

    def _full(self, windows: FloatArray) -> dict[str, FloatArray]:
        """At most a batch of windows, filled up with silence."""
        if len(windows) == self._batch:
            return {"samples": windows}
        full = np.zeros((self._batch, windows.shape[1]), np.float32)
        full[: len(windows)] = windows
        return {"samples": full}


#: Texts are shared between two calls where the graph is larger and each call gets so many tokens; a smaller one, such
#: as the starter's, or fewer tokens take longer in two calls than in one.
_LARGE_BYTES, _TOKENS_A_CALL = 1 << 25, 100
#: What a tokenizer may say about padding; to which length is for us to say.
_PADDING = ("direction", "pad_id", "pad_type_id", "pad_token")


class OnnxTextEncoder:
    """The text graph of a bundle: ``input_ids, attention_mask [batch, tokens] -> embedding [batch, dim]``."""

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        tower = bundle.manifest.text
        if tower is None:
            raise BundleError(f"bundle {bundle.manifest.name} without a text tower", "one", "search by sound instead")
        path = bundle.path(tower.tokenizer)
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} ({error})", "a tokenizer", "copy or export the bundle again") from error
        self._tokenizer.enable_truncation(tower.max_tokens)
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_padding(**{key: padding[key] for key in _PADDING if key in padding})
        self._padding, self._max_tokens = int(padding.get("pad_id", 0)), tower.max_tokens
        self._unknown = {self._tokenizer.token_to_id(name) for name in _UNKNOWN}
        self._lowercase, self._suffix, self._batch = tower.lowercase, tower.suffix, tower.batch
        self._max_tokens = tower.max_tokens
        self._dim = bundle.manifest.dim
        self.session = session_for(bundle, tower.graph, device, threads)
        files = bundle.folder.glob(f"{tower.graph}*")  # of a graph beyond 2 GiB, its tensors lie in a second
        self._large = sum(path.stat().st_size for path in files) > _LARGE_BYTES

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """n texts -> L2-normalised ``[n, dim]``.

        A symbol that the tokenizer doesn't know is read by its Unicode name (🐕 is "dog"). A text without a word that
        the model knows points away from "sound", so that nothing sounds like it. Raises ``QueryError`` if one is empty.
        """
        _require_words(texts)
        found, known = self._read([self._spelled(text) for text in texts])
        for number in np.flatnonzero(~known).tolist():
            found[number] = self._nothing(texts[number])
        return normalise(found)

    def tokens(self, text: str, room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``(input_ids, attention_mask)`` ``[1, tokens]`` of a text, cut so that ``room`` more fit in.

        Raises ``QueryError`` if it is empty.
        """
        _require_words([text])
        reader = Tokenizer.from_str(self._tokenizer.to_str())
        reader.enable_truncation(self._max_tokens - room)
        spelled = self._spelled(text)
        read = reader.encode((spelled.lower() if self._lowercase else spelled) + self._suffix)
        return np.array([read.ids], np.int64), np.array([read.attention_mask], np.int64)

    def _read(self, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """What the graph makes of n texts ``[n, dim]``, and whether there was anything to read ``[n]``."""
        try:
            encodings = self._tokenizer.encode_batch(
                [(text.lower() if self._lowercase else text) + self._suffix for text in texts]
            )
        except Exception as error:  # tokenizers raises bare Exception
            raise QueryError(f"a text that can't be read ({error})", "words that describe a sound") from error
        ids = np.array([e.ids for e in encodings], np.int64)
        mask = np.array([e.attention_mask for e in encodings], np.int64)
        calls = self._calls(mask)
        outputs = self.session.run_each([self._feeds(ids[rows], mask[rows]) for rows in calls])
        found = np.empty((len(texts), self._dim), np.float32)
        for rows, output in zip(calls, outputs, strict=True):
            found[rows] = checked_output(output, (len(rows), self._dim))
        known = np.array([any(self._known(e)) for e in encodings])
        return found, known & found.any(axis=1)

    def _spelled(self, text: str) -> str:
        """The text with the names of symbols that the tokenizer doesn't know."""
        symbols = {letter for letter in text if unicodedata.category(letter) == "So" and letter != "\ufffd"}
        for symbol in symbols:
            if not any(self._known(self._tokenizer.encode(symbol))):
                text = text.replace(symbol, f" {unicodedata.name(symbol, '').lower()} ")
        return text

    def _nothing(self, text: str) -> NDArray[Any]:
        """The vector ``[dim]`` of a text that says nothing. Raises ``QueryError`` if the model has no word "sound"."""
        found, known = self._read(["sound"])
        if not known.all():
            raise QueryError(f"no word that the model knows in {text!r}", "words that describe a sound")
        nothing: NDArray[Any] = -found[0]
        return nothing

    def _calls(self, mask: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Which of the texts ``[n, tokens]`` go to the graph together: as many as the manifest says, or even shares."""
        if self._batch:
            return [np.arange(len(mask))[start : start + self._batch] for start in range(0, len(mask), self._batch)]
        tokens = mask.sum(axis=1)
        by_length = np.argsort(tokens, kind="stable")
        shares = max(1, int(tokens.sum()) // _TOKENS_A_CALL) if self._large else 1
        count = min(shares, self.session.at_once, len(mask))
        return [np.sort(by_length[start::count]) for start in range(count)]

    def _feeds(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """``[n, tokens]`` each as the graph takes them, without the padding that none of these texts needs.

        On a card as many tokens as a power of two, at least 8: it keeps buffers for each shape.
        """
        needed = mask.any(axis=0)
        ids, mask = ids[:, needed], mask[:, needed]
        if self.session.device == "cuda":
            length = min(max(8, 1 << (ids.shape[1] - 1).bit_length()), self._max_tokens)
            more = ((0, 0), (0, max(0, length - ids.shape[1])))
            ids, mask = np.pad(ids, more, constant_values=self._padding), np.pad(mask, more)
        return {"input_ids": ids, "attention_mask": mask}

    def _known(self, encoding: Encoding) -> list[bool]:
        """Which pieces of a text the model knows: neither padding nor unknown, nor put there by the tokenizer."""
        pieces = zip(encoding.ids, encoding.attention_mask, encoding.special_tokens_mask, strict=True)
        return [bool(mask) and not special and piece not in self._unknown for piece, mask, special in pieces]


def _require_words(texts: Sequence[str]) -> None:
    if any(not text.strip() for text in texts):
        raise QueryError("an empty text", "words that describe a sound", "try: rain on a tin roof")
    if not texts:
        raise QueryError("no texts", "at least one", "pass a list of strings")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise QueryError("words that are not UTF-8", "words that describe a sound", "check the terminal's encoding")


def session_for(bundle: Bundle, graph: str, device: Device, threads: int | None) -> Session:
    """A graph of the bundle on a device that it is made for. Raises ``DeviceError``, ``BundleError``."""
    if bundle.manifest.precision != "int8" or device == "cpu":
        return Session(bundle.path(graph), device, threads, bundle.manifest.cuda.get(graph, CUDA))
    if device == "cuda":
        raise DeviceError("an int8 bundle", "fp16 or fp32 for cuda", "export it again, or use --device cpu")
    session = Session(bundle.path(graph), "cpu", threads)
    session.note = "running on the CPU: int8 bundles are made for it"
    return session


def checked_windows(windows: FloatArray, space: Space) -> FloatArray:
    """The windows as float32 ``[n, window_samples]``. Raises ``ValueError`` on other shapes, NaN, infinity."""
    windows = np.asarray(windows, np.float32)
    if windows.ndim != 2 or windows.shape[1] != space.window_samples:
        raise ValueError(f"found windows of shape {windows.shape}, expected [n, {space.window_samples}]")
    if not np.isfinite(windows).all():
        raise ValueError("found NaN or infinity among the samples, expected finite ones")
    return windows


def checked_output(vectors: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """What a graph gave, ``[n, dim]``. Raises ``BundleError`` on another shape, which numpy would broadcast."""
    if vectors.shape != shape:
        raise BundleError(f"a graph that gives vectors {list(vectors.shape)}", f"{list(shape)}", "export it again")
    return vectors


def normalise(vectors: NDArray[Any]) -> FloatArray:
    """``[n, dim]`` -> L2-normalised float32 ``[n, dim]``. Raises ``SelfTestError`` on vectors zero or not finite."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise SelfTestError(
            "a vector that is zero or not finite",
            "unit vectors",
            "the graph is broken: copy or export the bundle again",
        )
    return np.asarray(vectors / norms, np.float32)


def encode_windows(encoder: AudioEncoder, windows: Iterable[Window]) -> Iterator[tuple[Window, FloatArray]]:
    """Each window with its vector ``[dim]``, a batch in memory at a time."""
    stream = iter(windows)
    while batch := list(islice(stream, BATCH_WINDOWS)):
        yield from zip(batch, encoder.encode_audio(np.stack([w.samples for w in batch])), strict=True)


def encode_sound(encoder: AudioEncoder, blocks: Iterable[FloatArray], space: Space) -> FloatArray:
    """A whole sound -> one L2-normalised vector ``[dim]``: the mean of its windows' vectors. Raises ``AudioError``."""
    total = np.zeros(space.dim, np.float64)
    for _, vector in encode_windows(encoder, cut(blocks, space)):
        total += vector
    mean: FloatArray = normalise(total[None, :])[0]
    return mean


def query_vectors(encoder: AudioEncoder, blocks: Iterable[FloatArray], space: Space) -> FloatArray:
    """A whole sound -> what to search with, unit ``[m, dim]``: its windows, thinned evenly if many.

    Raises ``AudioError``.
    """
    return thinned(np.stack([vector for _, vector in encode_windows(encoder, cut(blocks, space))]))


def thinned(vectors: FloatArray) -> FloatArray:
    """At most ``QUERY_WINDOWS`` of ``[n, dim]``, evenly chosen, first and last among them."""
    chosen = np.linspace(0, len(vectors) - 1, min(len(vectors), QUERY_WINDOWS)).round().astype(int)
    return np.asarray(vectors[chosen])


def _self_test(found: FloatArray, golden: NDArray[Any], tower: str) -> None:
    """Raise ``SelfTestError`` if the graph doesn't give what it gave when it was exported, or is collapsed."""
    moved = float(np.linalg.norm(found - normalise(golden), axis=1).max())
    if not moved <= GOLDEN_TOLERANCE:
        raise SelfTestError(
            f"{tower} vectors {moved:.3f} away from the golden ones",
            f"at most {GOLDEN_TOLERANCE}",
            "copy or export the bundle again",
        )
    spread = np.linalg.norm(found[:, None] - found[None], axis=-1)
    if len(found) > 1 and float(spread.max()) < GOLDEN_TOLERANCE:
        raise SelfTestError(f"a collapsed {tower} tower: all vectors alike", "different ones", "use another model")
