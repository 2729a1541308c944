"""What the `earshot bundle` commands that need torch do: from a source, wherever it is, to a bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.bundle import Bundle, open_bundle
from exporters.export import export_bundle
from exporters.gate import GateError, LabelledSet, compare, read_set, scores
from exporters.hub import fetch, is_hub_name
from exporters.precision import Precision, check_precision
from exporters.registry import load_source
from exporters.source import Source


def make_bundle(
    source: str,
    out: Path | None,
    bundles: Path,
    precision: str,
    *,
    gate: Path | None = None,
    allow_collapsed: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Mapping[str, Any]]:
    """Export a checkpoint and return its bundle's folder and manifest.

    Args:
        source: A file or folder; or the name of a model on the Hub, where no such file is.
        out: The bundle's folder; default: one in ``bundles``, which registers it under its name.
        bundles: Where bundles are registered.
        precision: ``fp32``, ``fp16`` or ``int8``.
        gate: A labelled set (``gate``) on which the bundle's retrieval is measured, and must not lose much to fp32.
        allow_collapsed: Export a tower whose vectors are all alike, too.
        on_step: Told what comes next.

    Raises ``SourceError``, ``ParityError``, ``CollapsedError``, ``GateError``, ``BundleError``.
    """
    kind = check_precision(precision)
    labelled = None if gate is None else read_set(gate)
    path = Path(source).expanduser()
    if not path.exists() and is_hub_name(source):
        on_step(f"download {source}")
        path = fetch(source)
        called = source.rsplit("/", 1)[1]
    else:
        called = path.resolve().name
    on_step(f"read {path}")
    loaded = load_source(path, legible(called))
    folder = out or bundles / (loaded.name + ("" if kind == "fp32" else f"-{kind}"))
    measured = None if labelled is None else _measured(loaded, labelled, kind, on_step)
    return folder, export_bundle(loaded, folder, kind, allow_collapsed=allow_collapsed, gate=measured, on_step=on_step)


def _measured(
    source: Source, labelled: LabelledSet, precision: Precision, on_step: Callable[[str], None]
) -> Callable[[Bundle], Any]:
    """What measures the retrieval of a bundle; for a smaller precision, against a bundle in fp32 made for it."""
    if source.audio is None or source.text is None:
        raise GateError(f"{source.name} with one tower", "sound and words", "export it without --gate")
    if precision == "fp32":
        return lambda bundle: {"set": labelled.name, **scores(bundle, labelled), "loss of mAP@10": 0.0}
    with TemporaryDirectory() as scratch:
        export_bundle(source, Path(scratch) / "fp32", on_step=lambda step: on_step(f"fp32, to compare with: {step}"))
        exact = scores(open_bundle(Path(scratch) / "fp32"), labelled)
    return lambda bundle: compare(exact, scores(bundle, labelled), labelled)


def legible(name: str) -> str:
    """A name that a folder, a space and a shell can have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
