"""What do translated words teach a text tower that has read English alone? The tables of docs/experiments.md.

    python -m trainer.recipes.enhanced --data ../shared/data --out runs/starter

Language enhancement ("Bridging Language Gaps in Audio-Text Retrieval", section 2): clips whose words stand in
``clip_texts.tsv`` in eight languages are learnt with their English words and, by chance and anew at each step, with
those of other languages. Every run is kept as soon as it is done, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.starter import load_checkpoint
from exporters.towers import TextConfig, TextTower
from trainer.cache import write_atomic
from trainer.compose import Told, caption_contrast, losses_of
from trainer.language import TextLesson, new_text_tower
from trainer.loop import Plan, train
from trainer.losses import project
from trainer.metrics import Floats
from trainer.parallel import LANGUAGES
from trainer.recipes.designs import line
from trainer.recipes.evidence import (
    TEMPERATURE,
    Exam,
    FeatureTowers,
    Ground,
    Losses,
    difference,
    kept,
    publish,
)
from trainer.recipes.starter import DIM, SEED
from trainer.vocabulary import starting_vectors

TEXTS = Path(__file__).parent / "clip_texts.tsv"
ENGLISH_PLAN = Plan(steps=500, rate=1e-3, warmup=50, average=0.98, seed=SEED)
OTHERS = LANGUAGES[1:]
SEEDS = range(5)
TUNING_SEED = 100
BATCH = 32
STEPS = 80
RATES = (3e-4, 1e-3, 3e-3)
TUNED_WITH = 0.3


@dataclass(frozen=True)
class Mix:
    """Which languages' words are added, and each one's share of the clips at a step; ``start`` is the text tower's."""

    name: str
    ratio: float = 0.0
    languages: Sequence[str] = OTHERS
    start: str = "english"


MIXES = (
    Mix("English alone"),
    *(Mix(f"mixture, {ratio:.0%}", ratio) for ratio in (0.1, 0.2, 0.3, 0.5)),
    *(Mix(f"{language}, 30%", 0.3, (language,)) for language in OTHERS),
    Mix("English alone, from the starter's tower", start="eight"),
)


def read_translations(path: Path = TEXTS) -> dict[str, dict[str, str]]:
    """A clip's text -> the same in each language. Raises ``ValueError`` naming a line that is not whole."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(header) != LANGUAGES:
        raise ValueError(f"{path.name}: found the columns {header}, expected {list(LANGUAGES)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not all(row):
            raise ValueError(f"{path.name}, line {number}: found {row}, expected {len(header)} cells with text in each")
    return {row[0]: dict(zip(LANGUAGES, row, strict=True)) for row in rows}


class Enhanced(Ground):
    """The English-only start, what it learns from and what it is asked."""

    @cached_property
    def english(self) -> TextTower:
        """A text tower that has the starter's pieces but was distilled from English alone."""
        config = TextConfig(pieces=self.tokenizer.get_vocab_size(), dim=DIM, languages=("eng",))
        folder = self.out / "evidence" / "english"
        path = folder / "tower.pt"
        if not path.is_file():
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch(self.texts.texts)]
            points = project(torch.from_numpy(self.texts.vectors), self.basis).numpy()
            tower = new_text_tower(config, self.tokenizer, ids, starting_vectors(ids, points, config.pieces), SEED)
            train(
                tower, TextLesson(tower, ids, self.texts.vectors, self.basis, np.ones(len(ids))), ENGLISH_PLAN, folder
            )
            write_atomic(path, lambda draft: torch.save(tower.state_dict(), draft))
        tower = TextTower(config)
        tower.load_state_dict(torch.load(path, weights_only=True))
        return tower.eval()

    @cached_property
    def eight(self) -> TextTower:
        """The starter's: distilled from English and from parallel text in eight languages."""
        return load_checkpoint(self.out / "checkpoint").text

    @cached_property
    def translations(self) -> dict[str, dict[str, str]]:
        """The clips' texts in eight languages."""
        return read_translations()

    @property
    def runs(self) -> Path:
        """Where what runs gave is kept."""
        return self.out / "evidence" / f"enhanced-{STEPS}x{BATCH}"

    @cached_property
    def known(self) -> set[str]:
        """The English texts that are learnt from."""
        return {self.rows[clip].text for clip in self.pool} & set(self.translations)

    def start(self, mix: Mix, seed: int) -> FeatureTowers:
        """Towers that have heard none of our clips with their words."""
        torch.manual_seed(seed)
        texts = [row.text for row in self.rows] + [
            text for said in self.translations.values() for text in said.values()
        ]
        text = self.english if mix.start == "english" else self.eight
        return FeatureTowers(self.new_audio(), text, self.out / "tokenizer.json", texts)

    def losses(self, mix: Mix) -> Losses:
        """Clips with their English words and some of the others."""
        clips = [clip for clip in self.pool if self.rows[clip].text in self.translations]
        views = self.views_of(clips)

        def step(towers: FeatureTowers, chance: np.random.Generator) -> dict[str, Tensor]:
            drawn = chance.choice(len(clips), BATCH, replace=False)
            cuts = [chance.choice(views[number]) for number in drawn]
            told = [(self.rows[clips[number]].text, row, "eng") for row, number in enumerate(drawn)]
            told += [
                (self.translations[english][language], row, language)
                for english, row, _ in list(told)
                for language in mix.languages
                if chance.random() < mix.ratio
            ]
            texts, owner, languages = zip(*told, strict=True)
            features = torch.from_numpy(self.clean.features[cuts].astype(np.float32))
            ids = [str(clips[number]) for number in drawn]
            batch = Told(features, texts, torch.tensor(owner), ids, languages)
            return losses_of({"captions": caption_contrast(towers, batch)}, TEMPERATURE)

        return step

    def learnt(self, mix: Mix, seed: int, rate: float) -> FeatureTowers:
        """Towers after a run."""
        plan = Plan(STEPS, rate, warmup=STEPS // 10, weight_decay=0, average=0, log_every=STEPS + 1, seed=seed)
        return self.start(mix, seed).learn(self.losses(mix), plan)

    @cached_property
    def rate(self) -> float:
        """The rate that a mixture learns best with, over all languages."""
        return max(RATES, key=lambda rate: float(self.tuned(rate).mean()))

    def tuned(self, rate: float) -> Floats:
        """AP@10 of the clips to choose by, in each language."""

        def work() -> dict[str, Floats]:
            towers = self.learnt(Mix("mixture", TUNED_WITH), TUNING_SEED, rate)
            return {
                "ap": np.array([self._asked(self.tuning_exam, towers, lang)["t2a ap"].mean() for lang in LANGUAGES])
            }

        return kept(self.runs / f"tuning-{rate:g}.npz", work)["ap"]

    def _asked(self, exam: Exam, towers: FeatureTowers, language: str) -> dict[str, Floats]:
        """What the translated texts find, in one language."""
        asked = np.array([number for number, text in enumerate(exam.texts) if text in self.translations])
        told = [self.translations[exam.texts[number]][language] for number in asked]
        return exam.found_by(towers, asked, told)

    def marks(self, mix: Mix, seed: int) -> dict[str, Floats]:
        """What a run gives: in English on the whole test part, and in each language where the texts are translated."""

        def work() -> dict[str, Floats]:
            towers = self.learnt(mix, seed, self.rate)
            found = self.exam.marks(towers)
            for language in LANGUAGES:
                found |= {f"{language} {name}": v for name, v in self._asked(self.exam, towers, language).items()}
            return found

        name = f"{mix.start}-{mix.ratio:g}-{'+'.join(mix.languages)}-{seed}"
        return kept(self.runs / f"{name}.npz", work)

    @cached_property
    def asked_known(self) -> NDArray[np.bool_]:
        """Which of the translated texts of the test part also were learnt from, on other clips."""
        return np.array([text in self.known for text in self.exam.texts if text in self.translations])

    def over_seeds(self, mix: Mix, name: str) -> Floats:
        """Marks ``[seeds, queries]`` of a mix."""
        return np.stack([self.marks(mix, seed)[name] for seed in SEEDS])

    def over_languages(self, mix: Mix) -> Floats:
        """AP@10 ``[seeds, queries]`` of the translated texts, a mean over the seven languages."""
        return np.mean([self.over_seeds(mix, f"{language} t2a ap") for language in OTHERS], axis=0)


def english_table(work: Enhanced) -> Iterator[str]:
    """What English words find, on the whole test part."""
    yield line("learnt with", "text to audio R@1", "mAP@10", "audio to text R@1", "mAP@10", "text to audio R@1, less")
    yield line("---", *["---:"] * 5)
    base = work.over_seeds(MIXES[0], "t2a") <= 1
    for mix in MIXES:
        found = {name: work.over_seeds(mix, name) for name in ("t2a", "t2a ap", "a2t", "a2t ap")}
        hits = {name: (found[name] <= 1).astype(np.float64) for name in ("t2a", "a2t")}
        cells = (hits["t2a"], found["t2a ap"], hits["a2t"], found["a2t ap"])
        less = difference(hits["t2a"], base.astype(np.float64)) if mix is not MIXES[0] else "-"
        yield line(mix.name, *(f"{values.mean():.3f}" for values in cells), less)


def language_table(work: Enhanced) -> Iterator[str]:
    """What translated words find: mAP@10."""
    known = work.asked_known
    yield line("learnt with", *LANGUAGES, "seven, known texts", "seven, new texts", "seven, less")
    yield line("---", *["---:"] * (len(LANGUAGES) + 3))
    base = work.over_languages(MIXES[0])
    for mix in MIXES:
        cells = [work.over_seeds(mix, f"{language} t2a ap").mean() for language in LANGUAGES]
        seven = work.over_languages(mix)
        cells += [seven[:, known].mean(), seven[:, ~known].mean()]
        less = difference(seven, base) if mix is not MIXES[0] else "-"
        yield line(mix.name, *(f"{value:.3f}" for value in cells), less)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what isn't done yet, print the tables and write them beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the starter keeps its stages")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = Enhanced(chosen.data, chosen.out)
    for mix in MIXES:
        for seed in SEEDS:
            work.marks(mix, seed)
    publish([*english_table(work), "", *language_table(work)], work.runs)


if __name__ == "__main__":
    main()
