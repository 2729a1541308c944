"""Designs side by side, on training clips that none of them has learnt from: the tables of docs/experiments.md.

    python -m trainer.recipes.designs audio --data ../shared/data --out runs/starter
    python -m trainer.recipes.designs text | names | bundles engine/starter other/bundle | storage

They use what ``trainer.recipes.starter --stages prepare`` has kept. ``audio`` teaches each tower on the clips that
aren't held out to choose by, once with all of them (*known*: other recordings of the same kinds may be among them)
and once without any clip of the kinds that are asked (*unknown*). Queries are the kinds' English names as the teacher
reads them, so that only the audio tower is judged. ``text`` teaches each tower for a few hundred steps. ``names`` goes
parts of the way that the phrasings' turn takes the trained one. ``bundles`` asks whole bundles in all languages, on
clips that no shipped tower has learnt from.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import OnnxEncoders, thinned
from engine.errors import SelfTestError
from engine.types import FloatArray
from exporters.frontend import frames_of
from exporters.graph import MAX_BATCH, export_graph
from exporters.precision import convert
from exporters.starter import load_checkpoint
from exporters.store import pack, round_to_bytes, round_to_half
from exporters.towers import AudioConfig, AudioTower, TextConfig, unit
from trainer.alignment import AlignmentLesson
from trainer.calibrate import GROUPS, calibrations
from trainer.data import CHOICE_SHARE, LARGEST_CHOICE_SOURCE, hold_out
from trainer.evaluate import best_windows, figures, hear, similar
from trainer.hearing import clean_windows
from trainer.language import TextLesson, encode_texts, new_text_tower
from trainer.loop import Plan, train
from trainer.losses import cosine_distance, project, tag_loss
from trainer.metrics import average_precision_at, choices, hits_at
from trainer.parallel import LANGUAGES
from trainer.proxy import HeldKind, kinds_of, read_kinds
from trainer.recipes.starter import AUDIO_PLAN, DIM, SEED, Recipe
from trainer.teacher import sentence_vectors
from trainer.vocabulary import starting_vectors

TEXT_BUDGET = Plan(steps=150, rate=1e-3, warmup=30, average=0.95, seed=SEED)
SMALL_BUDGET = Plan(steps=1500, rate=2e-3, warmup=50, average=0.98, seed=SEED)
#: Of the way from the text tower before the phrasings' turn to the one after it.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exam:
    """Sounds of kinds and their names: ``names [kinds, dim]`` by language, ``labels`` one a sound."""

    kinds: Sequence[HeldKind]
    labels: NDArray[np.int64]

    def row(self, name: str, heard: Sequence[FloatArray], names: FloatArray, *more: str) -> str:
        """A line of Markdown: P@1, R@5, mAP@10, zero-shot, find-similar."""
        present = np.unique(self.labels)
        told = [self.kinds[kind].names["eng"] for kind in present]
        labels = [self.kinds[kind].names["eng"] for kind in self.labels]
        found = figures(best_windows(names[present], heard), told, labels, similar([thinned(v) for v in heard], heard))
        return line(name, *(f"{figure.value:.3f}" for figure in found[:5]), *more)


def line(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


class Designs(Recipe):
    """The recipe's data, cut as choices need it."""

    @cached_property
    def kinds(self) -> list[HeldKind]:
        """What is asked."""
        return read_kinds()

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """The kind of each row, below zero for none."""
        return kinds_of(self.rows, self.kinds)

    @cached_property
    def chosen_by(self) -> NDArray[np.bool_]:
        """The rows held out to choose by."""
        held = set(hold_out(self.rows, CHOICE_SHARE, LARGEST_CHOICE_SOURCE)[1])
        return np.array([row in held for row in self.rows])

    @cached_property
    def asked(self) -> FloatArray:
        """The kinds' English names as the teacher reads them ``[kinds, dim]``."""
        vectors = sentence_vectors([kind.names["eng"] for kind in self.kinds])
        return project(torch.from_numpy(vectors), self.basis).numpy()

    def named_as_classes(self, sharpness: float) -> AudioTower:
        """The teacher, untrained: classes mean their names."""
        tower = self.judge()
        with torch.no_grad():
            tower.sharpness.fill_(sharpness)
        return tower


def audio_designs(work: Designs) -> Iterator[str]:
    """The table of audio towers, row by row."""
    sounds = np.flatnonzero(work.chosen_by & (work.kind >= 0))
    exam = Exam(work.kinds, work.kind[sounds])
    start = work.new_audio()
    views = work.clean
    features = torch.from_numpy(views.features).float()

    def row(name: str, embed: Embed, *more: str) -> str:
        with torch.inference_mode():
            vectors = embed(features).numpy()
        return exam.row(name, [vectors[views.first == sound] for sound in sounds], work.asked, *more)

    yield line("tower", "P@1", "R@5", "mAP@10", "zero-shot", "find-similar", "learnt from")
    yield line("---", *["---:"] * 5, "---")
    plain = work.named_as_classes(1.0)
    yield row("teacher's line: mean chances times class names", lambda x: _mean_chances(plain, x), "nothing")
    yield row("class names, power 0.7", work.named_as_classes(0.7).embed, "nothing")
    yield row("names and phrasings", start.embed, "nothing")
    yield row("the same, patches by their loudest", lambda x: start.embed(x.amax(1, keepdim=True)), "nothing")
    yield row("the same, patches by their mean", lambda x: start.embed(x.mean(1, keepdim=True)), "nothing")
    for learnt, name in ((~work.chosen_by, "known"), (~work.chosen_by & (work.kind == -1), "unknown")):
        lessons = work.lessons(learnt, "designs" if name == "known" else "designs-unknown")
        whole = _taught(start, lessons, AUDIO_PLAN, ("detail", "meanings", "sharpness", "classifier"))
        yield row("names and phrasings, then tags, meanings and detail trained (shipped)", whole.embed, name)
        yield row("the same, three quarters of the way from the start", _between(start, whole, 0.75).embed, name)
        detail = _taught(start, lessons, AUDIO_PLAN, ("detail",))
        yield row("detail alone trained", detail.embed, name)
        longer = _taught(start, lessons, replace(AUDIO_PLAN, steps=1000), ("detail",))
        yield row("detail alone for 1,000 steps", longer.embed, name)
    yield _small_cnn(work, exam, sounds)


def _mean_chances(tower: AudioTower, features: Tensor) -> Tensor:
    """Chances averaged over patches, times meanings."""
    return unit(tower.meanings(torch.sigmoid(tower.classifier(features)).mean(1)))


def _taught(start: AudioTower, lessons: tuple, plan: Plan, parts: tuple[str, ...]) -> AudioTower:  # type: ignore[type-arg]
    """A copy of ``start`` whose ``parts`` have learnt."""
    tower = AudioTower(start.config)
    tower.load_state_dict(start.state_dict())
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(name.startswith(parts))
    _quietly(tower, AlignmentLesson(tower, *lessons), plan)
    return tower


def _quietly(model: nn.Module, lesson: Callable[..., dict[str, Tensor]], plan: Plan) -> None:
    folder = Path(tempfile.mkdtemp())
    with redirect_stdout(StringIO()):
        train(model, lesson, plan, folder)
    shutil.rmtree(folder)


def _between(start: AudioTower, end: AudioTower, share: float) -> AudioTower:
    """Weights on the line between two towers (WiSE-FT, arXiv:2109.01903, eq. 1)."""
    tower = AudioTower(start.config).eval()
    first, last = start.state_dict(), end.state_dict()
    tower.load_state_dict({name: torch.lerp(first[name], last[name], share) for name in first})
    return tower


def _small_cnn(work: Designs, exam: Exam, sounds: NDArray[np.int64]) -> str:
    """A small CNN from scratch that copies the teacher's chances on the clips' own windows."""
    small = AudioConfig(stem=16, blocks=((64, 2), (128, 2), (256, 2), (256, 1), (512, 2)))
    torch.manual_seed(SEED)
    tower, teacher = AudioTower(small), work.new_audio()
    for layer in tower.trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    for part in (tower.meanings, tower.detail):
        part.requires_grad_(False)
    tower.sharpness.requires_grad_(False)
    with torch.no_grad():
        tower.meanings.load_state_dict(teacher.meanings.state_dict())
        tower.sharpness.copy_(teacher.sharpness)
        tower.detail[2].weight.zero_()
        tower.detail[2].bias.zero_()
    windows = clean_windows(work.mels, small)
    size = frames_of(small.window_samples, small.front)
    practice = np.flatnonzero(~work.chosen_by[[clip for clip, _ in windows]])

    def mels_of(numbers: NDArray[np.int64]) -> Tensor:
        cut = [work.mels.clip(clip)[start : start + size] for clip, start in (windows[n] for n in numbers)]
        return torch.from_numpy(np.stack(cut).astype(np.float32))

    heard = torch.from_numpy(work.clean.features).float()

    def lesson(step: int, chance: np.random.Generator) -> dict[str, Tensor]:
        rows = chance.choice(practice, 64)
        features = tower.hear(mels_of(rows) + float(chance.uniform(-1, 0.5)))
        with torch.no_grad():
            chances = torch.sigmoid(teacher.classifier(heard[rows]))
            meant = teacher.embed(heard[rows])
        tags = tag_loss(tower.classifier(features), chances)
        near = cosine_distance(tower.embed(features), meant)
        return {"total": tags + 5 * near, "tags": tags, "near": near}

    _quietly(tower, lesson, SMALL_BUDGET)
    found = []
    with torch.inference_mode():
        for sound in sounds:
            own = np.array([number for number, (clip, _) in enumerate(windows) if clip == sound])
            found.append(tower.embed(tower.hear(mels_of(own))).numpy())
    size_m = sum(parameter.numel() for parameter in tower.trunk.parameters()) / 1e6
    name = f"CNN of {size_m:.2f} M weights from scratch, the teacher's chances, {SMALL_BUDGET.steps} steps of 64"
    return exam.row(name, found, work.asked, "known")


class _Convolutions(nn.Module):
    """Three neighbouring pieces at a time, instead of attention."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(config.dim), nn.Conv1d(config.dim, config.dim, 3, padding=1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Like ``exporters.towers.Layer``."""
        seen = (bias[:, 0, 0] > -1).unsqueeze(2)
        return x + F.gelu(self.mix((self.norm(x) * seen).transpose(1, 2)).transpose(1, 2))


class _Recurrent(nn.Module):
    """A recurrent layer, both ways."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.mix = nn.GRU(config.dim, config.dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Like ``exporters.towers.Layer``."""
        return x + self.mix(self.norm(x) * (bias[:, 0, 0] > -1).unsqueeze(2))[0]


def text_designs(work: Designs) -> Iterator[str]:
    """The table of text towers: each kind's name in a language, is the nearest English name the same kind's?"""
    ids, targets, weights = work.read
    asked = torch.from_numpy(work.asked)
    yield line("tower", "learnt in", *LANGUAGES, "mean cosine")
    yield line("---", *["---:"] * (2 + len(LANGUAGES)))
    for name, layers, make in (
        ("bag of pieces", 0, None),
        ("bag and two convolutions", 0, _Convolutions),
        ("bag and a recurrent layer, both ways", 0, _Recurrent),
        ("bag and two transformer layers (shipped)", 2, None),
    ):
        config = TextConfig(pieces=work.tokenizer.get_vocab_size(), dim=DIM, languages=LANGUAGES, layers=layers)
        points = starting_vectors(ids, project(torch.from_numpy(targets), work.basis).numpy(), config.pieces)
        tower = new_text_tower(config, work.tokenizer, ids, points, SEED)
        if make is not None:
            tower.layers = nn.ModuleList(make(config) for _ in range(2 if make is _Convolutions else 1))
        elif not layers:
            tower.out.requires_grad_(False)
        began = perf_counter()
        _quietly(tower, TextLesson(tower, ids, targets, work.basis, weights), TEXT_BUDGET)
        cost = f"{perf_counter() - began:.0f} s"
        found = [encode_texts(tower, work.tokenizer, [kind.names[lang] for kind in work.kinds]) for lang in LANGUAGES]
        truth = np.arange(len(work.kinds))
        right = [f"{choices((vectors @ asked.T).numpy(), truth).mean():.3f}" for vectors in found]
        cosine = float(torch.stack([(vectors * asked).sum(1).mean() for vectors in found]).mean())
        yield line(name, cost, *right, f"{cosine:.3f}")


def name_designs(work: Designs) -> Iterator[str]:
    """How far towards names that mean their English: what it does to false answers, and to what is found by names."""
    shipment = work.shipment()
    held = shipment.held_out(STARTER_DIR)
    of_kinds = np.flatnonzero(work.kind >= 0)
    heard = hear(OnnxEncoders(open_bundle(STARTER_DIR), "cpu", threads=1), [work.rows[one].path for one in of_kinds])
    unheard = np.flatnonzero(~work.learnt_from[of_kinds])
    asked = [("new clips", unheard), ("all clips", np.arange(len(of_kinds)))]
    found = [f"{figure}, {clips}" for clips, _ in asked for figure in ("P@1", "mAP@10")]
    yield line("way gone", *LANGUAGES, *(f"false answers, {group}" for group in GROUPS), *found)
    yield line(*["---:"] * (1 + len(LANGUAGES) + len(GROUPS) + len(found)))
    for share in SHARES:
        tower = work.learn_text(share)
        encode = partial(encode_texts, tower, work.tokenizer)
        phrases = {lang: encode([one.phrasings[lang][0] for one in work.concepts]).numpy() for lang in LANGUAGES}
        near = [f"{(phrases[lang] * shipment.concept_texts).sum(1).mean():.3f}" for lang in LANGUAGES]
        fits = calibrations(replace(held, phrases=phrases))
        names = {lang: encode([kind.names[lang] for kind in work.kinds]).numpy() for lang in LANGUAGES}
        cells = []
        for _, clips in asked:
            labels, windows = work.kind[of_kinds[clips]], [heard[clip] for clip in clips]
            present = np.unique(labels)
            scores = [best_windows(names[lang][present], windows) for lang in LANGUAGES]
            relevant = present[:, None] == labels[None]
            cells.append(np.mean([hits_at(one, relevant, 1).mean() for one in scores]))
            cells.append(np.mean([average_precision_at(one, relevant, 10).mean() for one in scores]))
        wrong = [f"{fits[group].false_answers:.3f}" for group in GROUPS]
        yield line(f"{share:g}", *near, *wrong, *(f"{cell:.3f}" for cell in cells))


def bundle_designs(work: Designs, bundles: Sequence[Path]) -> Iterator[str]:
    """Whole bundles on the clips that no shipped tower has learnt from, asked in every language."""
    sounds = np.flatnonzero(~work.learnt_from & (work.kind >= 0))
    exam = Exam(work.kinds, work.kind[sounds])
    yield line("bundle", "P@1", "R@5", "mAP@10", "zero-shot", "find-similar", *(f"{lang} P@1" for lang in LANGUAGES))
    yield line("---", *["---:"] * (5 + len(LANGUAGES)))
    for folder in bundles:
        encoders = OnnxEncoders(open_bundle(folder), "cpu", threads=1)
        heard = hear(encoders, [work.rows[sound].path for sound in sounds])
        present = np.unique(exam.labels)
        relevant = present[:, None] == exam.labels[None]
        names = {lang: encoders.text.encode_text([kind.names[lang] for kind in work.kinds]) for lang in LANGUAGES}
        found = [hits_at(best_windows(names[lang][present], heard), relevant, 1).mean() for lang in LANGUAGES]
        yield exam.row(str(folder), heard, names["eng"], *(f"{value:.3f}" for value in found))


def storage_designs(work: Designs) -> Iterator[str]:
    """How the last checkpoint's audio graph does when stored and computed in less."""
    sounds = np.flatnonzero(~work.learnt_from & (work.kind >= 0))
    exam = Exam(work.kinds, work.kind[sounds])
    source = work.out / "checkpoint"
    texts = [kind.names["eng"] for kind in work.kinds]
    names = encode_texts(load_checkpoint(source).text, work.tokenizer, texts).numpy()
    yield line("audio graph", "P@1", "R@5", "mAP@10", "zero-shot", "find-similar", "MB", "x real time, one core")
    yield line("---", *["---:"] * 7)
    for name in ("float32", "float16 stored (shipped)", "int8 stored", "float16 computed", "int8 MatMul computed"):
        with tempfile.TemporaryDirectory() as folder:
            path = _stored(load_checkpoint(source).audio, name, Path(folder))
            encoders = _with_audio(work, path)
            size = f"{path.stat().st_size / 1e6:.2f}"
            try:
                heard = hear(encoders, [work.rows[sound].path for sound in sounds])
            except SelfTestError as error:
                yield line(name, f"refused: {error.found}", *["-"] * 4, size, "-")
                continue
            yield exam.row(name, heard, names, size, f"{_speed(encoders):.0f}")


def _stored(tower: AudioTower, name: str, folder: Path) -> Path:
    """The tower's graph, stored as the table's ``name`` says."""
    path = folder / "audio.onnx"
    if "stored" in name:
        (round_to_bytes if name.startswith("int8") else round_to_half)(tower)
    samples = torch.zeros(2, tower.config.window_samples)
    export_graph(tower, {"samples": samples}, [{0: "batch"}], "embedding", path, {"batch": MAX_BATCH})
    if name.startswith("int8 stored"):
        onnx.save_model(pack(onnx.load(str(path))), str(path))
    elif "computed" in name:
        convert(path, "fp16" if name.startswith("float16") else "int8")
    return path


def _with_audio(work: Designs, graph: Path) -> OnnxEncoders:
    """The exported draft with another audio graph."""
    folder = graph.parent / "bundle"
    shutil.copytree(work.out / "bundle", folder)
    shutil.copyfile(graph, folder / "audio.onnx")
    return OnnxEncoders(open_bundle(folder), "cpu", threads=1)


def _speed(encoders: OnnxEncoders, rounds: int = 10) -> float:
    """Seconds of sound heard a second, the best of some batches."""
    windows = np.random.default_rng(0).uniform(-0.3, 0.3, (16, encoders.space.window_samples)).astype(np.float32)
    times = []
    for _ in range(rounds):
        began = perf_counter()
        encoders.audio.encode_audio(windows)
        times.append(perf_counter() - began)
    return float(len(windows) * encoders.space.window_s / min(times))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["audio", "text", "names", "bundles", "storage"])
    parser.add_argument("bundles", nargs="*", type=Path, help="the folders that `bundles` asks")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with sounds.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the recipe keeps its stages")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = Designs(chosen.data, chosen.out)
    tables = {"audio": audio_designs, "text": text_designs, "names": name_designs, "storage": storage_designs}
    rows = bundle_designs(work, chosen.bundles) if chosen.table == "bundles" else tables[chosen.table](work)
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
