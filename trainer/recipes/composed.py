"""Does audio-composed text help where few clips have words? The tables of docs/experiments.md.

    python -m trainer.recipes.composed --data ../shared/data --out runs/starter

Fine-tuning, audio-composed text (Komatsu et al., eqs. 6 to 18) and concatenation (two clips with words mixed, their
words joined) on the same few labelled clips; composed text also hears the others, without their words. Every run is
kept as soon as it is done, so the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from exporters.composing import A2t
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
    TEMPERATURE,
    Exam,
    FeatureTowers,
    Ground,
    Indices,
    Losses,
    Mixed,
    difference,
    kept,
    publish,
)

#: *a2t first* is *composed* whose a2t module has learnt from the unlabelled clips before, as in Pic2Word.
Way: TypeAlias = Literal["finetune", "concatenate", "composed", "a2t first"]
WAYS: tuple[Way, ...] = ("finetune", "concatenate", "composed", "a2t first")
COMPARED: tuple[tuple[Way, Way], ...] = (
    ("composed", "finetune"),
    ("a2t first", "finetune"),
    ("concatenate", "finetune"),
    ("composed", "concatenate"),
)
Start: TypeAlias = Literal["taught", "blank", "both"]
SEEDS = range(5)
TUNING_SEED = 100
#: By what the audio tower knows at first and how many clips are labelled: *taught* is the starter before its training,
#: *blank* has neither meanings nor detail. In these the text tower stays as it is; *both* is *taught*, but the text
#: tower learns too, and three times as long.
RUNS: dict[Start, dict[int, tuple[Way, ...]]] = {
    "taught": {100: WAYS[:3], 300: WAYS[:3], 1000: WAYS},
    "blank": {1000: WAYS[:3]},
    "both": {100: ("finetune", "composed"), 300: WAYS[:3]},
}
MEASURES = ("R@1", "mAP@10")
NAMES = {"t2a": "text to audio", "a2t": "audio to text", "mixed t2a": "text to mixture", "mixed a2t": "mixture to text"}
PAIRS = 2048  # mixtures of a run
TEST_PAIRS = 1000
STEPS = 100
LONGER: dict[Start, int] = {"both": 300}
#: Of these the best on the clips to choose by, for each way; *a2t first* learns at the rate of *composed*.
RATES: dict[Start, tuple[float, ...]] = {
    "taught": (1e-4, 3e-4, 1e-3),
    "blank": (3e-4, 1e-3, 3e-3),
    "both": (3e-5, 1e-4, 3e-4),
}
TUNED_WITH = 300  # labelled clips
FIRST = Plan(steps=200, rate=1e-3, warmup=20, weight_decay=0, average=0, log_every=201)


class Composed(Ground):
    """Which clips are labelled, and the mixtures of each run."""

    @cached_property
    def test_mixtures(self) -> Mixed:
        """Pairs of test clips with different words."""
        chance = np.random.default_rng(0)
        one, other = chance.choice(self.test, 2 * TEST_PAIRS), chance.choice(self.test, 2 * TEST_PAIRS)
        texts = np.array([row.text for row in self.rows])
        pairs = np.flatnonzero(texts[one] != texts[other])[:TEST_PAIRS]
        return self.mixed("test", one[pairs], other[pairs], chance)

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
        return self.mixed(f"composed-{count}-{seed}", one, other, chance)

    def concatenated_mixtures(self, seed: int, count: int) -> Mixed:
        """Two different labelled clips."""
        chance = np.random.default_rng([seed, 3])
        clips = self.labelled(seed, count)
        one = chance.integers(len(clips), size=PAIRS)
        other = (one + chance.integers(1, len(clips), size=PAIRS)) % len(clips)
        return self.mixed(f"concatenated-{count}-{seed}", clips[one], clips[other], chance)

    @property
    def runs(self) -> Path:
        """Where what runs gave is kept."""
        return self.out / "evidence" / f"composed-{STEPS}x{BATCH}"

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

    def learnt(self, start: Start, way: Way, seed: int, count: int, rate: float) -> FeatureTowers:
        """Towers after a run."""
        steps = LONGER.get(start, STEPS)
        plan = Plan(steps, rate, warmup=steps // 10, weight_decay=0, average=0, log_every=steps + 1, seed=seed)
        towers = self.start(start, seed)
        if way == "a2t first":
            towers.a2t = self.a2t(seed)
        return towers.learn(self.losses("composed" if way == "a2t first" else way, seed, count), plan)

    def a2t(self, seed: int) -> A2t:
        """An a2t module that has learnt (eq. 10) from all clips of the pool without their words, towers frozen."""
        towers = self.start("taught", seed)
        towers.audio.requires_grad_(False)
        cuts = np.concatenate(self.views_of(self.pool))
        vectors = torch.from_numpy(towers.heard(self.clean.features[cuts]))

        def step(model: FeatureTowers, chance: np.random.Generator) -> dict[str, Tensor]:
            drawn = chance.choice(len(cuts), BATCH, replace=False)
            heard = Heard(vectors[drawn], [str(clip) for clip in self.clean.first[cuts[drawn]]])
            return losses_of({"a2t": pseudo_contrast(model, heard, heard.samples)}, TEMPERATURE)

        found = towers.learn(step, replace(FIRST, seed=seed), self.runs / f"a2t-{seed}").a2t
        assert found is not None
        return found

    def tuned(self, start: Start, way: Way, rate: float) -> Floats:
        """AP@10 on the clips to choose by, words to sounds and sounds to words."""

        def work() -> dict[str, Floats]:
            marks = self.tuning_exam.marks(self.learnt(start, way, TUNING_SEED, TUNED_WITH, rate))
            return {"ap": np.append(marks["t2a ap"].mean(), marks["a2t ap"].mean())}

        return kept(self.runs / f"tuning-{start}-{way}-{rate:g}.npz", work)["ap"]

    def rate(self, start: Start, way: Way) -> float:
        """The rate that a way learns best with."""
        alike: Way = "composed" if way == "a2t first" else way
        return max(RATES[start], key=lambda rate: float(self.tuned(start, alike, rate).mean()))

    def marks(self, start: Start, way: Way | None, seed: int, count: int) -> dict[str, Floats]:
        """What a run gives on the test part and, as ``mixed …``, on mixtures; no ``way``: before any run."""

        def work() -> dict[str, Floats]:
            if way is None:
                towers = self.start(start, seed).eval()
            else:
                towers = self.learnt(start, way, seed, count, self.rate(start, way))
            mixed = {f"mixed {name}": values for name, values in self.mixed_exam.marks(towers).items()}
            return self.exam.marks(towers) | mixed

        return kept(self.runs / f"{start}-{way}-{count}-{seed}.npz", work)

    def over_seeds(self, start: Start, way: Way | None, count: int, name: str) -> tuple[Floats, Floats]:
        """R@1 and AP@10 ``[seeds, queries]`` of the queries called ``name``."""
        found = [self.marks(start, way, seed, count) for seed in (SEEDS if way else SEEDS[:1])]
        return np.stack([one[name] <= 1 for one in found]).astype(float), np.stack([one[f"{name} ap"] for one in found])


def tables(work: Composed, start: Start) -> Iterator[str]:
    """What each way gives, and the differences between them."""
    yield line("labelled", "learnt", *(f"{name} {m}" for name in NAMES.values() for m in MEASURES))
    yield line("---:", "---", *["---:"] * 2 * len(NAMES))
    for way, count in [(None, 0), *((way, count) for count, ways in RUNS[start].items() for way in ways)]:
        found = [work.over_seeds(start, way, count, name) for name in NAMES]
        yield line(str(count), way or "nothing yet", *(f"{v.mean():.3f}" for pair in found for v in pair))
    for number, measure in enumerate(MEASURES):
        yield ""
        yield line("labelled", f"{measure}: less", *NAMES.values())
        yield line("---:", "---", *["---:"] * len(NAMES))
        for count, ways in RUNS[start].items():
            for one, other in COMPARED:
                if {one, other} <= set(ways):
                    pairs = [[work.over_seeds(start, w, count, name)[number] for w in (one, other)] for name in NAMES]
                    yield line(str(count), f"{one} less {other}", *(difference(a, b) for a, b in pairs))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what isn't done yet, print the tables and write them beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the starter keeps its stages")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = Composed(chosen.data, chosen.out)
    lines: list[str] = []
    for start in RUNS:
        lines += [f"Start: {start}", "", *tables(work, start), ""]
    publish(lines, work.runs)


if __name__ == "__main__":
    main()
