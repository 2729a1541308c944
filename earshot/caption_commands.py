"""`earshot remember`, `forget` and `export captions`: what is known of sounds in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earshot import show
from earshot.cli import EXIT_FAILED_FILES
from earshot.options import BundleOption, JsonOption, LibraryOption, open_library, patience_s

if TYPE_CHECKING:
    from earshot.remembering import RememberReport
    from engine.memory.captions import Said

LanguageOption = Annotated[
    str | None, typer.Option("--lang", help="Their language: three letters, as in ISO 639-3: eng, fra, deu, spa, jpn …")
]
SourceOption = Annotated[str | None, typer.Option("--source", help="Where they are from: a name of yours.")]
export_app = typer.Typer(help="Write what a library knows to files for other programs.", no_args_is_help=True)


def remember(
    texts: Annotated[
        list[Path],
        typer.Argument(help="Files: .txt one caption a line, .csv, .json, .jsonl.", show_default=False, readable=False),
    ],
    lang: LanguageOption = None,
    source: SourceOption = None,
    library: LibraryOption = None,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remember captions: sentences about sounds, upon which earshot's own captions are built.

    Each is kept once, with the vector of its words, its language and its source, which may also be columns of a CSV
    file (caption, lang, source) or keys in JSON. Ctrl-C loses nothing: the same command goes on where it stopped.
    """
    from earshot.places import expanded
    from earshot.remembering import RememberReport, checked_language, checked_source
    from engine.errors import LibraryError

    checked_language(lang)
    checked_source(source)
    paths = [expanded(path) for path in texts]
    for path in paths:
        if not path.is_file():
            raise LibraryError(f"no file {path}", "a file of captions", "name files, not folders")
    report = RememberReport()
    empty: list[Path] = []
    with open_library(library, bundle, create=True) as opened, _progress(not as_json) as draw:
        opened.remember(
            chain.from_iterable(_readable(path, lang, source, report, empty) for path in paths),
            report=report,
            wait_s=patience_s(as_json),
            on_wait=show.waiting,
            on_progress=draw,
        )
    for path in empty:
        show.remark(f"no caption in {path}: it is empty", style="yellow")
    if as_json:
        show.print_json(report.to_dict())
    else:
        news = f"{show.many(report.remembered, 'caption')} remembered"
        show.say(f"{news}, {report.known:,} known already, {report.failed:,} of no use")
        show.print_failures("left out", report.reasons)
    if report.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


def _readable(
    path: Path, lang: str | None, source: str | None, report: RememberReport, empty: list[Path]
) -> Iterator[Said]:
    """The captions of a file; of one that has none, and no line of no use, ``empty`` is told."""
    from earshot.remembering import read_captions

    failed, found = report.failed, False
    try:
        for one in read_captions(path, lang, source, report):
            found = True
            yield one
        if not found and report.failed == failed:
            empty.append(path)
    except OSError as error:
        report.fail(str(path), error)


def forget(
    source: SourceOption = None,
    lang: LanguageOption = None,
    library: LibraryOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before forgetting all.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget captions: those of a source, of a language, of both, or all that are remembered. Sounds stay.

    `--source generated` forgets what earshot itself said; the sounds keep their captions, and `earshot index
    --caption-again` remembers them again.
    """
    with open_library(library) as opened:
        if not (source or lang or yes):
            _confirm(opened.remembers())
        forgotten = opened.forget(source=source, lang=lang, wait_s=patience_s(as_json), on_wait=show.waiting)
    if as_json:
        show.print_json({"forgotten": forgotten})
    else:
        show.say(f"{show.many(forgotten, 'caption')} forgotten")


def _confirm(count: int) -> None:
    """Ask whether all is to be forgotten. Raises ``typer.Abort`` if not, ``QueryError`` if nobody can answer."""
    from engine.errors import QueryError

    nobody = QueryError("nobody to answer on stdin", "yes or no", "to forget all that is remembered, say --yes")
    if sys.stdin is None:
        raise nobody
    try:
        typer.confirm(f"Forget all that is remembered, {show.many(count, 'caption')}?", abort=True, err=True)
    except typer.Abort as error:
        if isinstance(error.__context__, EOFError):
            raise nobody from None
        raise


class FormatChoice(StrEnum):
    """How captions are written."""

    csv = "csv"
    json = "json"
    sidecar = "sidecar"


@export_app.command(
    epilog="Examples:\n\n  earshot export captions > captions.csv\n\n"
    "  earshot export captions --format json --out captions.json\n\n  earshot export captions --format sidecar"
)
def captions(
    form: Annotated[
        FormatChoice,
        typer.Option("--format", help="A row a moment; a list of sounds; or NAME.EXT.caption.txt beside each sound."),
    ] = FormatChoice.csv,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file, or the folder of sidecars. \\[default: stdout, or beside the sounds]"),
    ] = None,
    library: LibraryOption = None,
    bundle: BundleOption = None,
) -> None:
    """Write what `earshot index --caption` has said of the sounds: where in each, what, and how sure."""
    from earshot.caption_export import export_captions
    from earshot.places import expanded

    with open_library(library, bundle) as opened:
        where = expanded(out) if out is not None else None
        report = export_captions(opened.captions(), form.value, where, sys.stdout)
    if not report.sounds:
        show.remark("no sound has captions yet: `earshot index FOLDER --caption` makes them", style="yellow")
    elif out is not None or form is FormatChoice.sidecar:
        show.remark(f"{show.many(report.captions, 'caption')} of {show.many(report.sounds, 'sound')} written")
    show.print_failures("not written", report.failed, most=len(report.failed))
    if report.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[RememberReport], None]]:
    """One live line on stderr; nothing where nobody watches."""
    with show.counting(wanted) as count:
        yield lambda report: count(f"{show.many(report.read, 'caption')} read, {report.remembered:,} of them new")


def register(app: typer.Typer) -> None:
    """Add these commands to the others."""
    app.command(
        epilog="Examples:\n\n  earshot remember captions.txt --lang eng\n\n"
        "  earshot remember clotho.csv audiocaps.json --source corpora"
    )(remember)
    app.command(epilog="Examples:\n\n  earshot forget --source corpora\n\n  earshot forget --yes")(forget)
    app.add_typer(export_app, name="export")
