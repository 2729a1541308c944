"""What the starter says of sounds with: a memory of sentences written for earshot, and a decoder taught by texts.

Nothing here comes from a corpus that may not ship: the memory is ours alone; the decoder has also read 7,000 captions
of ``audiocaps_eng_jpn.csv`` (Apache-2.0).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.types import FloatArray
from exporters.amend import amend
from exporters.decoder import CaptionDecoder
from trainer.bridging import Bridge
from trainer.cache import write_atomic
from trainer.captioner import CaptionerConfig, HeldOut, train
from trainer.loop import Plan
from trainer.parallel import LANGUAGES, Concept
from trainer.recipes.captions import SEED, Work

#: As many as the starter may remember, in all languages together.
MOST_REMEMBERED = 5000
#: Texts that the decoder is only asked for, and the noise that it learns with.
CHECKED, NOISE = 300, 0.06


def remembered(work: Work) -> tuple[list[str], list[str], NDArray[np.float16]]:
    """Texts, their languages and their vectors ``[n, dim]``: n at most ``MOST_REMEMBERED``, the same in every language.

    What any of the tagger's classes sounds like, plain sounds and silence, and then the sentences that say what none of
    these says: each time the one farthest from all that are chosen.
    """
    told = work.events + work.plain
    rest = [sentence for sentence in work.sentences if sentence not in work.plain]
    first = work.encode("remembered", [described(one, "eng") for one in told])
    more = work.encode("rest", [described(one, "eng") for one in rest])
    chosen = told + [rest[number] for number in farthest(first, more, MOST_REMEMBERED // len(LANGUAGES) - len(told))]
    pairs = dict.fromkeys((described(one, lang), lang) for one in chosen for lang in LANGUAGES)
    texts, languages = [text for text, _ in pairs], [lang for _, lang in pairs]
    return texts, languages, work.encode("memory", texts).astype(np.float16)


def described(concept: Concept, language: str) -> str:
    """The longest phrasing but the first, which is the sound's bare name."""
    texts = concept.phrasings[language]
    return max(texts[1:] or texts, key=len)


def farthest(chosen: FloatArray, others: FloatArray, count: int) -> list[int]:
    """``count`` of ``others [n, dim]``, each the farthest from ``chosen [m, dim]`` and those before it (unit vectors).

    Gonzalez 1985: the greedy cover.
    """
    nearest = (others @ chosen.T).max(axis=1)
    found: list[int] = []
    for _ in range(min(count, len(others))):
        number = int(nearest.argmin())
        found.append(number)
        nearest = np.maximum(nearest, others @ others[number])
        nearest[number] = np.inf
    return found


def write_memory(path: Path, texts: list[str], languages: list[str], vectors: NDArray[np.float16]) -> None:
    """``memory.npz`` as ``engine.memory.captions.ShippedCaptions`` reads it."""

    def save(draft: Path) -> None:
        with draft.open("wb") as stream:
            np.savez_compressed(stream, texts=np.array(texts), languages=np.array(languages), vectors=vectors)

    write_atomic(path, save)


def put_memory(work: Work) -> None:
    """Write ``memory.npz`` into the bundle, and say so on its card."""
    texts, languages, vectors = remembered(work)
    write_memory(work.bundle / "memory.npz", texts, languages, vectors)
    manifest = json.loads((work.bundle / "manifest.json").read_text(encoding="utf-8"))
    told = manifest.get("captions", {"facts": {}})
    told["facts"]["memory"] = (
        f"{len(texts):,} sentences in {len(LANGUAGES)} languages, written for it by a language model: what its tags "
        "sound like, plain sounds, silence and noise, and scenes that none of these says. Used where a library "
        "remembers nothing."
    )
    amend(work.bundle, {"captions": told})


def shipped_config() -> CaptionerConfig:
    """A decoder of 2.9 million numbers, which are as many bytes once they are stored in steps."""
    return CaptionerConfig(
        pieces=7000,
        width=192,
        layers=3,
        heads=4,
        prefix=4,
        hidden=384,
        max_tokens=32,
        dropout=0.05,
        validate=300,
        bridge=Bridge(NOISE),
        plan=Plan(steps=1800, rate=2e-3, warmup=100, average=0.99, save_every=100),
    )


def learn(work: Work) -> tuple[CaptionDecoder, Tokenizer]:
    """The decoder that ships, learnt from all but ``CHECKED`` of its texts, and its pieces."""
    folder = work.out / "decoder"
    texts, languages = work.shipped_lessons
    vectors = work.encode("shipped", texts)
    checked = np.zeros(len(texts), bool)
    checked[np.random.default_rng(SEED).permutation(len(texts))[:CHECKED]] = True
    told = {text for text, is_checked in zip(texts, checked, strict=True) if is_checked}
    rows = [number for number, text in enumerate(texts) if text not in told]
    held = np.flatnonzero(checked).tolist()
    decoder = train(
        [texts[row] for row in rows],
        vectors[rows],
        shipped_config(),
        folder,
        languages=[languages[row] for row in rows],
        held_out=HeldOut([texts[row] for row in held], vectors[held], [languages[row] for row in held]),
    )
    return decoder, Tokenizer.from_file(str(folder / "tokenizer.json"))
