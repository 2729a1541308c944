"""Does audio-composed text help where few clips have words? The tables of docs/experiments.md.

    python -m trainer.recipes.composed --data ../shared/data --out runs/starter

Fine-tuning, audio-composed text (Komatsu et al., eqs. 6 to 18) and concatenation (two clips with words mixed, their
words joined) on the same few labelled clips; composed text also hears the others, without their words. Every run is
kept as soon as it is done, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.starter import load_checkpoint
from exporters.towers import TextTower
from trainer.compose import (
    PROMPT,
    Contrast,
    Heard,
    Method,
    Told,
    caption_contrast,
    content_keys,
    losses_of,
    pseudo_contrast,
)
from trainer.loop import Plan
from trainer.metrics import Floats
from trainer.recipes.designs import line
from trainer.recipes.evidence import (
    BATCH,
    MIXED_WINDOWS,
    TEMPERATURE,
    Exam,
    FeatureTowers,
    Ground,
    Indices,
    Losses,
    difference,
    exam_of,
    kept,
    publish,
)

METHODS: tuple[Method, ...] = ("finetune", "concatenate", "composed")
Start: TypeAlias = Literal["taught", "blank", "both"]
SEEDS = range(5)
TUNING_SEED = 100
#: What the audio tower knows at first, and how many clips are labelled: *taught* is the starter before its training,
#: *blank* has neither meanings nor detail, *both* is *taught* where the text tower learns too.
STARTS: dict[Start, tuple[int, ...]] = {"taught": (100, 300, 1000), "blank": (300, 1000), "both": (300,)}
NAMES = {"t2a": "text to audio", "a2t": "audio to text", "mixed t2a": "text to mixture", "mixed a2t": "mixture to text"}
PAIRS = 2048  # mixtures of a run
TEST_PAIRS = 1000
STEPS = 100
#: Of these the best on the clips to choose by, for each method; *both* learns at the rates of *taught*.
RATES: dict[Start, tuple[float, ...]] = {"taught": (1e-4, 3e-4, 1e-3), "blank": (3e-4, 1e-3, 3e-3)}
TUNED_WITH = 300  # labelled clips


@dataclass(frozen=True)
class Mixed:
    """Pairs of windows (numbers in ``Ground.clean``) and what the trunk makes of the mean of their waveforms."""

    first: Indices
    second: Indices
    features: NDArray[np.float16]


class Composed(Ground):
    """Which clips are labelled, and the mixtures of each run."""

    @cached_property
    def test_mixtures(self) -> Mixed:
        """Pairs of test clips with different words."""
        chance = np.random.default_rng(0)
        one, other = chance.choice(self.test, 2 * TEST_PAIRS), chance.choice(self.test, 2 * TEST_PAIRS)
        texts = np.array([row.text for row in self.rows])
        kept = np.flatnonzero(texts[one] != texts[other])[:TEST_PAIRS]
        return self._mixed("test", one[kept], other[kept], chance)

    def labelled(self, seed: int, count: int) -> Indices:
        """The clips whose words may be used; those of a smaller count are among them."""
        return self._order(seed)[:count]

    def unlabelled(self, seed: int, count: int) -> Indices:
        """The other clips to learn from; their words stay hidden."""
        return self._order(seed)[count:]

    def _order(self, seed: int) -> Indices:
        return np.random.default_rng([seed, 1]).permutation(self.pool)

    def composed_mixtures(self, seed: int, count: int) -> Mixed:
        """A labelled clip with one that isn't."""
        chance = np.random.default_rng([seed, 2])
        one = chance.choice(self.labelled(seed, count), PAIRS)
        other = chance.choice(self.unlabelled(seed, count), PAIRS)
        return self._mixed(f"composed-{count}-{seed}", one, other, chance)

    def concatenated_mixtures(self, seed: int, count: int) -> Mixed:
        """Two different labelled clips."""
        chance = np.random.default_rng([seed, 3])
        clips = self.labelled(seed, count)
        one = chance.integers(len(clips), size=PAIRS)
        other = (one + chance.integers(1, len(clips), size=PAIRS)) % len(clips)
        return self._mixed(f"concatenated-{count}-{seed}", clips[one], clips[other], chance)

    def _mixed(self, key: str, one: Indices, other: Indices, chance: np.random.Generator) -> Mixed:
        first, second = (
            np.array([views[chance.integers(len(views))] for views in self.views_of(clips, MIXED_WINDOWS)])
            for clips in (one, other)
        )
        return Mixed(first, second, self.mixtures(key, first, second))

    @property
    def runs(self) -> Path:
        """Where what runs gave is kept."""
        return self.out / "evidence" / f"composed-{STEPS}x{BATCH}"

    @cached_property
    def exam(self) -> Exam:
        """The test part."""
        return exam_of(self, self.test)

    @cached_property
    def tuning_exam(self) -> Exam:
        """What settings are chosen on."""
        return exam_of(self, self.tuning)

    @cached_property
    def mixed_exam(self) -> Exam:
        """Mixtures of test clips, and both their texts."""
        mixed = self.test_mixtures
        one, other = (self.clean.first[views] for views in (mixed.first, mixed.second))
        told = [f"{self.rows[a].text} and {self.rows[b].text}" for a, b in zip(one, other, strict=True)]
        texts = sorted(set(told))
        return Exam(mixed.features, np.arange(len(told)), texts, np.array([texts.index(text) for text in told]))

    def start(self, start: Start, seed: int) -> FeatureTowers:
        """Towers that have heard none of our clips with their words."""
        torch.manual_seed(seed)
        audio = self.new_audio()
        if start == "blank":
            for layer in (audio.meanings, audio.detail[0], audio.detail[2]):
                layer.reset_parameters()
        texts = [row.text for row in self.rows] + [PROMPT, "and"]
        return FeatureTowers(audio, self.text, self.out / "tokenizer.json", texts, locked=start != "both")

    @cached_property
    def text(self) -> TextTower:
        """The starter's text tower, which was distilled from MiniLM and has heard nothing."""
        return load_checkpoint(self.out / "checkpoint").text

    def losses(self, method: Method, seed: int, count: int) -> Losses:
        """A method's losses of random batches: ``count`` labelled clips, and the others or mixtures with them."""
        clips = self.labelled(seed, count)
        views = self.views_of(clips)
        mixed = {"composed": self.composed_mixtures, "concatenate": self.concatenated_mixtures}.get(method)
        mixtures = mixed(seed, count) if mixed else None

        def step(towers: FeatureTowers, chance: np.random.Generator) -> dict[str, Tensor]:
            drawn = chance.choice(len(clips), min(BATCH, len(clips)), replace=False)
            cuts = np.array([chance.choice(views[number]) for number in drawn])
            found = {"captions": caption_contrast(towers, self._told(cuts))}
            if mixtures is not None:
                rows = chance.choice(PAIRS, len(drawn), replace=False)
                found |= self._contrasts(method, towers, mixtures, rows)
            return losses_of(found, TEMPERATURE)

        return step

    def _told(self, views: Indices) -> Told:
        clips = self.clean.first[views]
        texts = [self.rows[clip].text for clip in clips]
        features = torch.from_numpy(self.clean.features[views].astype(np.float32))
        return Told(features, texts, torch.arange(len(texts)), [str(clip) for clip in clips], ["eng"] * len(texts))

    def _contrasts(self, method: Method, towers: FeatureTowers, mixed: Mixed, rows: Indices) -> dict[str, Contrast]:
        """The terms that mixtures add; as ``trainer.compose`` has them, but for mixtures that were heard before."""
        one, other = self._told(mixed.first[rows]), self._told(mixed.second[rows])
        sounds = towers.encode_audio(torch.from_numpy(mixed.features[rows].astype(np.float32)))
        ids = [f"{a}+{b}" for a, b in zip(one.ids, other.ids, strict=True)]
        if method == "concatenate":
            told = [f"{a} {b}" for a, b in zip(one.texts, other.texts, strict=True)]
            keys = content_keys(ids), content_keys(told)
            return {"concatenated": Contrast(sounds, towers.encode_texts(told), one.owner, *keys)}
        vectors = towers.encode_audio(other.samples)
        written = [f"{text}+{name}" for text, name in zip(one.texts, other.ids, strict=True)]
        keys = content_keys(ids), content_keys(written)
        return {
            "a2t": pseudo_contrast(towers, Heard(other.samples, other.ids), vectors),
            "composed": Contrast(sounds, towers.compose(one.texts, vectors), one.owner, *keys),
        }

    def learnt(self, start: Start, method: Method, seed: int, count: int, rate: float) -> FeatureTowers:
        """Towers after a run."""
        plan = Plan(STEPS, rate, warmup=STEPS // 10, weight_decay=0, average=0, log_every=STEPS + 1, seed=seed)
        return self.start(start, seed).learn(self.losses(method, seed, count), plan)

    def tuned(self, start: Start, method: Method, rate: float) -> Floats:
        """AP@10 on the clips to choose by, words to sounds and sounds to words."""

        def work() -> dict[str, Floats]:
            towers = self.learnt(start, method, TUNING_SEED, TUNED_WITH, rate)
            marks = self.tuning_exam.marks(towers)
            return {"ap": np.append(marks["t2a ap"].mean(), marks["a2t ap"].mean())}

        return kept(self.runs / f"tuning-{start}-{method}-{rate:g}.npz", work)["ap"]

    def rate(self, start: Start, method: Method) -> float:
        """The rate that a method learns best with."""
        tuned: Start = "taught" if start == "both" else start
        return max(RATES[tuned], key=lambda rate: float(self.tuned(tuned, method, rate).mean()))

    def over_seeds(self, start: Start, method: Method | None, count: int, name: str) -> tuple[Floats, Floats]:
        """R@1 and AP@10 ``[seeds, queries]`` of the queries called ``name``."""
        found = [self.marks(start, method, seed, count) for seed in (SEEDS if method else SEEDS[:1])]
        return np.stack([one[name] <= 1 for one in found]).astype(float), np.stack([one[f"{name} ap"] for one in found])

    def marks(self, start: Start, method: Method | None, seed: int, count: int) -> dict[str, Floats]:
        """What a run gives on the test part and, as ``mixed …``, on mixtures; no ``method``: before any run."""

        def work() -> dict[str, Floats]:
            if method is None:
                towers = self.start(start, seed).eval()
            else:
                towers = self.learnt(start, method, seed, count, self.rate(start, method))
            mixed = {f"mixed {name}": values for name, values in self.mixed_exam.marks(towers).items()}
            return self.exam.marks(towers) | mixed

        return kept(self.runs / f"{start}-{method}-{count}-{seed}.npz", work)


def tables(work: Composed, start: Start, counts: Sequence[int]) -> Iterator[str]:
    """What each method gives, and the differences between them."""
    yield line("labelled", "learnt", *(f"{name} {m}" for name in NAMES.values() for m in ("R@1", "mAP@10")))
    yield line("---:", "---", *["---:"] * 2 * len(NAMES))
    runs: list[tuple[Method | None, int]] = [(None, 0), *((method, count) for count in counts for method in METHODS)]
    for method, count in runs:
        found = [work.over_seeds(start, method, count, name) for name in NAMES]
        yield line(str(count), method or "nothing yet", *(f"{v.mean():.3f}" for pair in found for v in pair))
    yield ""
    yield line("labelled", "R@1 of", *NAMES.values())
    yield line("---:", "---", *["---:"] * len(NAMES))
    for count in counts:
        for one, other in (("composed", "finetune"), ("concatenate", "finetune"), ("composed", "concatenate")):
            pairs = [[work.over_seeds(start, m, count, name)[0] for m in (one, other)] for name in NAMES]
            yield line(str(count), f"{one} less {other}", *(difference(a, b) for a, b in pairs))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what isn't done yet, print the tables and write them beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the starter keeps its stages")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = Composed(chosen.data, chosen.out)
    for start, counts in STARTS.items():
        for seed, method, count in product(SEEDS, METHODS, counts):
            work.marks(start, method, seed, count)
    lines: list[str] = []
    for start, counts in STARTS.items():
        lines += [f"Start: {start}", "", *tables(work, start, counts), ""]
    publish(lines, work.runs)


if __name__ == "__main__":
    main()
