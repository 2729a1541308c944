"""What the `earshot bundle` commands that need torch do: from a source, wherever it is, to a bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.export import export_bundle
from exporters.hub import fetch, is_hub_name
from exporters.precision import check_precision
from exporters.registry import load_source


def make_bundle(
    source: str,
    out: Path | None,
    bundles: Path,
    precision: str,
    *,
    name: str | None = None,
    allow_collapsed: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Mapping[str, Any]]:
    """Export a checkpoint and return its bundle's folder and manifest.

    Args:
        source: A file or folder; or the name of a model on the Hub, where no such file is.
        out: The bundle's folder; default: one in ``bundles``, which registers it under its name.
        bundles: Where bundles are registered.
        precision: ``fp32``, ``fp16`` or ``int8``.
        name: What the bundle is called; default: what the source is called, and the precision if not ``fp32``.
        allow_collapsed: Export a tower whose vectors are all alike, too.
        on_step: Told what comes next.

    Raises ``SourceError``, ``ParityError``, ``CollapsedError``, ``BundleError``.
    """
    kind = check_precision(precision)
    path = Path(source).expanduser()
    if not path.exists() and is_hub_name(source):
        on_step(f"download {source}")
        path = fetch(source)
        called = source.rsplit("/", 1)[1]
    else:
        called = path.resolve().name
    on_step(f"read {path}")
    loaded = load_source(path, legible(called))
    folder = out or bundles / (name or loaded.name + ("" if kind == "fp32" else f"-{kind}"))
    return folder, export_bundle(loaded, folder, kind, allow_collapsed=allow_collapsed, on_step=on_step)


def legible(name: str) -> str:
    """A name that a folder, a space and a shell can have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
