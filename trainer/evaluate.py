"""The verdict on a bundle: it is asked through the engine, as a user would ask it. No torch.

python -m trainer.evaluate --data ../shared/data --bundle engine/starter
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders, thinned
from engine.types import FloatArray
from exporters.asking import best_windows, hear, similar
from trainer.data import read_rows
from trainer.metrics import Floats, average_precision_at, bootstrap, choices, first_ranks, hits_at

#: The dev kinds' names in eight languages, written apart from the parallel text.
KINDS = Path(__file__).parent / "recipes" / "dev_kinds.tsv"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure with its 95 % bootstrap interval and the number of queries or clips behind it."""

    name: str
    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, name: str, values: Floats) -> Figure:
        """The mean of ``values``."""
        low, high = bootstrap(values)
        return cls(name, float(values.mean()), low, high, len(values))


def figures(scores: FloatArray, kinds: Sequence[str], labels: Sequence[str], alike: FloatArray) -> list[Figure]:
    """The table of measures.

    ``scores [kinds, sounds]``, ``labels [sounds]`` name a kind each, ``alike [sounds, sounds]`` as `similar` gives it.
    """
    truth = np.array([list(kinds).index(label) for label in labels])
    relevant = np.arange(len(kinds))[:, None] == truth[None]
    alike = alike.copy()
    np.fill_diagonal(alike, -2.0)
    same = (truth[:, None] == truth[None]) & ~np.eye(len(truth), dtype=bool)
    return [
        Figure.of("text-to-audio P@1", hits_at(scores, relevant, 1)),
        Figure.of("text-to-audio R@5", hits_at(scores, relevant, 5)),
        Figure.of("text-to-audio mAP@10", average_precision_at(scores, relevant, 10)),
        Figure.of("zero-shot accuracy", choices(scores.T, truth)),
        Figure.of("find-similar P@1", hits_at(alike, same, 1)),
        Figure("median rank", float(np.median(first_ranks(scores, relevant))), *_median_range(scores, relevant)),
    ]


def _median_range(scores: FloatArray, relevant: np.ndarray) -> tuple[float, float, int]:
    ranks = first_ranks(scores, relevant)
    return *bootstrap(ranks, np.median), len(ranks)


def verdict(bundle: Path, data: Path) -> list[Figure]:
    """The measures of a bundle on the dev split: queries are the kinds' names, sounds their recordings.

    P@1 and mAP@10 also in every language that the bundle was taught.
    """
    rows = [row for row in read_rows(data) if row.split == "dev"]
    encoders = OnnxEncoders(open_bundle(bundle), "cpu")
    heard = hear(encoders, [row.path for row in rows])
    labels = [row.label.replace("_", " ") for row in rows]
    names = sorted(set(labels))
    asked = [thinned(vectors) for vectors in heard]
    found = figures(best_windows(encoders.text.encode_text(names), heard), names, labels, similar(asked, heard))
    return found + _by_language(encoders, heard, labels)


def _by_language(encoders: OnnxEncoders, heard: Sequence[FloatArray], labels: Sequence[str]) -> list[Figure]:
    """P@1 and mAP@10 of the translated kinds."""
    with KINDS.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    relevant = np.array([[label == row["label"].replace("_", " ") for label in labels] for row in rows])
    found = []
    text = encoders.bundle.manifest.text
    for language in text.languages if text else ():
        scores = best_windows(encoders.text.encode_text([row[language] for row in rows]), heard)
        found.append(Figure.of(f"{language} P@1", hits_at(scores, relevant, 1)))
        found.append(Figure.of(f"{language} mAP@10", average_precision_at(scores, relevant, 10)))
    return found


def table(found: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| measure | value | 95 % interval | n |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {f.name} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} | {f.count} |" for f in found]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the verdict, one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--bundle", type=Path, default=Path("engine/starter"), help="the bundle to judge")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(arguments)
    found = verdict(chosen.bundle, chosen.data)
    print(json.dumps([asdict(figure) for figure in found], indent=2) if chosen.json else table(found))


if __name__ == "__main__":
    main()
