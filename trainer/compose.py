"""What one batch teaches: captions, sounds as tokens, and mixtures of both.

The composed method is that of "Leveraging Unlabeled Audio for Audio-Text Contrastive Learning via Audio-Composed Text
Features" (Komatsu et al.): eqs. 6 to 18. Each of its three terms is a ``Contrast``, two lists of unit vectors with what
belongs to what; ``info_nce`` makes a loss of it, after several processes have put theirs together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.losses import Pairs, info_nce, pairs_of
from trainer.settings import PROMPT, Method
from trainer.tower_sets import Towers


@dataclass(frozen=True, slots=True)
class Told:
    """Sounds with what is said about them.

    ``samples [sounds, n]``; ``owner [texts]`` is the row of the sound that a text belongs to, and every sound has one;
    ``ids`` name the sounds' contents; ``languages [texts]`` are codes.
    """

    samples: Tensor
    texts: Sequence[str]
    owner: Tensor
    ids: Sequence[str]
    languages: Sequence[str]


@dataclass(frozen=True, slots=True)
class Heard:
    """Sounds of which nobody said anything: ``samples [sounds, n]``, ``ids`` of their contents."""

    samples: Tensor
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Partners:
    """What each captioned sound is mixed with: ``samples [sounds, n]``, captions by language, ``ids`` of contents."""

    samples: Tensor
    captions: Sequence[Mapping[str, str]]
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Unit ``sounds [a, dim]`` and ``texts [t, dim]`` with what ``losses.pairs_of`` wants to know of them."""

    sounds: Tensor
    texts: Tensor
    owner: Tensor
    sound_keys: Tensor
    text_keys: Tensor

    @property
    def pairs(self) -> Pairs:
        """What belongs together."""
        return pairs_of(self.owner, self.sound_keys, self.text_keys)

    def loss(self, temperature: Tensor | float) -> Tensor:
        """InfoNCE in both directions (eq. 5)."""
        return info_nce(self.sounds, self.texts, self.pairs.to(self.sounds.device), temperature)


def contrasts(
    towers: Towers,
    method: Method,
    told: Told,
    heard: Heard | None,
    prompt: str = PROMPT,
    *,
    partners: Partners | None = None,
    captions: bool = True,
) -> dict[str, Contrast]:
    """The terms of a method's loss, which is their sum: eq. 18 for ``composed``.

    ``heard`` has as many sounds as ``told`` and is needed by ``composed`` alone, ``partners`` (default: the next sound
    of ``told``) by ``concatenate``. Without ``captions`` their own term is left out, where no tower learns from it.
    Raises ``ValueError`` without ``heard``.
    """
    found = {"captions": caption_contrast(towers, told)} if captions else {}
    if method == "concatenate":
        found["concatenated"] = concatenated_contrast(towers, told, partners)
    elif method == "composed":
        if heard is None or len(heard.samples) != len(told.samples):
            count = 0 if heard is None else len(heard.samples)
            raise ValueError(f"found {count} sounds without captions, expected {len(told.samples)}, one for each other")
        vectors = towers.encode_audio(heard.samples)
        found["a2t"] = pseudo_contrast(towers, heard, vectors, prompt)
        found["composed"] = composed_contrast(towers, told, heard, vectors)
    return found


def caption_contrast(towers: Towers, told: Told) -> Contrast:
    """Sounds against their captions (eqs. 1 to 5)."""
    return Contrast(
        towers.encode_audio(told.samples), towers.encode_texts(told.texts), told.owner, *_keys(told.ids, told.texts)
    )


def pseudo_contrast(towers: Towers, heard: Heard, vectors: Tensor, prompt: str = PROMPT) -> Contrast:
    """Sounds ``[sounds, dim]`` against the prompt that ends with their token (eqs. 6 to 10)."""
    texts = towers.compose([prompt] * len(vectors), vectors)
    return Contrast(vectors, texts, _each(vectors), *_keys(heard.ids, heard.ids))


def composed_contrast(towers: Towers, told: Told, heard: Heard, vectors: Tensor) -> Contrast:
    """Mixtures against captions that end with the other sound's token (eqs. 11 to 17).

    ``vectors [sounds, dim]`` are those of ``heard``.
    """
    sounds = towers.encode_audio(mixed(told.samples, heard.samples))
    texts = towers.compose(told.texts, vectors[told.owner])
    joined = [f"{one}+{other}" for one, other in zip(told.ids, heard.ids, strict=True)]
    written = [f"{text}+{heard.ids[row]}" for text, row in zip(told.texts, told.owner.tolist(), strict=True)]
    return Contrast(sounds, texts, told.owner, *_keys(joined, written))


def neighbours(told: Told) -> Partners:
    """The sound after each, and the first after the last: batches come shuffled."""
    of: list[dict[str, str]] = [{} for _ in told.ids]
    for text, row, language in zip(told.texts, told.owner.tolist(), told.languages, strict=True):
        of[row].setdefault(language, text)
    return Partners(told.samples.roll(-1, 0), [*of[1:], of[0]], [*told.ids[1:], told.ids[0]])


def concatenated_contrast(towers: Towers, told: Told, partners: Partners | None = None) -> Contrast:
    """Two captioned sounds mixed, their captions one behind the other: the baseline of table 1.

    Each sound is mixed with its partner, by default the next one. A caption goes with one in its own language, where
    there is one. Raises ``ValueError`` for a single sound without partners.
    """
    if partners is None:
        if len(told.samples) < 2:
            raise ValueError(f"found {len(told.samples)} sound, expected two or more to mix")
        partners = neighbours(told)
    texts = []
    for text, row, language in zip(told.texts, told.owner.tolist(), told.languages, strict=True):
        others = partners.captions[row]
        texts.append(f"{text} {others.get(language) or next(iter(others.values()))}")
    ids = ["+".join(sorted(pair)) for pair in zip(told.ids, partners.ids, strict=True)]  # a mixture has no order
    sounds = towers.encode_audio(mixed(told.samples, partners.samples))
    return Contrast(sounds, towers.encode_texts(texts), told.owner, *_keys(ids, texts))


def mixed(samples: Tensor, others: Tensor) -> Tensor:
    """The mean of two waveforms ``[..., n]`` (eq. 11)."""
    return (samples + others) / 2


def losses_of(found: Mapping[str, Contrast], temperature: Tensor | float) -> dict[str, Tensor]:
    """Each term's loss and their sum, ``total`` (eq. 18)."""
    losses = {name: contrast.loss(temperature) for name, contrast in found.items()}
    return {"total": torch.stack(list(losses.values())).sum(), **losses}


def content_keys(values: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """int64 ``[n]``, equal where texts are (case and spaces aside), so that processes can compare them."""
    plain = [" ".join(value.lower().split()).encode() for value in values]
    digests = [int.from_bytes(hashlib.sha256(one).digest()[:8], "big", signed=True) for one in plain]
    return torch.tensor(digests, dtype=torch.int64, device=device)


def _keys(ids: Sequence[str], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    return content_keys(ids), content_keys(texts)


def _each(vectors: Tensor) -> Tensor:
    return torch.arange(len(vectors))
