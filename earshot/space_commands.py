"""`earshot library …`, and what `earshot index --bundle` does where the library was made with another one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from earshot import show
from earshot.cli import EXIT_FAILED, EXIT_FAILED_FILES, EXIT_INTERRUPTED, STOPPED
from earshot.options import DeviceChoice, JsonOption, LibraryOption, open_library, patience_s

if TYPE_CHECKING:
    from earshot.reindexing import ReindexReport

library_app = typer.Typer(
    help="The spaces of a library: the one that answers, and the one before.", no_args_is_help=True
)


@library_app.command(epilog="Example:\n\n  earshot library rollback")
def rollback(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Answer with the bundle of before the last `index --bundle` again. Done twice, it goes forth again.

    The library knows then what it knew then; the next `index` hears what has come since.
    """
    with open_library(library) as opened:
        before = opened.space_id
        space_id = opened.rollback(wait_s=patience_s(as_json), on_wait=show.waiting)
    if as_json:
        show.print_json({"space_id": space_id, "previous": before})
        return
    show.say(f"{space_id} answers again; {before} is kept")


@library_app.command("forget-old", epilog="Example:\n\n  earshot library forget-old")
def forget_old(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """Remove the space of before, and one that was never finished: there is no way back then."""
    with open_library(library) as opened:
        names = opened.forget_previous()
    if as_json:
        show.print_json({"removed": names})
        return
    show.say(f"removed {', '.join(names)}" if names else "nothing to remove: there is one space only")


def is_other_space(library: str | None, bundle: str) -> bool:
    """Whether there is a library of another space than the bundle's. Raises ``BundleError``."""
    from earshot.keep import keep_at
    from earshot.places import LEDGER, bundles_folder, expanded
    from earshot.spaces import SPACE
    from engine.bundle import open_bundle
    from indexer.ledger import Ledger

    with closing(keep_at(library)) as keep:
        if not (keep.folder / LEDGER).is_file():
            return False
        with closing(Ledger(keep.folder / LEDGER)) as ledger:
            known = ledger.setting(SPACE)
    return known is not None and open_bundle(expanded(bundle), bundles_folder()).manifest.space_id != known


@dataclass(frozen=True, slots=True)
class Words:
    """Whether all is to be captioned in the new space, and in which language."""

    wanted: bool
    lang: str | None


def reindex(
    library: str | None,
    bundle: str,
    paths: Sequence[Path],
    device: DeviceChoice,
    jobs: int | None,
    retry_failed: bool,
    even_if_gone: bool,
    words: Words,
    as_json: bool,
) -> None:
    """Hear all of a library anew, say what came of it, and exit as `index` does."""
    from earshot.library import Library

    with Library(library, device=device.value, create=False) as opened, show.index_progress(not as_json) as draw:
        report = opened.reindex(
            bundle,
            paths,
            jobs=jobs,
            retry_failed=retry_failed,
            even_if_gone=even_if_gone,
            caption=words.wanted,
            caption_lang=words.lang,
            wait_s=patience_s(as_json),
            on_wait=show.waiting,
            on_progress=draw,
            say=show.remark,
        )
    if as_json:
        show.print_json(report.to_dict())
    else:
        show.print_report(report.index)
        _say_what_came_of_it(report)
    if report.index.interrupted:
        show.remark(STOPPED, style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.index.refused:
        show.error(report.index.refused)
        raise typer.Exit(EXIT_FAILED)
    if report.index.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


def _say_what_came_of_it(report: ReindexReport) -> None:
    if report.gone:
        kept = f"only {report.previous} has their sound, until the next time or `earshot library forget-old`"
        show.say(f"{len(report.gone)} known files are gone and could not be heard anew: {kept}", style="yellow")
        show.print_failures("gone", [(path, "not heard anew") for path in report.gone])
    if report.switched and report.uncaptioned:
        why = f": {report.reason}" if report.reason else ""
        show.say(
            f"{show.many(report.uncaptioned, 'sound')} had captions, and has none here yet{why}; "
            "`earshot index --caption` makes them",
            style="yellow",
        )
    if report.switched:
        show.say(f"{report.space_id} answers now; `earshot library rollback` goes back to {report.previous}")
    else:
        show.say(f"{report.previous} answers as before; the same command goes on", style="yellow")
