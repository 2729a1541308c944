"""The starter's a2t module: "like this sound, but with rain". Its towers stay as they are, and so does its space.

    python -m trainer.recipes.sound_words --data ../shared/data --out runs/starter

It learns from the clips that the starter has learnt from (Komatsu et al., eqs. 10 and 17, towers frozen) and is asked
on the others, beside the sum of the two vectors. The sum finds more, so the starter ships without such a module.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.encoders import normalise, thinned
from engine.types import FloatArray
from exporters.starter import read_towers
from trainer.compose import PROMPT, Contrast, Heard, content_keys, losses_of, pseudo_contrast
from trainer.loop import Plan
from trainer.metrics import Floats, average_precision_at, hits_at
from trainer.parallel import LANGUAGES
from trainer.recipes.designs import line
from trainer.recipes.enhanced import read_translations
from trainer.recipes.evidence import TEMPERATURE, FeatureTowers, Ground, Indices, Mixed, difference

PAIRS = 6000
BATCH = 64
PLAN = Plan(steps=500, rate=1e-3, warmup=50, weight_decay=0, average=0, log_every=10_000, seed=1)
TRANSLATED = 0.5  # of the words that stand in clip_texts.tsv
QUESTIONS = 500
SEED = 1


@dataclass(frozen=True)
class Questions:
    """Sounds with words, and mixtures to find: ``sounds [n]`` and ``mixed [n]`` clips, ``kinds [n, 2]`` both kinds.

    Question i gives a sound of its first kind and the name of the second; the mixture is made of other clips.
    """

    sounds: Indices
    mixed: Mixed
    kinds: Indices


@dataclass(frozen=True)
class SoundWords(Ground):
    """The shipped towers, frozen, and what the module learns from and is asked."""

    bundle: Path

    @cached_property
    def towers(self) -> FeatureTowers:
        """The bundle's, with an a2t module that knows nothing; only it learns."""
        torch.manual_seed(SEED)
        checkpoint = read_towers(self.bundle)
        texts = [row.text for row in self.rows] + [PROMPT]
        texts += [text for said in self.translations.values() for text in said.values()]
        texts += [name for kind in self.kinds for name in kind.names.values()]
        towers = FeatureTowers(checkpoint.audio, checkpoint.text, self.bundle / "tokenizer.json", texts, locked=True)
        towers.audio.requires_grad_(False)
        return towers.eval()

    @cached_property
    def translations(self) -> dict[str, dict[str, str]]:
        """The clips' texts in eight languages, as far as they are translated."""
        return read_translations()

    @cached_property
    def vectors(self) -> Tensor:
        """What the starter makes of each of ``clean``'s windows ``[windows, dim]``."""
        return torch.from_numpy(self.towers.heard(self.clean.features))

    @cached_property
    def pairs(self) -> tuple[Mixed, Tensor]:
        """Clips that were learnt from, the first with words, mixed with others, and the mixtures' vectors."""
        chance = np.random.default_rng([SEED, 4])
        one = chance.choice(np.flatnonzero(self.learnt_from & self.told), PAIRS)
        other = chance.choice(np.flatnonzero(self.learnt_from), PAIRS)
        mixed = self.mixed("starter", one, other, chance)
        return mixed, torch.from_numpy(self.towers.heard(mixed.features))

    def losses(self, towers: FeatureTowers, chance: np.random.Generator) -> dict[str, Tensor]:
        """Eqs. 10 and 17 of a random batch."""
        mixed, sounds = self.pairs
        rows = chance.choice(PAIRS, BATCH, replace=False)
        heard = self.vectors[mixed.second[rows]]
        one, other = self.clean.first[mixed.first[rows]], self.clean.first[mixed.second[rows]]
        told = [self._said(self.rows[clip].text, chance) for clip in one]
        ids = [f"{a}+{b}" for a, b in zip(one, other, strict=True)]
        written = [f"{self.rows[a].text}+{b}" for a, b in zip(one, other, strict=True)]
        keys = content_keys(ids), content_keys(written)
        return losses_of(
            {
                "a2t": pseudo_contrast(towers, Heard(heard, [str(clip) for clip in other]), heard),
                "composed": Contrast(sounds[rows], towers.compose(told, heard), torch.arange(BATCH), *keys),
            },
            TEMPERATURE,
        )

    def _said(self, text: str, chance: np.random.Generator) -> str:
        known = self.translations.get(text)
        return known[str(chance.choice(LANGUAGES))] if known and chance.random() < TRANSLATED else text

    def learn(self) -> None:
        """Train the module."""
        self.towers.learn(self.losses, PLAN, self.out / "evidence" / "a2t")

    @cached_property
    def questions(self) -> Questions:
        """Of clips that the starter has not learnt from, of two kinds each."""
        chance = np.random.default_rng([SEED, 5])
        clips = np.flatnonzero(~self.learnt_from & (self.kind >= 0))
        several = [kind for kind in np.unique(self.kind[clips]) if (self.kind[clips] == kind).sum() > 1]
        sounds, one, other, kinds = [], [], [], []
        for _ in range(QUESTIONS):
            kind = chance.choice(several)
            sound, twin = chance.choice(clips[self.kind[clips] == kind], 2, replace=False)
            added = chance.choice(clips[self.kind[clips] != kind])
            for found, clip in ((sounds, sound), (one, twin), (other, added)):
                found.append(clip)
            kinds.append((kind, self.kind[added]))
        mixed = self.mixed("questions", np.array(one), np.array(other), chance)
        return Questions(np.array(sounds), mixed, np.array(kinds))

    def asked(self, language: str) -> dict[str, tuple[Floats, Floats]]:
        """R@1 and AP@10 ``[questions]`` of each way to ask, among all mixtures and the single clips."""
        questions, towers = self.questions, self.towers
        singles = np.flatnonzero(~self.learnt_from & (self.kind >= 0))
        views = self.views_of(singles)
        heard = np.concatenate([towers.heard(questions.mixed.features), self.vectors[np.concatenate(views)].numpy()])
        starts = np.append(np.arange(QUESTIONS), QUESTIONS + np.cumsum([0, *map(len, views)])[:-1])
        pairs = np.sort(questions.kinds, axis=1)
        right = np.zeros((QUESTIONS, len(starts)), bool)
        right[:, :QUESTIONS] = (pairs[:, None] == pairs[None]).all(2)
        names = [self.kinds[kind].names[language] for kind in questions.kinds[:, 1]]
        words = towers.read(names)
        sounds = [thinned(self.vectors[view].numpy()) for view in self.views_of(questions.sounds)]
        ways = {
            "sound alone": sounds,
            "words alone": [word[None] for word in words],
            "their sum": [normalise(word + sound) for word, sound in zip(words, sounds, strict=True)],
            "a2t": self._composed(names, sounds),
        }
        found = {}
        for name, asked in ways.items():
            scores = np.stack([np.maximum.reduceat(one @ heard.T, starts, axis=1).mean(0) for one in asked])
            found[name] = hits_at(scores, right, 1), average_precision_at(scores, right, 10)
        return found

    @torch.inference_mode()
    def _composed(self, words: Sequence[str], sounds: Sequence[FloatArray]) -> list[FloatArray]:
        """Each question's sound ``[m, dim]`` with its words."""
        counts = [len(sound) for sound in sounds]
        told = [name for name, count in zip(words, counts, strict=True) for _ in range(count)]
        heard = torch.from_numpy(np.concatenate(sounds))
        parts = [self.towers.compose(told[i : i + 256], heard[i : i + 256]) for i in range(0, len(told), 256)]
        return np.split(torch.cat(parts).numpy(), np.cumsum(counts)[:-1])


def table(work: SoundWords) -> Iterator[str]:
    """Ways to ask for a sound with words, in each language."""
    yield line("asked with", *LANGUAGES)
    yield line("---", *["---:"] * len(LANGUAGES))
    found = {language: work.asked(language) for language in LANGUAGES}
    for name in found["eng"]:
        yield line(
            name, *(f"{found[lang][name][0].mean():.3f}, {found[lang][name][1].mean():.3f}" for lang in LANGUAGES)
        )
    for number, measure in enumerate(("R@1", "AP@10")):
        one, other = (np.stack([found[lang][name][number] for lang in LANGUAGES]) for name in ("a2t", "their sum"))
        yield f"{measure}, a2t less sum, English: {difference(one[:1], other[:1])}"
        yield f"{measure}, a2t less sum, all: {difference(one, other)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the starter keeps its stages")
    parser.add_argument("--bundle", type=Path, default=Path("engine/starter"), help="the bundle")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = SoundWords(chosen.data, chosen.out, chosen.bundle)
    work.learn()
    for row in table(work):
        print(row, flush=True)


if __name__ == "__main__":
    main()
