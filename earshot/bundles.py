"""`earshot bundle …`: the models that earshot can hear with.

Exporting needs torch, which nothing else here does: it is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot import show
from engine.errors import BundleError

if TYPE_CHECKING:
    from engine.bundle import Bundle

bundle_app = typer.Typer(help="The models earshot can hear with.", no_args_is_help=True)


class PrecisionChoice(StrEnum):
    """How exact a bundle's graphs are."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PrecisionOption = Annotated[
    PrecisionChoice, typer.Option("--precision", help="fp32 anywhere, fp16 for CUDA, int8 for the CPU: twice as fast.")
]
CollapsedOption = Annotated[
    bool, typer.Option("--allow-collapsed", help="Export a model that says the same of everything, too.")
]
GateOption = Annotated[
    Path | None,
    typer.Option("--gate", help="Labelled sounds (CSV: path, text) to measure retrieval and calibrate relevance on."),
]
NameArgument = Annotated[str, typer.Argument(help="A bundle's name or folder.", show_default=False)]


@bundle_app.command(
    epilog="Examples:\n\n  earshot bundle export ~/models/clap-htsat-unfused\n\n"
    "  earshot bundle export ./clap --precision int8 --out clap-int8"
)
def export(
    source: Annotated[
        str, typer.Argument(help="A checkpoint's file or folder, a bundle of ours, or a name on the Hugging Face Hub.")
    ],
    precision: PrecisionOption = PrecisionChoice.fp32,
    out: Annotated[
        Path | None, typer.Option("--out", help="The bundle's folder. \\[default: one where bundles are registered]")
    ] = None,
    gate: GateOption = None,
    allow_collapsed: CollapsedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle of a published checkpoint, checked against the code it was published with.

    Reads LAION's CLAP, Microsoft's of 2023, and the text encoders of sentence-transformers. Needs the extra:
    pip install 'earshot\\[export]'.
    """
    _make(source, precision, out, gate, allow_collapsed, as_json)


@bundle_app.command(epilog="Examples:\n\n  earshot bundle pull laion/clap-htsat-unfused --precision int8")
def pull(
    name: Annotated[str, typer.Argument(help="The model's name on the Hugging Face Hub.", show_default=False)],
    precision: PrecisionOption = PrecisionChoice.fp32,
    gate: GateOption = None,
    allow_collapsed: CollapsedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download a model from the Hugging Face Hub, export it, check it, and register it under its name.

    What was downloaded stays in HF_HOME and is not downloaded twice. HF_HUB_OFFLINE and HF_TOKEN are honoured.
    """
    if Path(name).exists() or "/" not in name:
        raise BundleError(f"{name}, which is no name on the Hub", "owner/model", "export a local one: bundle export")
    _make(name, precision, None, gate, allow_collapsed, as_json)


def _make(
    source: str, precision: PrecisionChoice, out: Path | None, gate: Path | None, allow_collapsed: bool, as_json: bool
) -> None:
    from earshot.places import bundles_folder, expanded

    with _exporters():
        from exporters.bundles import make_bundle
    folder, manifest = make_bundle(
        source,
        None if out is None else expanded(out),
        bundles_folder(),
        precision.value,
        gate=None if gate is None else expanded(gate),
        allow_collapsed=allow_collapsed,
        on_step=lambda step: show.remark(f"{step} …"),
    )
    if as_json:
        show.print_json({**manifest, "folder": str(folder)})
        return
    registered = folder.parent == bundles_folder()
    if "refused" in manifest:
        said = "not checked: its towers are collapsed, the engine refuses it"
        show.say(f"{manifest['space_id']}, {manifest['precision']}, {said}: {folder}", style="yellow")
        return
    show.say(f"{manifest['space_id']}, {manifest['precision']}, checked: {folder}")
    if left := manifest.get("left_behind"):
        show.remark(f"left behind: {left}; `earshot remember` gives a library its own", style="yellow")
    show.remark(f"use it with --bundle {folder.name if registered else folder}")


@contextmanager
def _exporters() -> Iterator[None]:
    """Say which extra is missing, where one is."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BundleError(
            f"no {error.name} installed", "what exporting needs", "pip install 'earshot[export]'"
        ) from error


@bundle_app.command(epilog="Examples:\n\n  earshot bundle verify starter\n\n  earshot bundle verify ./clap-int8")
def verify(name: NameArgument, as_json: JsonOption = False) -> None:
    """Check a bundle's files against their hashes, then ask each tower what it was asked when it was made."""
    from engine.bundle import file_sha256
    from engine.encoders import OnnxEncoders

    bundle = _open(name)
    bundle.verify()
    encoders = OnnxEncoders(bundle, "cpu")
    towers = [tower for tower in ("audio", "text") if getattr(bundle.manifest, tower) is not None]
    for tower in towers:
        getattr(encoders, tower)
    if as_json:
        hashes = {file: file_sha256(bundle.path(file)) for file in bundle.manifest.files}
        show.print_json({"space_id": bundle.manifest.space_id, "towers": towers, "files": hashes})
        return
    show.say(f"ok {bundle.manifest.space_id}: {len(bundle.manifest.files)} files, {' and '.join(towers)} self-test")


@bundle_app.command("list", epilog="Example:\n\n  earshot bundle list --json")
def list_bundles(as_json: JsonOption = False) -> None:
    """List the models that are here."""
    from earshot.places import bundles_folder
    from engine.bundle import known_bundles

    rows: list[dict[str, Any]] = []
    for name, folder in known_bundles(bundles_folder()).items():
        try:
            rows.append(_row(name, _open(str(folder))))
        except BundleError as error:  # one that is broken must not hide the others
            rows.append({"name": name, "folder": str(folder), "problem": str(error)})
    if as_json:
        show.print_json(rows)
        return
    for row in rows:
        if "problem" in row:
            show.say(f"{row['name']}  {row['problem']}", style="red")
            continue
        languages = ", ".join(row["languages"])
        show.say(
            f"{row['name']}  {row['space_id']}  {row['dim']} dimensions, {row['precision']}, {languages}, "
            f"{row['bytes'] / 1e6:.1f} MB  {row['folder']}"
        )


def _row(name: str, bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": name,
        "space_id": manifest.space_id,
        "dim": manifest.dim,
        "precision": manifest.precision,
        "towers": [tower for tower in ("audio", "text") if getattr(manifest, tower) is not None],
        "languages": list(manifest.text.languages) if manifest.text else [],
        "bytes": sum(path.stat().st_size for path in bundle.folder.iterdir() if path.is_file()),
        "folder": str(bundle.folder),
    }


@bundle_app.command(epilog="Examples:\n\n  earshot bundle info starter\n\n  earshot bundle info ./clap-int8 --json")
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say what a bundle takes, how near it is to its original, and what was measured of it."""
    bundle = _open(name)
    manifest = bundle.manifest
    facts: dict[str, Any] = _row(manifest.name, bundle)
    if manifest.audio is not None:
        audio = manifest.audio
        facts["sound"] = f"{audio.sample_rate_hz} Hz, {audio.window_s:g} s every {audio.hop_s:g} s, pad {audio.pad}"
    if manifest.text is not None:
        facts["text"] = f"at most {manifest.text.max_tokens} tokens"
    facts |= {key: value for key, value in manifest.extra.items() if isinstance(value, str | int | float | dict)}
    if as_json:
        show.print_json(facts)
        return
    facts["size"] = f"{facts.pop('bytes') / 1e6:.1f} MB"
    for key, value in facts.items():
        for number, line in enumerate(lines_of(value)):
            show.say(f"{'' if number else key.replace('_', ' '):>17}  {line}")


def lines_of(fact: Any) -> list[str]:
    """A fact of a manifest as lines to read: numbers side by side, texts and what has parts below each other."""
    if isinstance(fact, dict):
        if set(fact) == {"name", "value", "low", "high", "count"}:
            return ["{name} {value:.3g} ({low:.3g} to {high:.3g})".format(**fact)]
        if all(isinstance(part, int | float) for part in fact.values()):
            return [
                ", ".join(
                    f"{name} {part:.3g}" if isinstance(part, float) else f"{name} {part}" for name, part in fact.items()
                )
            ]
        parts = {name.replace("_", " "): lines_of(part) for name, part in fact.items()}
        return [
            f"{name}: {line}" if number == 0 else f"  {line}"
            for name, lines in parts.items()
            for number, line in enumerate(lines)
        ]
    if isinstance(fact, list):
        if any(isinstance(part, dict) for part in fact):
            return [line for part in fact for line in lines_of(part)]
        return [", ".join(map(str, fact))]
    return [str(fact)]


@bundle_app.command(epilog="Example:\n\n  earshot bundle remove clap-htsat-unfused-int8")
def remove(
    name: Annotated[str, typer.Argument(help="A registered bundle's name.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Remove a registered bundle. Libraries made with it keep their vectors, but can't be searched until it is back."""
    from earshot.places import bundles_folder
    from engine import shelf
    from engine.bundle import known_bundles, require_free

    registered = {key: folder for key, folder in known_bundles(bundles_folder()).items() if key != "starter"}
    if name not in registered:
        raise BundleError(
            f"no registered bundle {name!r}",
            f"one of: {', '.join(sorted(registered)) or 'none are'}",
            "starter comes with earshot and stays",
        )
    folder = registered[name]
    require_free(folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    shelf.remove(folder)
    if as_json:
        show.print_json({"removed": name, "bytes": size})
        return
    show.say(f"removed {name}: {size / 1e6:.1f} MB")


def _open(name: str) -> Bundle:
    from earshot.places import bundles_folder, expanded
    from engine.bundle import open_bundle

    return open_bundle(expanded(name), bundles_folder())
