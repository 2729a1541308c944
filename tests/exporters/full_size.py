"""Parity at full size, as a report: ``python -m tests.exporters.full_size laion docs/parity/laion.md``.

The checkpoint has the published architecture, all its layers and its vocabulary, in the published format and names.
Its weights are random and scattered: nothing of the published model is needed, or shown.
"""

from __future__ import annotations

import gc
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.bundle import open_bundle
from engine.windows import pad_to
from exporters.compare import LONG_TEXT, TEXTS
from exporters.export import export_bundle
from exporters.parity import clips
from exporters.precision import TOLERANCES
from exporters.registry import load_source
from exporters.source import Source
from tests.exporters import checkpoints


@dataclass(frozen=True)
class Model:
    """A published model, and what writes a checkpoint of its architecture to a folder."""

    published: str
    make: Callable[[Path], nn.Module | None]


_HTSAT_SIZES = {"depths": (2, 2, 6, 2), "layers": 12, "pieces": 50_265}
FAMILIES: Mapping[str, Sequence[Model]] = {
    "laion": [Model("laion/clap-htsat-unfused", lambda folder: checkpoints.laion(folder, **_HTSAT_SIZES))],
    "laion-fused": [Model("laion/clap-htsat-fused", lambda folder: checkpoints.laion(folder, True, **_HTSAT_SIZES))],
    "laion-larger": [
        Model(
            "laion/larger_clap_general",
            lambda folder: checkpoints.laion(
                folder, depths=checkpoints.LARGER_DEPTHS, width=checkpoints.LARGER, layers=12, pieces=50_265
            ),
        )
    ],
    "msclap-2023": [
        Model(
            "microsoft/msclap, CLAP_weights_2023.pth",
            lambda folder: checkpoints.msclap(folder, layers=12, pieces=50_257),
        )
    ],
    "sentence-transformers": [
        Model(
            "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
            lambda folder: checkpoints.sentences(folder, layers=12, pieces=250_037),
        ),
        Model(
            "sentence-transformers/LaBSE",
            lambda folder: checkpoints.sentences(folder, dense=True, layers=12, pieces=501_153),
        ),
    ],
}
_LIBRARIES = (
    "torch", "transformers", "sentence-transformers", "onnx", "onnxruntime-gpu", "onnxruntime", "msclap", "numpy",
)  # fmt: skip


def main(family: str, out: Path) -> None:
    """Make the checkpoints, export them in all precisions, write the report."""
    torch.set_num_threads(2)
    parts = [section(family, model, alone=len(FAMILIES[family]) == 1) for model in FAMILIES[family]]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*head(family), *(line for part in parts for line in part), *LEGEND]), encoding="utf-8")


def section(family: str, model: Model, alone: bool) -> list[str]:
    """What is reported of one model, as lines of Markdown, below a heading unless it is ``alone``."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / model.published.rsplit("/", 1)[-1]
        made = model.make(folder)
        gc.collect()  # models hold themselves, and are as large as what is measured
        source = load_source(folder)
        if family.startswith("msclap"):
            assert made is not None
            source = _compared_with_the_package(source, made, folder)
        del made
        manifests = {precision: _export(source, Path(scratch), precision) for precision in TOLERANCES}
    return [*([] if alone else [f"## {model.published}", ""]), *told(model, source, manifests)]


def _compared_with_the_package(source: Source, model: nn.Module, folder: Path) -> Source:
    """The source with the package ``msclap`` itself as the reference of both towers."""
    audio, text = source.audio, source.text
    assert audio is not None
    assert text is not None
    size = audio.window_samples
    hears = lambda clip: checkpoints.msclap_hears(model, pad_to(clip, size, "repeat")[None])[0]  # noqa: E731
    reads = lambda texts: checkpoints.msclap_reads(model, folder, texts)  # noqa: E731
    return replace(source, audio=replace(audio, reference=hears), text=replace(text, reference=reads))


def _export(source: Source, scratch: Path, precision: Any) -> dict[str, Any]:
    began = time.monotonic()
    folder = scratch / f"bundle-{precision}"
    manifest = dict(export_bundle(source, folder, precision, on_step=lambda step: print(f"{precision}: {step}")))
    open_bundle(folder).verify()
    manifest["megabytes"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    manifest["seconds"] = time.monotonic() - began
    return manifest


def head(family: str) -> list[str]:
    """Title, date and versions."""
    libraries = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return [
        f"# Parity of {family} at full size",
        "",
        f"Made by `make parity FAMILY={family}` on {time.strftime('%Y-%m-%d')}, with random weights in the published "
        f"format and names; {peak_gb:.1f} GB of memory at most.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, {libraries}.",
        "",
    ]


def told(model: Model, source: Source, manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sizes, figures and inputs."""
    first = next(iter(manifests.values()))
    kinds = {"audio": "sound", "text": "words"}
    size = [f"{count / 1e6:.1f} M parameters for {kinds[tower]}" for tower, count in first["parameters"].items()]
    names = list(dict.fromkeys(name for manifest in manifests.values() for name in manifest["parity"]))
    rows = [
        [name.replace("_", " "), *(_figure(manifest["parity"].get(name)) for manifest in manifests.values())]
        for name in names
    ]
    rows.append(["size, MB", *(f"{manifest['megabytes']:.0f}" for manifest in manifests.values())])
    rows.append(["tolerance of graph", *(f"{TOLERANCES[precision]:g}" for precision in manifests)])  # type: ignore[index]
    table = [["", *manifests], ["---"] * (1 + len(manifests)), *rows]
    sounds = [] if source.audio is None else clips(source.audio.window_samples, source.audio.sample_rate_hz)
    return [
        f"The architecture of {model.published}, {' and '.join(size)}.",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *([f"Sounds: {', '.join(sounds)}.", ""] if sounds else []),
    ]


LEGEND = (
    "`graph` is the largest distance between the bundle's vector and the reference's, as a share of the median "
    "distance between two reference vectors; `alone` the same between one at a time and all at once; `cosine` "
    "the smallest between the two; `alike` the median cosine between two of the inputs.",
    "",
    f"Texts: {'; '.join(json.dumps(text) for text in TEXTS)}; and one of {len(LONG_TEXT.split())} words.",
    "",
)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value < 0.1 else f"{value:.4f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FAMILIES:
        sys.exit(f"found {sys.argv[1:]}, expected one of {', '.join(FAMILIES)} and a file for the report")
    main(sys.argv[1], Path(sys.argv[2]))
