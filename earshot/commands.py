"""What the `earshot` command can do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from earshot import __version__, show
from earshot.bundles import bundle_app
from earshot.caption_commands import register as register_captions
from earshot.caption_eval import eval_app  # `earshot.evaluate`'s, with `captions` in it
from earshot.captioning import register as register_caption
from earshot.cli import EXIT_FAILED, EXIT_FAILED_FILES, EXIT_INTERRUPTED, STOPPED, Through, describe
from earshot.limits import MOST_RESULTS
from earshot.options import (
    BundleOption,
    DeviceChoice,
    DeviceOption,
    JsonOption,
    LibraryOption,
    open_library,
    patience_s,
)
from earshot.space_commands import Words, is_other_space, library_app, reindex
from earshot.train import train_app
from engine.errors import EarshotError, QueryError
from indexer.paths import path_text, text_path

if TYPE_CHECKING:
    from engine.types import Moment


class ByChoice(StrEnum):
    """By what sounds are found."""

    meaning = "meaning"
    keywords = "keywords"
    both = "both"


class _Commands(TyperGroup):
    """All commands; Ctrl-C and a closed pipe are left to ``earshot.cli``, which says how they end."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """Reads the command line."""
        try:
            return super().make_context(*args, **settings)
        except (KeyboardInterrupt, BrokenPipeError) as end:
            raise Through from end

    def invoke(self, ctx: Any) -> Any:
        """Does what it says."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as end:
            raise Through from end


app = typer.Typer(
    name="earshot",
    cls=_Commands,
    help="Find the sound you know you have: by words, or by another sound, with the moment inside the file.",
    epilog="Exit status: 0 all done, 1 could not run, 2 wrong usage, 3 some files failed, 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bundle_app, name="bundle")
app.add_typer(train_app, name="train")
app.add_typer(eval_app, name="eval")
app.add_typer(library_app, name="library")
register_captions(app)
register_caption(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"earshot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n  earshot index ~/Sounds\n\n  earshot index /mnt/archive --library archive --jobs 4\n\n"
    "  earshot index ~/Sounds --retry-failed --prune\n\n  earshot index ~/Sounds --caption\n\n"
    "  earshot index --bundle ./finetuned"
)
def index(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders.", show_default=False, readable=False)
    ] = None,
    library: LibraryOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = DeviceChoice.auto,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Decoding processes. \\[default: one a core]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try files again that failed before.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Forget files under PATHS that are gone.")] = False,
    prune_anyway: Annotated[
        bool,
        typer.Option("--prune-anyway", help="Forget them though they may only seem gone."),
    ] = False,
    caption: Annotated[
        bool, typer.Option("--caption", help="Put what is heard into words, too; also what was heard before.")
    ] = False,
    caption_again: Annotated[
        bool,
        typer.Option("--caption-again", help="Also what another captioner, or this one with another memory, has said."),
    ] = False,
    lang: Annotated[str | None, typer.Option("--lang", help="In which language: eng, fra, deu, spa, jpn …")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hear every new or changed sound below PATHS; known ones are skipped.

    Ctrl-C at any time loses nothing: the same command goes on where it stopped.

    With another --bundle than the library was made with, all that it knows is heard anew, and what is new below PATHS,
    if any are given. It answers as before until that is done; `earshot library rollback` goes back.
    """
    from earshot.places import expanded
    from indexer.scan import scan

    paths = paths or []
    if bundle is not None and is_other_space(library, bundle):
        words = Words(caption or caption_again, lang)
        reindex(library, bundle, paths, device, jobs, retry_failed, prune_anyway, words, as_json)
        return
    if lang is not None and not (caption or caption_again):
        raise QueryError("--lang without --caption", "a language of captions", "add --caption, or leave it out")
    known, prunes = _is_there(library), prune or prune_anyway
    if not paths and not ((caption or caption_again) and known and not prunes):
        raise typer.BadParameter(
            "expected files or folders; none are needed to hear a library anew, with --bundle, or to caption all of it"
        )
    if (caption or caption_again) and not known:
        _require_captioner(bundle, device, lang)  # before a library is made
    if not (prunes and known):  # then it may be asked for a folder that is gone
        scan([expanded(path) for path in paths])  # raises for one that is missing, before a library is made
    with open_library(library, bundle, device, create=True) as opened:
        with show.index_progress(not as_json) as draw:
            report = opened.index(
                paths,
                jobs=jobs,
                retry_failed=retry_failed,
                prune=prune,
                prune_anyway=prune_anyway,
                caption=caption,
                caption_again=caption_again,
                caption_lang=lang,
                wait_s=patience_s(as_json),
                on_wait=show.waiting,
                on_progress=draw,
            )
        for note in opened.notes:
            show.remark(note)
    if as_json:
        show.print_json(report.to_dict())
    else:
        show.print_report(report)
    if paths and report.is_empty and not report.pruned:
        show.nothing_found(paths)
    if report.interrupted:
        show.remark(STOPPED, style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.refused:
        show.error(report.refused)
        raise typer.Exit(EXIT_FAILED)
    if report.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


def _require_captioner(bundle: str | None, device: DeviceChoice, lang: str | None) -> None:
    from earshot.captioning import require_captioner
    from earshot.models import DEFAULT_BUNDLE, load_encoders

    require_captioner(load_encoders(bundle or DEFAULT_BUNDLE, device.value), lang)


def _is_there(library: str | None) -> bool:
    from earshot.keep import keep_at

    with closing(keep_at(library)) as keep:
        return keep.exists()


@app.command(
    epilog="Examples:\n\n  earshot search 'rain on a tin roof'\n\n  earshot search --audio door.wav -k 5\n\n"
    "  earshot search --audio hum.wav 'but with rain'\n\n"
    "  earshot search footsteps --filter 'duration<5' --filter 'path~foley'\n\n"
    "  earshot search siren --paths -0 | xargs -0 -n1 mpv\n\n  earshot search thunder --save-clips cuts/"
)
def search(
    words: Annotated[str | None, typer.Argument(help="What it sounds like.", show_default=False)] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", "-a", help="Find what sounds like this file.", readable=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=MOST_RESULTS, help="At most so many sounds.")] = 10,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", help="A condition, e.g. duration<5, path~ambience, format=wav. All must hold."),
    ] = None,
    min_relevance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out the less relevant. \\[default: the model's cutoff]"),
    ] = None,
    by: Annotated[
        ByChoice, typer.Option("--by", help="What it sounds like, the words of its tags and captions, or both.")
    ] = ByChoice.both,
    as_json: JsonOption = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print paths only, one a line.")] = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="With --paths: end each with NUL, for xargs -0.")] = False,
    save_clips: Annotated[
        Path | None, typer.Option(help="Cut the moments to WAV files in this folder.", readable=False)
    ] = None,
    library: LibraryOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = DeviceChoice.auto,
) -> None:
    """Find sounds by words, by another sound, or by both at once, each with the moment to listen to."""
    with open_library(library, bundle, device) as opened:
        moments = opened.search(
            words, audio=audio, k=k, filters=filters or (), min_relevance=min_relevance, by=by.value
        )
        empty = not moments and not opened.status().windows
        both = {"composed": "learnt" if opened.composes else "sum"} if words is not None and audio is not None else {}
        calibrated = opened.calibrated(words, audio)
        for remark in opened.remarks:
            show.remark(remark, style="yellow")
    if both.get("composed") == "sum":
        show.remark(show.ADDED)
    if moments and not calibrated:
        show.remark(show.UNCALIBRATED)
    if as_json:
        show.print_json([moment.to_dict() | both for moment in moments])
    elif paths or null:
        show.print_paths(moments, "\0" if null else "\n")
    elif moments:
        show.print_moments(moments)
    elif empty:
        show.say("The library is empty: fill it with `earshot index FOLDER`.")
    else:
        show.say(f"{show.NOTHING} See what comes nearest with --min-relevance 0.")
    if save_clips:
        _save_clips(moments, save_clips)


def _save_clips(moments: list[Moment], folder: Path) -> None:
    from earshot.clips import save_clips
    from earshot.places import expanded

    cut = save_clips(moments, expanded(folder))
    show.remark(f"{len(cut.saved)} clips in {folder}")
    show.print_failures("not cut", cut.failed, most=len(cut.failed))
    if cut.failed:
        raise typer.Exit(EXIT_FAILED_FILES)


@app.command(epilog="Examples:\n\n  earshot status\n\n  earshot status --failed --json")
def status(
    failed: Annotated[
        bool, typer.Option("--failed", help="List the files that could not be heard, or only in part, and why.")
    ] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the library holds; works while it is being filled."""
    with open_library(library) as opened:
        state = opened.status()
        rows = [{"path": path_text(row.path), "reason": str(row.reason)} for row in opened.failed()] if failed else []
        damaged = [{"path": path_text(path), "remark": text} for path, text in opened.damaged()] if failed else []
    if as_json:
        show.print_json(state.to_dict() | ({"failures": rows, "damaged": damaged} if failed else {}))
        return
    for name, value in state.to_dict().items():
        if name in ("remark", "captions", "generated", "previous", "filling") and not value:
            continue
        text = show.span(value) if name == "audio_s" else str(value)
        show.say(f"{name:>9}  {text}")
    for row in rows:
        show.say(f"{text_path(row['path'])}: {row['reason']}", style="red")
    for row in damaged:
        show.say(f"{text_path(row['path'])}: {row['remark']}", style="yellow")


@app.command(
    epilog="Examples:\n\n  earshot copy ~/.local/share/earshot/library /mnt/backup/library\n\n"
    "  earshot copy my-library http://localhost:6333\n\n  earshot copy http://localhost:6333 my-library"
)
def copy(
    source: Annotated[str, typer.Argument(help="The library to copy: its folder, or its server's URL.")],
    target: Annotated[str, typer.Argument(help="Where to: a place without a library, or an earlier copy of this one.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a library, vectors included: a backup, a move to a server, or a move back; nothing is heard again.

    Then all of it is compared. After Ctrl-C, or anything worse, the same command goes on where it stopped; done again
    later, it brings the copy up to date.
    """
    from earshot.copying import copy_library

    with show.copy_progress(not as_json) as draw:
        report = copy_library(source, target, wait_s=patience_s(as_json), on_wait=show.waiting, on_progress=draw)
    if as_json:
        show.print_json(report.to_dict())
    else:
        show.print_copy(report)


@app.command(epilog="Examples:\n\n  earshot demo\n\n  earshot demo ~/Sounds")
def demo(
    sounds: Annotated[
        Path | None, typer.Argument(help="Your own folder. \\[default: sounds made on the spot]", readable=False)
    ] = None,
) -> None:
    """Hear a few dozen made-up sounds, or a folder of yours, and search them in words."""
    from earshot.tour import run_tour

    run_tour(sounds)


@app.command(epilog="Examples:\n\n  earshot doctor\n\n  earshot doctor --device cuda")
def doctor(
    library: LibraryOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = DeviceChoice.auto,
    as_json: JsonOption = False,
) -> None:
    """Try device, bundle and memory, and say whether they are healthy."""
    try:
        checks = _examine(library, bundle, device)
    except (EarshotError, OSError, sqlite3.Error) as error:
        if not as_json:
            raise
        show.print_json({"healthy": False, "version": __version__, "problem": describe(error)})
        raise typer.Exit(EXIT_FAILED) from error
    if as_json:
        show.print_json({"healthy": True, "version": __version__, **checks})
        return
    for name, value in {"version": __version__, **checks}.items():
        if value:
            show.say(f"ok {name:>8}  {'; '.join(value) if isinstance(value, list) else value}", style="green")


@app.command(epilog="Examples:\n\n  earshot repair\n\n  earshot repair --library /mnt/archive/library --json")
def repair(library: LibraryOption = None, bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """Read the whole library, move what is damaged aside, and rebuild a ledger from the memory.

    Exit status 0: whole now; 3: sounds were lost that `earshot index` has to hear again.
    """
    from earshot.repair import repair as repair_library

    report = repair_library(library, bundle, show.remark)
    if as_json:
        show.print_json(report.to_dict())
    else:
        show.print_repair(report)
    if not report.is_whole:
        raise typer.Exit(EXIT_FAILED_FILES)


def _examine(library: str | None, bundle: str | None, device: DeviceChoice) -> dict[str, Any]:
    """What answered, part by part; a library that is not there yet is not made, and nothing is wrong with that."""
    from earshot.keep import keep_at
    from earshot.models import DEFAULT_BUNDLE, check_encoders, load_encoders

    keep = keep_at(library)
    if keep.exists():
        with open_library(library, bundle, device) as opened:
            return {"library": keep.name, **opened.check(), "notes": list(opened.notes)}
    encoders = load_encoders(bundle or DEFAULT_BUNDLE, device.value)
    checks = check_encoders(encoders)
    return {"library": f"none in {keep.name} yet", **checks, "memory": "", "notes": list(encoders.notes)}
