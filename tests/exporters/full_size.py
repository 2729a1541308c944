"""Parity at full size, as a report: ``python -m tests.exporters.full_size laion docs/parity/laion.md``.

The checkpoint has the published architecture, all its layers and its vocabulary, in the published format and names.
Its weights are random and scattered: nothing of the published model is needed, or shown.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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

FAMILIES: Mapping[str, tuple[str, Callable[[Path], nn.Module]]] = {
    "laion": (
        "laion/clap-htsat-unfused",
        lambda folder: checkpoints.laion(folder, depths=(2, 2, 6, 2), layers=12, pieces=50_265),
    ),
    "laion-fused": (
        "laion/clap-htsat-fused",
        lambda folder: checkpoints.laion(folder, fused=True, depths=(2, 2, 6, 2), layers=12, pieces=50_265),
    ),
    "msclap-2023": (
        "microsoft/msclap, CLAP_weights_2023.pth",
        lambda folder: checkpoints.msclap(folder, layers=12, pieces=50_257),
    ),
}
_LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime-gpu", "onnxruntime", "msclap", "numpy")


def main(family: str, out: Path) -> None:
    """Make the checkpoint, export it in all precisions, write the report."""
    published, make = FAMILIES[family]
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / family
        model = make(folder)
        source = load_source(folder)
        if family.startswith("msclap"):
            source = _compared_with_the_package(source, model, folder)
        manifests = {precision: _export(source, Path(scratch), precision) for precision in TOLERANCES}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report(family, published, source, manifests), encoding="utf-8")


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


def report(family: str, published: str, source: Source, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """The report in Markdown."""
    first = next(iter(manifests.values()))
    assert source.audio is not None
    size = {tower: f"{count / 1e6:.1f} M parameters" for tower, count in first["parameters"].items()}
    sounds = clips(source.audio.window_samples, source.audio.sample_rate_hz)
    names = list(dict.fromkeys(name for manifest in manifests.values() for name in manifest["parity"]))
    rows = [
        [name.replace("_", " "), *(_figure(manifest["parity"].get(name)) for manifest in manifests.values())]
        for name in names
    ]
    rows.append(["size, MB", *(f"{manifest['megabytes']:.0f}" for manifest in manifests.values())])
    rows.append(["tolerance of graph", *(f"{TOLERANCES[precision]:g}" for precision in manifests)])  # type: ignore[index]
    table = [["", *manifests], ["---"] * (1 + len(manifests)), *rows]
    libraries = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    return "\n".join(
        [
            f"# Parity of {family} at full size",
            "",
            f"Made by `make parity FAMILY={family}` on {time.strftime('%Y-%m-%d')}: the architecture of {published}, "
            f"{size['audio']} for sound and {size['text']} for words, with random weights in the published format and "
            "names.",
            "",
            f"{platform.machine()}, Python {platform.python_version()}, {libraries}.",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            "`graph` is the largest distance between the bundle's vector and the reference's, as a share of the median "
            "distance between two reference vectors; `alone` the same between one at a time and all at once; `cosine` "
            "the smallest between the two; `alike` the median cosine between two of the inputs.",
            "",
            f"Sounds: {', '.join(sounds)}.",
            "",
            f"Texts: {'; '.join(json.dumps(text) for text in TEXTS)}; and one of {len(LONG_TEXT.split())} words.",
            "",
        ]
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
