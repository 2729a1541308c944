"""Sounds without an event: silence and steady noise, and what is said of either.

Their samples tell, where they are at hand or were looked at when the sound was indexed. Where only a vector is, what
the audio tower makes of silence and of noise tells most of them: a place, not a threshold on evidence, for the nearest
of thousands of captions is always rather near. Whoever puts sounds into words, by a decoder or by the nearest caption,
asks here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.encoders import AudioEncoder, Encoders, TextEncoder
from engine.errors import BundleError
from engine.noise import NOISE, SHORTEST_S, is_noise
from engine.silence import MEANS_SILENCE, SILENCE, SILENT, is_silent
from engine.types import Caption, FloatArray, Nothing, Payload, Space, Window
from engine.windows import pad_to

#: What is said of sounds without an event: of silence, of noise.
NO_EVENT = {
    "eng": ("silence", "steady noise"),
    "fra": ("silence", "bruit continu"),
    "deu": ("Stille", "gleichmäßiges Rauschen"),
    "spa": ("silencio", "ruido continuo"),
    "nld": ("stilte", "aanhoudende ruis"),
    "cat": ("silenci", "soroll continu"),
    "jpn": ("無音", "一定の雑音"),
    "zho": ("寂静", "持续的噪声"),
}
#: Sentences for it, and how near to one of them another says the same: of the shipped model's 4,992 captions those that
#: do, and no other but some of rooms that are almost silent, and of hiss.
_NOTHING = (
    (SILENCE, MEANS_SILENCE),
    ("complete silence, nothing can be heard", 0.54),
    ("steady white noise without any event", 0.68),
)
#: What lies in a bundle's file of anchors.
ANCHORED = ("silence", "noise", "common", "words", "points", "scores")
#: A floor that no cosine reaches: where a tower can't tell noise from a tone, nothing is called noise.
NEVER = 2.0
#: Loudness of noise, as the deviation of its samples; the power of its colours falls with so many powers of frequency.
_LEVELS = (0.02, 0.1, 0.3, 0.03, 0.2, 0.06) * 2
_WHITE, _PINK, _BROWN = 0, 1, 2
#: White noise of so many seconds fills a window by repeating, and then hums; of a file of a low rate, it ends at so
#: many Hz. Real sounds are as near to some of these, so what is called noise is to be as near as ``_VERY_LIKE``.
_SHORT_S = (0.01, 0.014, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5)
_TOPS_HZ = (4000, 5500)
_VERY_LIKE = 0.95


@dataclass(frozen=True, slots=True)
class Eventless:
    """Vectors of ``silence`` and ``noise``, ``[m, dim]`` each; from which product with one on a sound is called so.

    Those to which a sound is to be nearer than to the others are shorter than 1.
    """

    silence: FloatArray
    noise: FloatArray
    silence_floor: float
    noise_floor: float

    def said(self, vector: FloatArray, language: str) -> Caption | None:
        """What is said of a sound ``[dim]``, if it is either; in English where nobody knows the words."""
        kinds: tuple[tuple[FloatArray, float, Nothing], ...] = (
            (self.silence, self.silence_floor, SILENT),
            (self.noise, self.noise_floor, NOISE),
        )
        for anchors, floor, kind in kinds:
            likeness = float((anchors @ vector).max(initial=-1.0))
            if likeness >= floor:
                return told(kind, language, min(likeness, 1.0))
        return None

    def sounds_like_noise(self, vector: FloatArray) -> bool:
        """Whether a sound ``[dim]`` is noise by its vector."""
        return float((self.noise @ vector).max(initial=-1.0)) >= self.noise_floor


class Wordings:
    """Which sentences say that there is nothing to hear: they are of no use for a sound with an event."""

    def __init__(self, tower: TextEncoder) -> None:
        self._meanings = tower.encode_text([words for words, _ in _NOTHING])
        self._least = np.array([least for _, least in _NOTHING], np.float32)

    def say_nothing(self, vectors: FloatArray) -> NDArray[np.bool_]:
        """Of sentences ``[n, dim]``, unit vectors: ``[n]``."""
        return np.asarray((vectors @ self._meanings.T >= self._least).any(axis=1))


def looked_at(windows: Iterable[Window], sample_rate_hz: int) -> Iterator[Window]:
    """Windows with what their samples say of them where nothing happens."""
    for window in windows:
        if is_silent(window, sample_rate_hz):
            yield replace(window, eventless=SILENT)
        else:
            yield replace(window, eventless=NOISE if is_noise(window, sample_rate_hz) else "")


def known_of(payload: Payload) -> Nothing:
    """What the samples of a window said when it was indexed; nothing of what was indexed before they were asked."""
    return SILENT if payload.get(SILENT) else NOISE if payload.get(NOISE) else ""


def has_event(payload: Payload) -> bool:
    """Whether the samples of a window said, when it was indexed, that something happens in it.

    Of what was indexed before they were asked nobody knows, nor of noise, which is none.
    """
    return payload.get(SILENT) == 0


def told(kind: Nothing, language: str, score: float = 1.0) -> Caption:
    """What is said of a sound without an event; in English where nobody knows the words."""
    known = language if language in NO_EVENT else "eng"
    return Caption(NO_EVENT[known][kind == NOISE], score, known)


def unsure_if_short(caption: Caption, seconds: float) -> Caption:
    """A caption of an event of that length: of one too short to tell noise from a tone it is unsure."""
    return replace(caption, unsure=True) if seconds < SHORTEST_S else caption


def eventless_of(encoders: Encoders) -> Eventless:
    """As the bundle of these encoders has it, or else as their audio tower hears it now.

    Raises ``BundleError`` for a bundle whose anchors can't be read, and what the tower raises.
    """
    bundle: Bundle | None = getattr(encoders, "bundle", None)
    part = bundle.manifest.captioner if bundle is not None else None
    if bundle is not None and part is not None and part.space_id == encoders.space.space_id:
        return kept_in(bundle)
    return heard_by(encoders.audio, encoders.space)


def kept_in(bundle: Bundle) -> Eventless:
    """What a bundle with a captioner knows. Raises ``BundleError``."""
    part = bundle.manifest.captioner
    assert part is not None, "asked of a bundle with a captioner"
    kept = anchors_in(bundle, part.anchors)
    return Eventless(kept["silence"], kept["noise"], part.silence, part.noise)


def anchors_in(bundle: Bundle, name: str) -> dict[str, NDArray[Any]]:
    """What a bundle's file of anchors has (``engine.bundle``). Raises ``BundleError``."""
    path = bundle.path(name)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return {key: kept[key] for key in ANCHORED}
    except (ValueError, OSError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
        raise BundleError(f"{path} ({error})", ", ".join(ANCHORED), "copy or export the bundle again") from error


def heard_by(tower: AudioEncoder, space: Space, draws: int = 2) -> Eventless:
    """What an audio tower makes of silence and of white, pink and brown noise; of white noise also short or muffled.

    A floor is the least likeness between cuts of one kind, less a little, yet always nearer to it than to the likeliest
    of sounds that are neither. ``draws``: how many each of the short and the muffled to hear; the more, the surer.
    """
    size, chance = space.window_samples, np.random.default_rng(11)
    # The faint ones are less than a step of 16 bits.
    silence = [np.zeros(size), *(level * chance.standard_normal(size) for level in (1e-6, 1e-5) * 3)]
    noise = [_noise(size, level, colour, chance) for colour in (_WHITE, _PINK, _BROWN) for level in _LEVELS]
    events = _events(size, space.sample_rate_hz, chance)
    heard = tower.encode_audio(np.stack([*silence, *noise, *events]).astype(np.float32))
    silent, noisy, neither = np.split(heard, [len(silence), len(silence) + len(noise)])
    floors = [_floor(kind[::2], kind[1::2], neither) for kind in (silent, noisy)]
    noise_floor = floors[1]
    if noise_floor < _VERY_LIKE:
        others = (tower.encode_audio(cuts) for cuts in _poorer(space, draws, chance))
        noisy = np.concatenate([noisy[::2], _apart(others, noisy[::2], noise_floor, neither)])
    else:
        noisy = noisy[::2]
    return Eventless(silent[::2], noisy, floors[0], noise_floor)


def _poorer(space: Space, draws: int, chance: np.random.Generator) -> Iterator[FloatArray]:
    """White noise ``[draws, size]``, of each short length and up to each frequency."""
    size, rate = space.window_samples, space.sample_rate_hz
    lengths = [(round(seconds * rate), rate) for seconds in _SHORT_S if seconds * rate < size]
    for samples, top in [*lengths, *((size, 2 * top) for top in _TOPS_HZ if 2 * top < rate)]:
        cuts = []
        for level in np.resize(_LEVELS, draws):
            spectrum = np.fft.rfft(_noise(size, level, _WHITE, chance))
            spectrum[np.fft.rfftfreq(size, 1 / rate) > top / 2] = 0
            cuts.append(pad_to(np.fft.irfft(spectrum, size)[:samples].astype(np.float32), size, space.pad))
        yield np.stack(cuts)


def _apart(heard: Iterable[FloatArray], known: FloatArray, floor: float, events: FloatArray) -> FloatArray:
    """Of more noise ``[n, dim]`` what the ``known`` misses, so long that a cosine of ``_VERY_LIKE`` makes ``floor``.

    Nothing that calls an event noise is among it.
    """
    kept = np.empty((0, known.shape[1]), np.float32)
    for vector in np.concatenate(list(heard)):
        alike = max(float((known @ vector).max()) / floor, float((kept @ vector).max(initial=-1.0)) / floor)
        if alike < 1 and float((events @ vector).max()) < _VERY_LIKE:
            kept = np.concatenate([kept, vector[None] * (floor / _VERY_LIKE)])
    return kept


def _floor(kept: FloatArray, others: FloatArray, events: FloatArray) -> float:
    """The cosine with one of ``kept`` that all of ``others``, of the same kind, reach, and no event does."""
    same = float((others @ kept.T).max(axis=1).min())
    other = float((events @ kept.T).max())
    return max(same - 0.02, (same + other) / 2) if same > other else NEVER


def _noise(size: int, level: float, colour: int, chance: np.random.Generator) -> FloatArray:
    """Steady noise ``[size]`` whose power falls with the ``colour``-th power of the frequency."""
    spectrum = np.fft.rfft(np.clip(chance.standard_normal(size), -3, 3))
    spectrum[0] *= colour == _WHITE
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** (colour / 2), size)
    return np.asarray(np.clip(level * noise / noise.std(), -1, 1), np.float32)


def _events(size: int, rate_hz: int, chance: np.random.Generator) -> list[FloatArray]:
    """Sounds ``[size]`` that are neither: a chirp, tones, a click, bursts, a square wave."""
    t = np.arange(size) / rate_hz
    click = np.zeros(size)
    click[size // 3] = 1.0
    bursts = 0.3 * chance.standard_normal(size) * ((t * 3) % 1 < 0.3)
    return [
        np.sin(2 * np.pi * (80 * t + (0.45 * rate_hz - 80) / 2 / t[-1] * t * t)),
        np.sin(2 * np.pi * 131 * t),
        0.3 * np.sin(2 * np.pi * 1003.7 * t),
        0.3 * np.sin(2 * np.pi * 0.46 * rate_hz * t),
        click,
        np.clip(bursts, -1, 1),
        0.9 * np.sign(np.sin(2 * np.pi * 220.5 * t)),
    ]
