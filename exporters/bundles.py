"""What the `earshot bundle` commands that need torch do: from a source, wherever it is, to a bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.bundle import STARTER, Bundle, Manifest, known_bundles, open_bundle, read_manifest
from engine.errors import BundleError, ManifestError
from exporters import finetuned
from exporters.base import load_base
from exporters.errors import SourceError
from exporters.export import export_bundle, require_place
from exporters.extend import COMPOSED, MODULE, export_a2t, module_print
from exporters.gate import GateError, LabelledSet, ask, judge, read_set
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
        source: A file or folder; where no such is, the name of a bundle of ours, or of a model on the Hub.
        out: The bundle's folder; default: one in ``bundles``, which registers it under its name.
        bundles: Where bundles are registered.
        precision: ``fp32``, ``fp16`` or ``int8``.
        gate: A labelled set (``gate``) on which the bundle's retrieval is measured, and must not lose much to fp32.
        allow_collapsed: Export a tower whose vectors are all alike, too.
        on_step: Told what comes next.

    Raises ``SourceError``, ``ParityError``, ``CollapsedError``, ``GateError``, ``BundleError``.
    """
    kind = check_precision(precision)
    if out is not None:
        require_place(out)
    labelled = None if gate is None else read_set(gate)
    path = Path(source).expanduser()
    if not path.exists():
        path = known_bundles(bundles).get(source, path)
    if not path.exists() and is_hub_name(source):
        on_step(f"download {source}")
        path = fetch(source)
        called = source.rsplit("/", 1)[1]
    else:
        called = path.resolve().name
    on_step(f"read {path}")
    if finetuned.reads(path, {}) and finetuned.learnt_a2t_alone(path):
        _require_plain(path, precision, gate)
        called = legible(called)
        told, _ = finetuned.read_run(path)
        base = read_manifest(Path(told[finetuned.BASE]["path"]) / "manifest.json")
        folder = out or bundles / called
        module = module_print(finetuned.read_state(path))
        _require_own_name(folder, bundles, path, base.space_id, module, replaces=out is not None)
        return folder, export_a2t(path, folder)
    is_bundle = (path / "manifest.json").is_file()
    if is_bundle and kind == "fp32":
        raise SourceError(f"{path}, a bundle already", "another precision for it", "--precision int8 or fp16")
    loaded = again(path) if is_bundle else load_source(path, legible(called))
    folder = out or bundles / (loaded.name + ("" if kind == "fp32" else f"-{kind}"))
    _require_own_name(folder, bundles, path, loaded.space_id, replaces=out is not None)
    measured = None if labelled is None else _measured(loaded, labelled, kind, path if is_bundle else None, on_step)
    return folder, export_bundle(loaded, folder, kind, allow_collapsed=allow_collapsed, gate=measured, on_step=on_step)


def _require_own_name(
    folder: Path, bundles: Path, path: Path, space_id: str, module: str = "", *, replaces: bool
) -> None:
    """Raise ``BundleError`` where a bundle would take the starter's name, or, unless it ``replaces``, another's.

    Bundles of one space may differ in the a2t ``module`` that was trained upon it (``extend.module_print``).
    """
    if folder.name == STARTER and folder.resolve().parent == bundles.resolve():
        raise BundleError(
            f"{path} under the name {STARTER}", "another: that one comes with earshot", "name a folder by --out"
        )
    try:
        there = None if replaces else _named(read_manifest(folder / "manifest.json"))
    except ManifestError:  # nothing, or what is of no use
        there = None
    wanted = _with_module(space_id, module)
    if there not in (None, wanted):
        raise BundleError(
            f"{folder}, which holds {there}, in the way of {wanted} from {path}",
            "a name of its own for each",
            f"name another folder by --out, or earshot bundle remove {folder.name}",
        )


def _named(manifest: Manifest) -> str:
    return _with_module(manifest.space_id, manifest.extra.get(COMPOSED, {}).get(MODULE, ""))


def _with_module(space_id: str, module: str) -> str:
    return f"{space_id} with the a2t module {module}" if module else space_id


def again(folder: Path) -> Source:
    """A bundle of ours as the source of a smaller one: its space, its curves and what is said of it stay.

    Raises ``SourceError``.
    """
    manifest = read_manifest(folder / "manifest.json")
    name, _, fingerprint = manifest.space_id.rpartition("@")
    kept = {key: manifest.extra[key] for key in ("licence", "credits", "summary", "limits") if key in manifest.extra}
    curves = {kind: asdict(curve) for kind, curve in manifest.calibration.items()}
    facts = {**kept, "calibration": curves, "calibrated": "that of its bundle in fp32"}
    if manifest.compose is not None:
        facts["left_behind"] = f"{manifest.compose}, without which words and a sound are added"
    beside = finetuned.beside(folder, finetuned.MEMORY)
    return replace(load_base(folder), name=name, fingerprint=fingerprint, facts=facts, beside=beside)


def _require_plain(run: Path, precision: str, gate: Path | None) -> None:
    """Raise ``SourceError`` where a run whose towers are its base's is asked for what concerns towers."""
    asked = ([f"--precision {precision}"] if precision != "fp32" else []) + (["--gate"] if gate else [])
    if asked:
        raise SourceError(
            f"{' and '.join(asked)} for {run}, which has learnt words with a sound alone",
            "neither: towers, precision and relevance stay those of its base",
            f"export it without {' and '.join(asked)}",
        )


def _measured(
    source: Source, labelled: LabelledSet, precision: Precision, whole: Path | None, on_step: Callable[[str], None]
) -> Callable[[Bundle], Mapping[str, Any]]:
    """What measures the retrieval of a bundle; of a smaller precision, against ``whole``, or what is made for it."""
    if source.audio is None or source.text is None:
        raise GateError(f"{source.name} with one tower", "sound and words", "export it without --gate")
    if precision == "fp32":
        return lambda bundle: judge(bundle, labelled, None)
    with TemporaryDirectory() as scratch:
        if whole is None:
            whole = Path(scratch) / "fp32"
            export_bundle(source, whole, on_step=lambda step: on_step(f"fp32, to compare with: {step}"))
        exact = ask(open_bundle(whole), labelled).scores
    return lambda bundle: judge(bundle, labelled, exact)


def legible(name: str) -> str:
    """A name that a folder, a space and a shell can have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
