"""The starter bundle, from sounds and words to a verified folder.

    python -m trainer.recipes.starter --data ../shared/data --out runs/starter

Stages, each kept on disk and skipped when it is there: ``prepare`` (teacher vectors, log-mels), ``text`` and
``audio`` (towers; these two need only ``prepare`` and may run side by side), ``ship`` (calibrate, export, verify).
Killed at any moment, the same command goes on. ``--evaluate`` prints the verdict on the dev split and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from engine.errors import EarshotError
from engine.types import FloatArray
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower, unit
from trainer.alignment import AlignmentLesson, Targets, clip_balance, mean_text, targets_of
from trainer.cache import MelTable, TextTable, mel_table, text_table, write_atomic
from trainer.data import Row, decode, hold_out, read_rows, training_rows
from trainer.evaluate import main as print_verdict
from trainer.hearing import hear_changed, hear_clean, log_mel_batches
from trainer.language import TextLesson, new_text_tower, space_basis
from trainer.loop import Plan, minutes, train
from trainer.losses import project
from trainer.parallel import (
    LANGUAGES,
    Concept,
    Lesson,
    composed,
    lesson_table,
    lessons,
    mistyped,
    phrasing_practice,
    practice,
    read_parallel,
    read_words,
    translated_captions,
)
from trainer.prune import peaks_of, prune
from trainer.shipping import Shipment
from trainer.synth import KINDS, synthesise
from trainer.teacher import plain_words, read_yamnet, sentence_vectors
from trainer.texts import class_names, corpus
from trainer.towers import new_audio_tower
from trainer.vocabulary import learn_tokenizer, starting_vectors

DIM = 256
PIECES = 24_000
PARALLEL_WEIGHT = 2  # of the parallel text when pieces are chosen
PARALLEL_SHARE = 0.6  # of the text tower's practice, the rest is English alone
SEED = 1
TEXT_PLAN = Plan(steps=5500, rate=1e-3, warmup=300, seed=SEED)
PHRASINGS_SHARE = 0.5  # of the practice that follows: phrasings as they stand, undressed; the rest is as before
PHRASINGS_KEPT = 0.5  # of the way from the weights before it to those after (WiSE-FT, arXiv:2109.01903)
PHRASINGS_PLAN = Plan(steps=2500, rate=5e-4, warmup=100, seed=SEED + 1)
TAKES = 12  # of each synthesised kind
CHANGED = 14_000  # augmented and mixed windows
CLEAN_SHARE, MADE_SHARE, CHANGED_SHARE = 0.55, 0.1, 0.35
PHRASED = 0.6  # of a class's meaning: how a searcher phrases it, the rest is its name
AUDIO_PLAN = Plan(steps=400, rate=1e-3, warmup=50, weight_decay=0.05, average=0.98, seed=SEED)


@dataclass(frozen=True)
class Recipe:
    """Where the data lies and where the work goes; the stages' results, each made once."""

    data: Path
    out: Path

    @cached_property
    def rows(self) -> list[Row]:
        """All clips that may be learnt from, those held out included."""
        return training_rows(read_rows(self.data))

    @cached_property
    def texts(self) -> TextTable:
        """The text tower's corpus with the teacher's vectors."""
        return text_table(self.out / "corpus", corpus(self.data, self.rows, plain_words()), sentence_vectors)

    @cached_property
    def concepts(self) -> list[Concept]:
        """The parallel text, line by line."""
        return read_parallel()

    @cached_property
    def concept_meanings(self) -> FloatArray:
        """The teacher's vectors ``[concepts, 384]`` of the concepts' first English phrasings."""
        told = [concept.english[0] for concept in self.concepts]
        return text_table(self.out / "concepts", told, sentence_vectors).vectors.astype(np.float32)

    @cached_property
    def taught(self) -> list[Lesson]:
        """All that is said in eight languages."""
        captions = translated_captions(self.data / "text" / "audiocaps_eng_jpn.csv")
        every = self.concepts + read_words()
        return lessons(every) + composed(self.concepts) + mistyped(every) + captions

    @cached_property
    def parallel(self) -> TextTable:
        """The parallel text in all languages, with the teacher's vectors of what it means in English."""
        keep = self.out / "english"
        return lesson_table(self.taught, lambda english: text_table(keep, english, sentence_vectors).vectors)

    @cached_property
    def read(self) -> tuple[list[list[int]], NDArray[np.float16], NDArray[np.float64]]:
        """All that the text tower reads: pieces, targets ``[n, 384]``, and how often each text comes up ``[n]``."""
        ids = [e.ids for e in self.tokenizer.encode_batch(self.texts.texts + self.parallel.texts)]
        alone = len(self.texts.texts)
        weights = np.append(np.full(alone, (1 - PARALLEL_SHARE) / alone), PARALLEL_SHARE * practice(self.taught))
        return ids, np.concatenate([self.texts.vectors, self.parallel.vectors]), weights

    @cached_property
    def phrasings(self) -> NDArray[np.float64]:
        """How often each text of ``read`` comes up when it is phrasings' turn, ``[n]``."""
        weights = np.append(
            np.zeros(len(self.texts.texts)), phrasing_practice(self.taught, self.concepts + read_words())
        )
        return (1 - PHRASINGS_SHARE) * self.read[2] + PHRASINGS_SHARE * weights

    @cached_property
    def names(self) -> dict[str, FloatArray]:
        """Teacher vectors ``[384]`` of class names, clip texts and synthesised kinds."""
        told = [row.text for row in self.rows] + [text for kind in KINDS for text in kind.texts]
        told += [phrasing for event in read_parallel(pattern="events_*.tsv") for phrasing in event.english]
        table = text_table(self.out / "names", sorted({*class_names(self.data), *told} - {""}), sentence_vectors)
        return dict(zip(table.texts, table.vectors.astype(np.float32), strict=True))

    @cached_property
    def basis(self) -> Tensor:
        """The space: main directions ``[384, dim]`` of all texts."""
        return space_basis(self.texts.vectors, DIM)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The text tower's pieces."""
        path = self.out / "tokenizer.json"
        if not path.is_file():
            # The parallel text counts more, or English would take nearly all pieces.
            learnt = learn_tokenizer([*self.texts.texts, *(PARALLEL_WEIGHT * self.parallel.texts)], PIECES)
            write_atomic(path, lambda draft: learnt.save(str(draft), pretty=False))
        return Tokenizer.from_file(str(path))

    @cached_property
    def mels(self) -> MelTable:
        """Log-mels of ``rows``."""
        config = AudioConfig()
        rate, least = config.front.sample_rate_hz, config.window_samples
        return mel_table(self.out, "train", [partial(decode, row, rate, least) for row in self.rows], config)

    @cached_property
    def made(self) -> MelTable:
        """Log-mels of the synthesised sounds: ``TAKES`` of each kind, kind by kind."""
        makers = [
            partial(synthesise, kind, np.random.default_rng([SEED, number, take]))
            for number, kind in enumerate(KINDS)
            for take in range(TAKES)
        ]
        return mel_table(self.out, "made", makers, AudioConfig())

    @cached_property
    def teacher(self) -> tuple[AudioConfig, dict[str, Tensor]]:
        """The tagger without its silent channels: configuration and weights of trunk and classifier."""
        config, state = AudioConfig(), read_yamnet(self.data / "teacher" / "yamnet_spectra_in.tflite")
        path = self.out / "peaks.pt"
        if not path.is_file():
            whole = AudioTower(config).eval()
            whole.load_state_dict({**whole.state_dict(), **state})
            batches = [*log_mel_batches(self.made, config), *log_mel_batches(self.mels, config)]
            peaks = peaks_of(whole, batches)
            write_atomic(path, lambda draft: torch.save(peaks, draft))
        return prune(config, state, torch.load(path, weights_only=True))

    def new_audio(self) -> AudioTower:
        """The audio tower before its training: the teacher, whose classes mean what they are called and how."""
        config, state = self.teacher
        phrased = torch.stack([mean_text(self.in_space(e.english)) for e in read_parallel(pattern="events_*.tsv")])
        meanings = unit((1 - PHRASED) * self.in_space(class_names(self.data)) + PHRASED * phrased)
        return new_audio_tower(config, state, meanings, SEED).eval()

    def judge(self) -> AudioTower:
        """The teacher alone: its classes mean their names. It says what a clip sounds like, whatever is trained."""
        config, state = self.teacher
        return new_audio_tower(config, state, self.in_space(class_names(self.data)), SEED).eval()

    @cached_property
    def learnt_from(self) -> NDArray[np.bool_]:
        """Which of ``rows`` may be learnt from; the others are held out by source."""
        held = set(hold_out(self.rows)[1])
        return np.array([row not in held for row in self.rows])

    @cached_property
    def clip_texts(self) -> Tensor:
        """What each of ``rows`` says ``[rows, dim]``, zero where it says nothing."""
        known = iter(self.in_space([row.text for row in self.rows if row.text]))
        return torch.stack([next(known) if row.text else torch.zeros(DIM) for row in self.rows])

    @cached_property
    def made_texts(self) -> Tensor:
        """What each synthesised sound is called, between all its names, ``[sounds, dim]``."""
        return torch.stack([mean_text(self.in_space(kind.texts)) for kind in KINDS for _ in range(TAKES)])

    def lessons(self, learnt_from: NDArray[np.bool_], name: str) -> tuple[list[Targets], NDArray[np.float64]]:
        """All that the audio tower practises on, and how often each view comes up; ``name`` is the cache's."""
        tower = self.new_audio()
        clean = hear_clean(self.mels, tower, self.out / "clean.npy").only(learnt_from)
        made = hear_clean(self.made, tower, self.out / "made.npy")
        both = self.mels.and_then(self.made)
        clips = np.flatnonzero(np.append(learnt_from, np.ones(len(self.made), bool)))
        changed = hear_changed(both, clips, CHANGED, tower, self.out / f"{name}.npy", SEED)
        texts = torch.cat([self.clip_texts, self.made_texts])
        lessons = [
            targets_of(clean, self.clip_texts, tower),
            targets_of(made, self.made_texts, tower),
            targets_of(changed, texts, tower),
        ]
        shares = (
            (CLEAN_SHARE, clip_balance(clean)),
            (MADE_SHARE, clip_balance(made)),
            (CHANGED_SHARE, np.ones(CHANGED)),
        )
        return lessons, np.concatenate([share * weights / weights.sum() for share, weights in shares])

    def learn_audio(self) -> AudioTower:
        """The audio tower, trained: all but its trunk."""
        tower = self.new_audio()
        tower.trunk.requires_grad_(False)
        return train(
            tower, AlignmentLesson(tower, *self.lessons(self.learnt_from, "changed")), AUDIO_PLAN, self.out / "audio"
        )

    def heard_by_teacher(self) -> FloatArray:
        """What the teacher alone makes of each clip, ``[rows, dim]``: the mean of its windows."""
        tower = self.judge()
        views = hear_clean(self.mels, tower, self.out / "clean.npy")
        with torch.inference_mode():
            vectors = tower.embed(torch.from_numpy(views.features).float())
            sums = torch.zeros(len(self.rows), DIM).index_add_(0, torch.from_numpy(views.first), vectors)
        return np.asarray(unit(sums).numpy(), np.float32)

    def shipment(self) -> Shipment:
        """What the towers learnt from, for calibration and card."""
        learnt = [row for row, yes in zip(self.rows, self.learnt_from, strict=True) if yes]
        hours = sum(row.seconds for row in learnt) / 3600
        made = {
            "sounds": f"{len(learnt)} clips ({hours:.1f} h), {len(KINDS) * TAKES} synthesised, {CHANGED} mixtures",
            "texts": f"{len(self.texts.texts)} English, {len(self.parallel.texts)} in {len(LANGUAGES)} languages",
            "held out": f"{len(self.rows) - len(learnt)} clips by source",
            "steps": f"text {TEXT_PLAN.steps} and {PHRASINGS_PLAN.steps}, audio {AUDIO_PLAN.steps}, seed {SEED}",
            "cost": ", ".join(f"{ceil(minutes(self.out / told))} min for {told}" for told in STAGED)
            + " on one core of a busy machine, after about 20 min of preparation",
        }
        meanings = self.concept_meanings
        return Shipment(
            data=self.data,
            out=self.out,
            rows=self.rows,
            learnt_from=self.learnt_from,
            meanings=self.names,
            concepts=self.concepts,
            concept_meanings=meanings,
            concept_texts=project(torch.from_numpy(meanings), self.basis).numpy(),
            heard=self.heard_by_teacher(),
            made=made,
        )

    def in_space(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``[texts, dim]`` of known ``names``."""
        return project(torch.from_numpy(np.stack([self.names[text] for text in texts])), self.basis)

    def prepare(self) -> None:
        """Everything slow that never changes."""
        print(len(self.rows), "clips,", len(self.texts.texts), "texts,", len(self.names), "names", flush=True)
        print(self.tokenizer.get_vocab_size(), "pieces,", len(self.mels), "and", len(self.made), "log-mels", flush=True)

    def learn_text(self, kept: float = PHRASINGS_KEPT) -> TextTower:
        """The text tower, trained; ``kept`` of the way that phrasings took it."""
        ids, targets, weights = self.read
        config = TextConfig(pieces=self.tokenizer.get_vocab_size(), dim=DIM, languages=LANGUAGES)
        points = starting_vectors(ids, project(torch.from_numpy(targets), self.basis).numpy(), config.pieces)
        tower = new_text_tower(config, self.tokenizer, ids, points, SEED)
        train(tower, TextLesson(tower, ids, targets, self.basis, weights), TEXT_PLAN, self.out / "text")
        before = {name: value.clone() for name, value in tower.state_dict().items()}
        lesson = TextLesson(tower, ids, targets, self.basis, self.phrasings)
        train(tower, lesson, PHRASINGS_PLAN, self.out / "phrasings")
        after = tower.state_dict()
        tower.load_state_dict({name: torch.lerp(before[name], after[name], kept) for name in after})
        return tower


#: Folders of what is trained.
STAGED = ("text", "phrasings", "audio")
STAGES = {"prepare": Recipe.prepare, "text": Recipe.learn_text, "audio": Recipe.learn_audio}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe. Exits with 1 and says why where it can't be, as without the data."""
    try:
        _run(arguments)
    except EarshotError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where stages and checkpoints go")
    parser.add_argument("--bundle", type=Path, default=Path("engine/starter"), help="where the bundle goes")
    parser.add_argument(
        "--stages", nargs="+", choices=[*STAGES, "ship"], default=[*STAGES, "ship"], help="only these, in order"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU cores to use")
    parser.add_argument("--evaluate", action="store_true", help="only print the verdict on the dev split")
    chosen = parser.parse_args(arguments)
    if chosen.evaluate:
        print_verdict(["--data", str(chosen.data), "--bundle", str(chosen.bundle)])
        return
    torch.set_num_threads(chosen.threads)
    recipe = Recipe(chosen.data, chosen.out)
    for stage in chosen.stages:
        if stage == "ship":
            towers = recipe.learn_audio(), recipe.learn_text()
            recipe.shipment().ship(*towers, recipe.tokenizer, chosen.bundle)
        else:
            STAGES[stage](recipe)


if __name__ == "__main__":
    main()
