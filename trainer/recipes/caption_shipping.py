"""What the starter says of sounds with: a memory of sentences written for earshot, and a decoder taught by texts.

Nothing here comes from a corpus that may not ship: the memory is ours alone; the decoder has also read captions
of ``audiocaps_eng_jpn.csv`` (Apache-2.0).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.types import FloatArray
from exporters.amend import amend
from exporters.captioner import CaptionSettings, export_captioner
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
#: English comes up this many times as often: it has to be said well, the others as well as they can.
ENGLISH_WEIGHT = 3
#: How the starter puts a sound into words: chosen on the held-out clips (docs/experiments.md).
SETTINGS = CaptionSettings(LANGUAGES, beams=5, strategy="projection", tau=0.02, rerank=True, sigma=NOISE)


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


def shipped_config(languages: Sequence[str]) -> CaptionerConfig:
    """A decoder of about a million numbers: what short texts and a few minutes of one core are enough for."""
    several = len(languages) > 1
    return CaptionerConfig(
        pieces=4000 if several else 2000,
        width=128,
        layers=2,
        heads=4,
        prefix=4,
        hidden=256,
        max_tokens=28,
        dropout=0.0,
        validate=500,
        bridge=Bridge(NOISE),
        plan=Plan(steps=2500 if several else 1500, rate=4e-3, warmup=60, average=0.99, save_every=100),
    )


def learn(work: Work, languages: Sequence[str] = LANGUAGES) -> tuple[CaptionDecoder, Path]:
    """A decoder of ``languages``, learnt from all but ``CHECKED`` of its texts, and the file of its pieces."""
    folder = work.out / f"decoder-{len(languages)}"
    everything, spoken = work.shipped_lessons
    vectors = work.encode("shipped", everything)
    weights = {"eng": ENGLISH_WEIGHT if len(languages) > 1 else 1}
    rows = [row for row, lang in enumerate(spoken) if lang in languages for _ in range(weights.get(lang, 1))]
    checked = {everything[row] for row in np.random.default_rng(SEED).permutation(rows)[:CHECKED]}
    learnt = [row for row in rows if everything[row] not in checked]
    held = list({everything[row]: row for row in rows if everything[row] in checked}.values())
    decoder = train(
        [everything[row] for row in learnt],
        vectors[learnt],
        shipped_config(languages),
        folder,
        languages=[spoken[row] for row in learnt],
        held_out=HeldOut([everything[row] for row in held], vectors[held], [spoken[row] for row in held]),
    )
    return decoder, folder / "tokenizer.json"


def ship(work: Work) -> None:
    """Memory, decoder and what the card says of them, into the bundle."""
    texts, languages, vectors = remembered(work)
    write_memory(work.bundle / "memory.npz", texts, languages, vectors)
    decoder, pieces = learn(work)
    export_captioner(decoder, pieces, work.encoders.space.space_id, SETTINGS, work.bundle)
    amend(work.bundle, {"captions": {**told_before(work.bundle), "facts": _facts(work, len(texts), decoder)}})


def told_before(bundle: Path) -> dict[str, Any]:
    """What the bundle's manifest says of captions."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return dict(manifest.get("captions", {}))


def _facts(work: Work, sentences: int, decoder: CaptionDecoder) -> dict[str, str]:
    config, parameters = shipped_config(LANGUAGES), sum(one.numel() for one in decoder.parameters())
    return {
        "memory": f"{sentences:,} sentences in {len(LANGUAGES)} languages, written for it by a language model: what "
        "its tags sound like, plain sounds, silence and noise, and scenes that none of these says. Used where a "
        "library remembers nothing.",
        "decoder": f"{parameters:,} parameters, {config.plan.steps} steps of {config.batch} captions, noise of {NOISE}",
        "learnt from": f"{len(set(work.shipped_lessons[0])):,} texts in {len(LANGUAGES)} languages: those written for "
        "earshot, and captions of AudioCaps in English and Japanese (translation: Apache-2.0)",
    }
