"""What the starter says of sounds with: a memory of sentences written for earshot, and a decoder taught by texts.

The memory is of sentences that were written for earshot; the decoder has also read captions that may ship.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.types import FloatArray
from exporters.amend import amend
from exporters.captioner import CaptionSettings, export_captioner
from exporters.decoder import CaptionDecoder
from trainer.bridging import ASKED, Bridge, practised
from trainer.cache import write_atomic
from trainer.captioner import CaptionerConfig, train
from trainer.loop import Plan
from trainer.parallel import LANGUAGES, Concept, done_with_things
from trainer.recipes.captions import Work
from trainer.teach_captions import NOISE

#: As many as the starter may remember, in all languages together.
MOST_REMEMBERED = 5000
#: How often what is remembered comes up; longer captions tell of more than one vector holds.
MEMORY_WEIGHT, MOST_WORDS = 3, 12
#: For how long the decoder learns.
STEPS = 4000
#: How the starter puts a sound into words: chosen on the held-out clips (docs/experiments.md).
SETTINGS = CaptionSettings(("eng",), beams=5, strategy="projection", tau=0.02, rerank=True, sigma=NOISE)


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


def lessons(work: Work) -> list[str]:
    """What the decoder learns to say: English that was written for earshot, what is remembered more often, what can be
    done with things, and the short ones among the captions of ``audiocaps_eng_jpn.csv``. No echoes.
    """
    texts, languages, _ = remembered(work)
    held = [text for text, language in zip(texts, languages, strict=True) if language == "eng"]
    ours = [text for one in work.sentences + work.phrased for text in one.phrasings["eng"] if " " in text]
    with (work.data / "text" / "audiocaps_eng_jpn.csv").open(encoding="utf-8", newline="") as stream:
        theirs = dict.fromkeys(row["eng"].strip(" .").lower() for row in csv.DictReader(stream))
    short = [text for text in theirs if 2 < len(text.split()) <= MOST_WORDS and text not in work.echoes]
    done = [text for text in done_with_things() if text not in work.echoes]
    return MEMORY_WEIGHT * held + ours + done + short


def shipped_config() -> CaptionerConfig:
    """A decoder of 1.6 million numbers, half of them pieces: so many that most words stay whole."""
    return CaptionerConfig(
        pieces=5000,
        width=160,
        layers=2,
        heads=4,
        prefix=4,
        hidden=320,
        max_tokens=28,
        dropout=0.1,
        bridge=Bridge(NOISE),
        plan=Plan(steps=STEPS, rate=3e-3, warmup=100, average=0.99, save_every=200),
    )


def learn(work: Work, practice: bool = True) -> tuple[CaptionDecoder, Path]:
    """The decoder that ships, or one that hasn't practised on projections, and the file of its pieces."""
    folder, texts = work.out / ("decoder" if practice else "unpractised"), lessons(work)
    taught = texts, work.encode("lessons", texts)
    if practice:
        (sounds, words), memory = work.pairs, remembered(work)[2].astype(np.float32)
        taught = practised(*taught, sounds - words, memory, SETTINGS.tau)
    return train(*taught, shipped_config(), folder), folder / "tokenizer.json"


def ship(work: Work) -> None:
    """Memory, decoder and what the card says of them, into the bundle."""
    texts, languages, vectors = remembered(work)
    write_memory(work.bundle / "memory.npz", texts, languages, vectors)
    decoder, pieces = learn(work)
    put(work, decoder, pieces, work.bundle)
    amend(work.bundle, {"captions": {**told_before(work.bundle), "facts": _facts(work, len(texts), decoder)}})


def put(work: Work, decoder: CaptionDecoder, pieces: Path, bundle: Path) -> None:
    """A decoder that was learnt here into a bundle of the same towers."""
    space_id, common, english = work.encoders.space.space_id, work.pairs[0].mean(axis=0), lessons(work)
    work.let_go()
    export_captioner(decoder, pieces, space_id, SETTINGS, bundle, english=english, common=common)


def told_before(bundle: Path) -> dict[str, Any]:
    """What the bundle's manifest says of captions."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return dict(manifest.get("captions", {}))


def _facts(work: Work, sentences: int, decoder: CaptionDecoder) -> dict[str, str]:
    config, parameters = shipped_config(), sum(one.numel() for one in decoder.parameters())
    return {
        "memory": f"{sentences:,} sentences in {len(LANGUAGES)} languages, written for it by a language model: what "
        "its tags sound like, plain sounds, silence and noise, and scenes that none of these says. Used beside what a "
        "library remembers.",
        "decoder": f"{parameters:,} parameters, {config.plan.steps} steps of {config.batch} captions, noise {NOISE}, "
        f"{ASKED} times in {1 + ASKED} from where a sound of it would be projected",
        "learnt from": f"{len(set(lessons(work))):,} English texts: written for earshot, and short ones of AudioCaps, "
        "as published with their Japanese translation (Apache-2.0)",
    }
