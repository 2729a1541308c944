"""A checkpoint that has been read -> a bundle that the engine opens, checked against the reference.

Each tower becomes one graph; then the bundle is opened as the engine would and asked the same as the reference. What
was measured goes into the manifest, inputs and outputs into ``golden.npz``. A bundle that misses a tolerance is not
written: everything happens in a folder beside the wanted one, which takes its place at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import shelf
from engine.bundle import MANIFEST_FORMAT, Bundle, Calibration, file_sha256, open_bundle, require_free
from engine.encoders import OnnxEncoders
from engine.errors import BundleError, SelfTestError
from engine.session import why_no_cuda
from exporters.compare import MOST_ALIKE, ask_for_sounds, ask_for_texts, compare_mels, compare_sounds, compare_texts
from exporters.compose import GRAPH as COMPOSE
from exporters.compose import compare_compose, write_compose
from exporters.errors import with_room
from exporters.graph import MAX_BATCH, export_graph
from exporters.precision import Precision, convert
from exporters.source import AudioPart, Source, TextPart
from exporters.tuning import tune

#: What a bundle needs beside its weights.
_ROOM_BYTES = 100_000_000
NOT_MEASURED = "not measured"
#: Nothing is hidden by a relevance that nobody has measured.
UNCALIBRATED = Calibration(slope=10.0, intercept=-3.0, cutoff=0.0)


def export_bundle(
    source: Source,
    out: Path,
    precision: Precision = "fp32",
    *,
    allow_collapsed: bool = False,
    gate: Callable[[Bundle], Mapping[str, Any]] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Any]:
    """Write the bundle of ``source`` to ``out``, which may be a bundle already, and return its manifest.

    Args:
        source: The checkpoint's towers.
        out: The bundle's folder; replaced at the end, if it is a bundle.
        precision: Of the graphs.
        allow_collapsed: Export a tower whose vectors are all alike, too.
        gate: Measures the finished bundle, for the manifest (``gate.judge``), or raises.
        on_step: Told what comes next.

    Raises ``ParityError``, ``CollapsedError``, what ``gate`` raises; ``BundleError`` if ``out`` is something else, or
    in use. A collapsed tower that the engine refuses is named in the manifest (``refused``).
    """
    parity: dict[str, Any] = {}
    golden: dict[str, Any] = {}
    manifest = _manifest(source, precision, parity)
    with replacing(out) as folder:
        _require_room(out.resolve().parent, manifest["parameters"])
        if source.text is not None:
            on_step("text tower: reference")
            read = ask_for_texts(source.text, allow_collapsed)
            on_step("text tower: graph")
            _write_text(source.text, folder, precision)
            _write_manifest(folder, manifest)
            on_step("text tower: parity")
            parity |= compare_texts(read, open_bundle(folder), golden)
        if source.text is not None and source.compose is not None:
            on_step("words with a sound")
            write_compose(source.compose, source.text, folder, precision)
            manifest["compose"] = {"graph": COMPOSE}
            _write_manifest(folder, manifest)
            parity |= compare_compose(source.compose, source.text, open_bundle(folder), golden)
        if source.audio is not None:
            on_step("audio tower: reference")
            heard = ask_for_sounds(source.audio, allow_collapsed)
            on_step("audio tower: graph")
            _write_audio(source.audio, folder, precision)
            _write_manifest(folder, manifest)
            on_step("audio tower: parity")
            parity |= compare_sounds(heard, open_bundle(folder), golden)
            parity |= compare_mels(source.audio, heard.windows, folder) if precision == "fp32" else {}
        if precision == "fp32":
            source.note(folder)
        for path in source.beside:
            shutil.copy2(path, folder)
        np.savez_compressed(folder / "golden.npz", **golden)
        if gate is not None:
            on_step("retrieval on the labelled set")
            found = gate(open_bundle(folder))
            manifest |= {**found, "calibration": {**manifest["calibration"], **found["calibration"]}}
        if source.audio is not None and precision != "int8" and not why_no_cuda():
            on_step("audio tower: options for this card")
            tower = open_bundle(folder).manifest.audio
            manifest["cuda"] = tune(folder, tower) if tower else {}
        (folder / "README.md").write_text(_card(manifest), encoding="utf-8")
        _write_manifest(folder, manifest)
        on_step("self-test")
        try:
            self_test(open_bundle(folder))
        except SelfTestError as error:
            if not any(parity.get(f"{tower}_alike", 0) > MOST_ALIKE for tower in ("audio", "text")):
                raise
            manifest["refused"] = error.found
            _write_manifest(folder, manifest)
    return manifest


def self_test(bundle: Bundle) -> None:
    """Check all hashes, then use each tower once. Raises ``BundleError``."""
    bundle.verify()
    encoders = OnnxEncoders(bundle, "cpu")
    for tower in ("audio", "text"):
        if getattr(bundle.manifest, tower) is not None:
            getattr(encoders, tower)
    if bundle.manifest.compose is not None:
        _ = encoders.composer


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``out`` if the block ends well, and is gone otherwise."""
    out = require_place(out)  # before the work; that it is free, once more after it
    old = shelf.old(out)
    shelf.tidy(out.parent, out.name)
    with with_room(out.parent, "nothing was written, and what was there is as it was"), shelf.scratch(out) as scratch:
        folder = scratch / out.name
        folder.mkdir()
        yield folder
        shutil.rmtree(old, ignore_errors=True)
        try:
            if out.exists():
                require_free(out)
                out.rename(old)
            folder.rename(out)
        finally:
            shelf.put_back(out)
        shutil.rmtree(old, ignore_errors=True)


def require_place(out: Path) -> Path:
    """The absolute path of ``out``. Raises ``BundleError`` unless a bundle can be there, and none there is in use."""
    found, out = out, out.resolve()
    if not out.name or out == Path.cwd():
        raise BundleError(
            f"{found}, which is {'/' if not out.name else 'the current folder'}",
            "a folder for the bundle",
            "name another --out",
        )
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(
            f"{found}, which is no bundle", "a new folder, or a bundle to replace", "choose another --out"
        )
    require_free(out)
    return out


def _require_room(place: Path, parameters: Mapping[str, int]) -> None:
    """Raise ``BundleError`` where float32 graphs, one of them in two versions, would not fit."""
    needed = 4 * (sum(parameters.values()) + max(parameters.values())) + _ROOM_BYTES
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BundleError(f"{free / 1e9:.1f} GB free in {place}", f"{needed / 1e9:.1f} GB", "make room")


def write_unchecked(source: Source, folder: Path, precision: Precision) -> Bundle:
    """A bundle in ``folder`` that was compared with nothing and has no golden answers: for measuring its speed."""
    if source.audio is not None:
        _write_audio(source.audio, folder, precision)
    if source.text is not None:
        _write_text(source.text, folder, precision)
    _write_manifest(folder, _manifest(source, precision, {}))
    return open_bundle(folder)


def _write_audio(part: AudioPart, folder: Path, precision: Precision) -> None:
    examples = torch.zeros(2, part.window_samples)
    path = folder / "audio.onnx"
    export_graph(part.module, {"samples": examples}, [{0: "batch"}], "embedding", path, {"batch": MAX_BATCH})
    convert(path, precision, part.exact)


def _write_text(part: TextPart, folder: Path, precision: Precision) -> None:
    ids = torch.full((2, 8), 5)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    limits = {"batch": MAX_BATCH, "tokens": part.max_tokens}
    axes = {0: "batch", 1: "tokens"}
    path = folder / "text.onnx"
    export_graph(part.runs or part.module, inputs, [axes, axes], "embedding", path, limits)
    convert(path, precision)
    part.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _manifest(source: Source, precision: Precision, parity: dict[str, Any]) -> dict[str, Any]:
    parts = {"audio": source.audio, "text": source.text}
    modules = {tower: part.module for tower, part in parts.items() if part is not None}
    return {
        "format": MANIFEST_FORMAT,
        "name": source.name,
        "space_id": source.space_id,
        "dim": source.dim,
        "precision": precision,
        "audio": None if source.audio is None else _audio_section(source.audio, precision),
        "text": None if source.text is None else _text_section(source.text, precision),
        "calibration": {kind: asdict(UNCALIBRATED) for kind in ("text", "audio")},
        "calibrated": NOT_MEASURED,
        "parity": parity,
        "retrieval_loss": NOT_MEASURED,
        "family": source.family,
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
        "made_with": {name: version(name) for name in ("torch", "transformers", "onnx")},
        **source.facts,
    }


def _audio_section(part: AudioPart, precision: Precision) -> dict[str, Any]:
    batch = 1 if precision == "int8" else part.batch
    return {
        "graph": "audio.onnx",
        "sample_rate_hz": part.sample_rate_hz,
        "window_s": part.window_samples / part.sample_rate_hz,
        "hop_s": part.hop_samples / part.sample_rate_hz,
        "pad": part.pad,
        **({"batch": batch} if batch else {}),
    }


def _text_section(part: TextPart, precision: Precision) -> dict[str, Any]:
    return {
        "graph": "text.onnx",
        "tokenizer": "tokenizer.json",
        "max_tokens": part.max_tokens,
        "languages": list(part.languages),
        "lowercase": part.lowercase,
        **({"suffix": part.suffix} if part.suffix else {}),
        **({"batch": 1} if precision == "int8" else {}),
    }


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """``manifest.json`` with the hashes of all other files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != "manifest.json")
    manifest["files"] = {name: file_sha256(folder / name) for name in names}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _card(manifest: Mapping[str, Any]) -> str:
    """``README.md``: what it is, what goes in, and what was and wasn't measured."""
    audio, text = manifest["audio"], manifest["text"]
    lines = [
        f"# {manifest['name']}",
        f"Family {manifest['family']}, space `{manifest['space_id']}`, {manifest['dim']} dimensions, "
        f"{manifest['precision']}, licence {manifest.get('licence', 'not said by its publisher')}. "
        f"Exported by earshot; {_whose(manifest)}.",
        "## What goes in",
    ]
    if audio:
        lines.append(
            f"- **sound**: mono, {audio['sample_rate_hz']} Hz, windows of {audio['window_s']} s every "
            f"{audio['hop_s']} s, padded by `{audio['pad']}`"
        )
    if text:
        lines.append(f"- **text**: at most {text['max_tokens']} pieces")
    lines += [
        "## How near it is to the original",
        "\n".join(f"- {name.replace('_', ' ')}: {value:.3g}" for name, value in manifest["parity"].items()),
        "`graph` and `alone` are the largest difference over the probe inputs as a share of the median distance "
        "between two vectors; `alike` is the median cosine between two of the inputs.",
        f"Retrieval: {_said(manifest['retrieval_loss'])}. Calibration of relevance: {_said(manifest['calibrated'])}.",
    ]
    return "\n\n".join([*lines, *_inherited(manifest)]) + "\n"


def _whose(manifest: Mapping[str, Any]) -> str:
    if "trained" not in manifest:
        return "the weights are their publisher's"
    return f"trained from `{manifest['trained']['base']}` by `earshot train finetune`"


def _inherited(manifest: Mapping[str, Any]) -> Iterator[str]:
    """How it was trained, and what is said of the bundle it came from and has to be passed on."""
    if settings := {key: value for key, value in manifest.get("trained", {}).items() if value not in (None, [])}:
        yield "## How it was trained"
        yield "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in settings.items())
    if left := manifest.get("left_behind"):
        yield f"Left behind: {left}."
    if limits := manifest.get("limits"):
        yield "## What its base can't hear"
        yield "\n".join(f"- {limit}" for limit in limits)
        if settings:
            yield "Whether that is still so was not measured."
    if credits := manifest.get("credits"):
        yield "## Credits"
        yield "\n".join(f"- {credit}" for credit in credits)


def _said(measured: Any) -> str:
    if not isinstance(measured, dict):
        return str(measured)
    return ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in measured.items()
    )
