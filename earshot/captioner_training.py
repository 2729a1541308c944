"""`earshot train captioner`: what it is told, and what came of it."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from earshot import show
from earshot.cli import EXIT_FAILED_FILES
from earshot.options import JsonOption
from engine.errors import BundleError, LibraryError

EPILOG = (
    "Examples:\n\n  earshot train captioner captions.csv --out speaking\n\n"
    "  earshot train captioner captions.csv --bundle clap --pairs clotho --bridge practice --out speaking-clap\n\n"
    "Then:\n\n  earshot remember captions.csv --bundle speaking\n\n  earshot caption ~/Sounds --bundle speaking"
)


class BridgeChoice(StrEnum):
    """What bridges the gap between words and sounds."""

    noise = "noise"
    shift = "shift"
    adapter = "adapter"
    practice = "practice"


def captioner(
    texts: Annotated[
        list[Path],
        typer.Argument(help="Captions: .txt one a line, .csv, .json, .jsonl.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new bundle's folder; the run lies in OUT.run.")],
    bundle: Annotated[str, typer.Option("--bundle", help="The model whose vectors it learns to read.")] = "starter",
    lang: Annotated[str, typer.Option("--lang", help="The language of captions that name none.")] = "eng",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Batches of 64 captions.")] = 2000,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise", min=0, help="Standard deviation; for `--strategy audio` 0.06 is best. \\[default: 0.015]"
        ),
    ] = None,
    bridge: Annotated[
        BridgeChoice,
        typer.Option("--bridge", help="All but noise come before it and need --pairs; practice serves projection."),
    ] = BridgeChoice.noise,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Captioned sounds: see `earshot train check`.", readable=False)
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="WSAC's own sizes, 768 wide: slow on a CPU.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Teach a model to put sounds into words, from text alone. Ctrl-C loses nothing: the same command goes on.

    Writes a copy of the bundle with a captioner. Exit status 3: some captions were of no use.
    """
    from earshot.places import bundles_folder, expanded
    from earshot.remembering import RememberReport, checked_language, read_captions
    from earshot.train import trainer_extra
    from engine.bundle import open_bundle
    from engine.memory.captions import UNDETERMINED

    checked_language(lang)
    paths, target, report = [expanded(path) for path in texts], expanded(out), RememberReport()
    for path in paths:
        if not path.is_file():
            raise LibraryError(f"no file {path}", "a file of captions", "name files, not folders")
    opened = open_bundle(expanded(bundle), bundles_folder())
    if target.exists() and opened.manifest.space_id != _space_of(target):
        raise BundleError(f"something else in {target}", "no such folder yet", "choose another --out")
    said = list(dict.fromkeys(chain.from_iterable(read_captions(path, None, None, report) for path in paths)))
    with trainer_extra():
        from trainer.teach_captions import Lesson, teach

        lesson = Lesson(
            texts=[one.text for one in said],
            languages=[lang if one.language == UNDETERMINED else one.language for one in said],
            steps=steps,
            noise=noise,
            bridging=bridge.value,
            pairs=expanded(pairs) if pairs else None,
            paper=paper,
        )
        with redirect_stdout(sys.stderr):  # a line now and then on how it goes
            section = teach(lesson, opened, target)
    if as_json:
        show.print_json({"bundle": str(target), "captions": len(said), "captioner": section})
    else:
        show.say(f"{target}: has learnt from {show.many(len(said), 'caption')}, noise {section['sigma']:.3g}")
    show.print_failures("left out", report.reasons)
    if report.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


def _space_of(folder: Path) -> str:
    """The space of the bundle in a folder; empty if there is none."""
    from engine.bundle import open_bundle

    return open_bundle(folder).manifest.space_id if (folder / "manifest.json").is_file() else ""
