"""Captions learnt from text alone: what bridging the gap is worth, and the decoder and memory of the starter.

    python -m trainer.recipes.captions --data ../shared/data --out runs/captions

Stages: ``learn`` (a small decoder for each way of training and each seed), ``tables`` (what every way of training and
of decoding is worth on held-out clips), ``full`` (the same of a decoder of the papers' size), ``ship`` (memory and
decoder of the starter), ``choices`` (how these are best asked), ``trust`` (how far its captions are to be believed, in
each language; of any bundle with a captioner and a memory), ``verdict`` (what these say of the dev split), ``noise``
(which recordings are taken for steady noise).
Where none are named, those that only print, but for ``full``. Vectors, decoders and captions are kept on disk, for
each space: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from engine.bundle import open_bundle
from engine.encoders import OnnxEncoders, normalise
from engine.types import FloatArray
from exporters.asking import hear
from trainer.cache import save_arrays, text_table, write_atomic
from trainer.data import Row, hold_out, read_rows, training_rows
from trainer.parallel import FOLDER as PARALLEL
from trainer.parallel import Concept, read_parallel
from trainer.references import FOLDER, Echoes, Referenced, dev_references, held_references, reference_sentences

ENCODED_AT_ONCE = 128
MOST_IN_MEMORY = 100_000
#: Train clips with a text of some words, of which a gap can be learnt.
PAIRS, SHORTEST_PAIRED, SEED = 600, 2, 1
#: Sounds and their phrasings, beside the tagger's classes.
PHRASED = ("actions.tsv", "things.tsv", "everyday_*.tsv")


@dataclass(frozen=True)
class Work:
    """Where data, bundle and results lie; what is read from them, each once."""

    data: Path
    out: Path
    bundle: Path
    seeds: Sequence[int] = (1, 2, 3)

    @cached_property
    def rows(self) -> list[Row]:
        """All of ``sounds.csv``."""
        return read_rows(self.data)

    @cached_property
    def encoders(self) -> OnnxEncoders:
        """The bundle's towers, on one core."""
        return OnnxEncoders(open_bundle(self.bundle), "cpu", threads=1)

    def let_go(self) -> None:
        """Close the towers: a bundle that is in use can't be written to."""
        self.__dict__.pop("encoders", None)

    @cached_property
    def held(self) -> list[Referenced]:
        """Clips to choose by."""
        return held_references(self.rows)

    @cached_property
    def dev(self) -> list[Referenced]:
        """Clips for the verdict."""
        return dev_references(self.rows)

    @cached_property
    def echoes(self) -> Echoes:
        """What is neither learnt nor remembered."""
        return Echoes(reference_sentences())

    def encode(self, name: str, texts: Sequence[str]) -> FloatArray:
        """Text vectors ``[n, dim]``, kept in ``out/texts/name``."""
        return text_table(self.out / "texts" / name, texts, self._encode).vectors.astype(np.float32)

    def encoded(self, texts: Sequence[str]) -> FloatArray:
        """Text vectors ``[n, dim]``, not kept."""
        return self._encode(list(texts))

    def _encode(self, texts: list[str]) -> FloatArray:
        """In batches of texts of about equal length: one batch of all would need gigabytes."""
        order = np.argsort([len(text) for text in texts], kind="stable")
        batches = np.split(order, range(ENCODED_AT_ONCE, len(order), ENCODED_AT_ONCE))
        vectors = np.empty((len(texts), self.encoders.space.dim), np.float32)
        for rows in batches:
            vectors[rows] = self.encoders.text.encode_text([texts[row] for row in rows])
        return vectors

    def heard(self, name: str, clips: Sequence[Referenced]) -> list[FloatArray]:
        """Each clip's window vectors ``[windows, dim]``, kept in ``out/name.npz``."""
        path = self.out / f"{name}.npz"
        if not path.is_file():
            vectors = hear(self.encoders, [clip.path for clip in clips])
            ends = np.cumsum([len(one) for one in vectors])
            joined = np.concatenate(vectors)
            write_atomic(path, lambda draft: save_arrays(draft, vectors=joined, ends=ends))
        with np.load(path) as kept:
            return np.split(kept["vectors"], kept["ends"][:-1])

    @cached_property
    def captions(self) -> tuple[list[str], list[str]]:
        """Captions that people wrote, to learn from and to validate by; English, no echoes, for experiments only."""
        learn: dict[str, None] = {}
        check: dict[str, None] = {}
        with (self.data / "text" / "audiocaps.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                text = row["caption"].strip().lower()
                if text not in self.echoes:
                    (learn if row["split"] == "train" else check)[text] = None
        return list(learn), list(check)

    @cached_property
    def reference_vectors(self) -> dict[str, FloatArray]:
        """Every reference and its vector ``[dim]``."""
        told = list(dict.fromkeys(reference_sentences()))
        return dict(zip(told, self.encode("references", told), strict=True))

    @cached_property
    def pairs(self) -> tuple[FloatArray, FloatArray]:
        """Vectors ``[PAIRS, dim]`` of train clips and of their texts, to estimate shift, adapter and noise from."""
        learn, _ = hold_out(training_rows(self.rows))
        told = [row for row in learn if len(row.text.split()) >= SHORTEST_PAIRED and row.text not in self.echoes]
        chosen = [told[number] for number in np.random.default_rng(SEED).permutation(len(told))[:PAIRS]]
        sounds = self.heard("pairs", [Referenced(row.path, row.text, (row.text,)) for row in chosen])
        return centres(sounds), self.encode("pairs", [row.text for row in chosen])

    @cached_property
    def more_captions(self) -> FloatArray:
        """Vectors of other captions ``[m, dim]`` for a memory of 100,000: stylised ones; for experiments only."""
        told: dict[str, None] = {}
        for style in ("uplifting", "humorous"):
            with (self.data / "text" / f"style_{style}.csv").open(encoding="utf-8", newline="") as stream:
                told |= dict.fromkeys(row["caption"].strip().lower() for row in csv.DictReader(stream))
        return self.encode("stylised", [text for text in told if text and text not in self.echoes][:MOST_IN_MEMORY])

    @cached_property
    def plain(self) -> list[Concept]:
        """Silence, noise, rooms, and single sounds told in general words."""
        return self._sifted(FOLDER, "plain.tsv")

    @cached_property
    def sentences(self) -> list[Concept]:
        """Captions that were written for earshot, in eight languages; the plain ones among them."""
        return self._sifted(PARALLEL, "sentences_*.tsv") + self.plain

    @cached_property
    def events(self) -> list[Concept]:
        """The tagger's classes, and how they are told."""
        return self._sifted(PARALLEL, "events_*.tsv")

    @cached_property
    def phrased(self) -> list[Concept]:
        """Sounds and how they are told."""
        return self.events + [one for pattern in PHRASED for one in self._sifted(PARALLEL, pattern)]

    def _sifted(self, folder: Path, pattern: str) -> list[Concept]:
        """Without those that echo a reference in one of their English phrasings."""
        told = read_parallel(folder, pattern)
        return [one for one in told if not any(text in self.echoes for text in one.english)]


def centres(heard: Sequence[FloatArray]) -> FloatArray:
    """Clips' windows ``[windows, dim]`` each -> one unit vector a clip, ``[clips, dim]``: the windows' mean."""
    return normalise(np.stack([windows.mean(axis=0) for windows in heard]))


def learn(work: Work) -> None:
    """The experiments' decoders."""
    from trainer.recipes.caption_ways import SIGMAS, WAYS, Ways

    ways = Ways(work)
    for sigma in SIGMAS:
        ways.decoder("noise" if sigma else "baseline", work.seeds[0], sigma)
    for seed in work.seeds:
        for way in WAYS:
            ways.decoder(way, seed)


def tables(work: Work) -> None:
    """Print the tables of docs/experiments.md."""
    from trainer.recipes.caption_tables import Tables
    from trainer.recipes.caption_ways import Ways

    made = Tables(Ways(work))
    print({name: round(value, 4) for name, value in made.ways.estimates().items()})
    for one in (made.of_ways, made.of_sigmas, made.of_taus, made.of_sizes, made.of_nearest, made.own):
        print(f"\n{one()}", flush=True)


def full(work: Work) -> None:
    """Print what a decoder of the papers' size is worth beside a small one; it learns for half an hour."""
    from trainer.recipes.caption_tables import Tables
    from trainer.recipes.caption_ways import Ways

    print(Tables(Ways(work)).of_full_size())


def ship(work: Work) -> None:
    """Put memory and decoder into the bundle."""
    from trainer.recipes.caption_shipping import ship as put

    put(work)


def choices(work: Work) -> None:
    """Print how the bundle's captions are best asked for and chosen."""
    from trainer.recipes.caption_choices import choices as compare

    print(compare(work))


def trust(work: Work) -> None:
    """Put into the bundle how far its captions are to be believed."""
    from trainer.recipes.caption_verdict import trust as calibrate

    calibrate(work)


def noise(work: Work) -> None:
    """Print which recordings are taken for steady noise."""
    from trainer.recipes.caption_noise import taken_for_noise

    print(taken_for_noise(work))


def verdict(work: Work) -> None:
    """Print what the bundle's captions of the dev split are worth."""
    from trainer.recipes.caption_verdict import verdict as judge

    print(judge(work))


STAGES = {
    "learn": learn,
    "tables": tables,
    "full": full,
    "ship": ship,
    "choices": choices,
    "trust": trust,
    "verdict": verdict,
    "noise": noise,
}


#: What is worked out where nothing is asked for: nothing that takes half an hour, or writes to a bundle.
PRINTING = ("learn", "tables", "choices", "noise")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe. Raises ``DataMissingError`` where the data is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/captions"), help="where vectors and decoders go")
    parser.add_argument("--bundle", type=Path, default=Path("engine/starter"), help="whose towers, and where to ship")
    parser.add_argument("--seeds", type=int, default=3, help="how many decoders are learnt in each way")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES], default=[*PRINTING], help="these, in order")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for stage in chosen.stages:
        out = chosen.out / open_bundle(chosen.bundle).manifest.space_id.replace("/", "-")
        STAGES[stage](Work(chosen.data, out, chosen.bundle, range(1, chosen.seeds + 1)))


if __name__ == "__main__":
    main()
