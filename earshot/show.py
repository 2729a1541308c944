"""What the command line prints: tables for people, lines for pipes.

File names and tags are other people's text: all that a person reads goes through ``printable``, so that no name can
move the cursor or forge a line. What a program reads (``--json``, ``--paths``) stays exact.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from indexer.paths import text_path

if TYPE_CHECKING:
    from earshot.copying import CopyProgress, CopyReport
    from earshot.repair import Repaired
    from engine.types import Moment
    from indexer.report import IndexReport
    from indexer.report import Progress as IndexProgress


class _Console(Console):
    """Leaves it to ``earshot.cli`` to say how a command ends whose reader has gone."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by Rich while it handles ``BrokenPipeError``."""
        raise BrokenPipeError


out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)
ADDED = "words and sound were added, each half of the question: this model has not learnt to put them together"
UNCALIBRATED = (
    "relevance is not calibrated for this model: it orders, and hides nothing (earshot bundle export --gate does it)"
)
NOTHING = "Nothing sounds like that."
#: Narrower than this, the table leaves out the bar and the length, for the sake of the names.
ROOMY_COLUMNS = 80
_DRAW_EVERY_S = 0.2
_NO_WRAP_COLUMNS = 1_000_000
_ASCII = str.maketrans({"█": "#", "“": '"', "”": '"', "…": "..."})
#: Controls, lone surrogates, line and paragraph separators, and marks that turn the direction of the text.
_UNPRINTABLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def printable(text: str) -> str:
    """The text with all that a terminal might obey, rather than show, as escapes such as ``\\x1b`` and ``\\n``."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE or character in _JOINERS:
        return character
    if "\udc80" <= character <= "\udcff":  # how Python carries a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def typeset(text: str, console: Console | None = None) -> str:
    """Bars, quotes and dots in ASCII where the terminal's encoding has no better."""
    try:
        "█“”…".encode((console or out).encoding)
    except (UnicodeError, LookupError):
        return text.translate(_ASCII)
    return text


def say(text: str, style: str = "") -> None:
    """One line for a person, never folded, as a name must be found by ``grep``."""
    out.print(Text(printable(typeset(text)), style=style), soft_wrap=True)


def remark(text: str, style: str = "dim") -> None:
    """One line on stderr, beside the answer."""
    err.print(Text(printable(typeset(text, err)), style=style), soft_wrap=True)


def error(text: str) -> None:
    """Why it could not be done."""
    remark(f"error: {text}", style="red")


def waiting(text: str) -> None:
    """For whom this command waits."""
    remark(f"{text}; Ctrl-C stops waiting" if err.is_terminal else text)


def nothing_found(paths: Sequence[Path]) -> None:
    """A run of ``index`` that met no sound at all."""
    where = ", ".join(map(str, paths))
    remark(f"no sounds found in {where}: expected files such as .wav, .flac, .mp3, .ogg or .m4a", style="yellow")


def print_json(value: Any) -> None:
    """JSON on stdout; what the encoding lacks is escaped as JSON does it."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, indent=2)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")  # a lone surrogate becomes \udcff


def clock(seconds: float) -> str:
    """Seconds as a person reads them on a player: 0:07.5, 12:30.0, 1:02:03.0."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def span(seconds: float) -> str:
    """A length of time in its two largest units: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short_path(text: str, base: Path | None = None) -> str:
    """A path as the library keeps it -> relative to ``base`` or to the current folder where it lies below it."""
    path = text_path(text)
    for folder in (base, _current_folder()):
        if folder is not None and path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # deleted under our feet
        return None


def print_moments(moments: Sequence[Moment], base: Path | None = None) -> None:
    """The table of an answer, as wide as the terminal; in a pipe every sound has one whole line."""
    if sys.stdout.isatty():
        out.print(moments_table(moments, base, roomy=out.width >= ROOMY_COLUMNS))
        return
    lines = io.StringIO()
    Console(file=lines, width=_NO_WRAP_COLUMNS, color_system=None).print(moments_table(moments, base))
    for line in lines.getvalue().rstrip("\n").split("\n"):
        out.print(Text(line.rstrip()), soft_wrap=True)


def moments_table(moments: Sequence[Moment], base: Path | None = None, roomy: bool = True) -> Table:
    """One row a sound: how relevant, where to listen, in which file."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim")
    table.add_column("relevance", no_wrap=True)
    table.add_column("listen at", justify="right", no_wrap=True)
    if roomy:
        table.add_column("of", justify="right", no_wrap=True, style="dim")
    table.add_column("file", overflow="fold")
    for rank, moment in enumerate(moments, 1):
        relevance = Text(f"{moment.relevance:4.0%}")
        if roomy:
            relevance.append(f" {typeset('█') * round(moment.relevance * 8):<8}", style="green")
        file = Text(printable(short_path(moment.path, base)))
        if moment.title:
            file.append(typeset(f"  “{printable(moment.title)}”"), style="dim")
        if moment.caption:
            unsure = "  (unsure)" if moment.caption_unsure else ""
            file.append(f"  {printable(moment.caption)}{unsure}", style="dim italic" if unsure else "italic")
        if len(moment.paths) > 1:
            file.append(f"  (+{len(moment.paths) - 1} copies)", style="dim")
        where = f"{clock(moment.start_s)} - {clock(moment.end_s)}"
        cells: list[str | Text] = [str(rank), relevance, where, clock(moment.duration_s), file]
        table.add_row(*cells if roomy else [*cells[:3], file])
    return table


def print_paths(moments: Sequence[Moment], end: str) -> None:
    """Paths alone, byte for byte, each followed by ``end`` (a NUL for ``xargs -0``)."""
    sys.stdout.flush()
    lines = (os.fsencode(text_path(moment.path)) + end.encode() for moment in moments)
    sys.stdout.buffer.write(b"".join(lines))


def _bar() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    return Progress(*columns, console=err, transient=True)


@contextmanager
def index_progress(show: bool) -> Iterator[Callable[[IndexProgress], None]]:
    """One live line on stderr: files, files/s, audio hours an hour, time to go. Nothing where nobody watches."""
    if not (show and err.is_terminal):
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("looking for sounds", total=None)
        drawn_at = 0.0

        def draw(progress: IndexProgress) -> None:
            nonlocal drawn_at
            if time.monotonic() - drawn_at < _DRAW_EVERY_S:
                return
            drawn_at = time.monotonic()
            report, eta_s = progress.report, progress.eta_s
            more = "" if progress.scanned else "+"
            line = (
                f"{report.done}/{progress.to_do_files}{more} files, {progress.files_per_s:.1f}/s, "
                f"{progress.audio_hours_per_hour:.0f} audio hours/h, "
                f"{'finding files' if eta_s is None else span(eta_s) + ' to go'}"
            )
            if report.captioned:
                line += f", {report.captioned} captioned"
            total = progress.to_do_bytes if progress.scanned else None
            bar.update(task, description=line, completed=report.done_bytes, total=total)

        yield draw


@contextmanager
def steps_progress(show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """One live line on stderr: the step, how many are done, and of how many. Nothing where nobody watches."""
    if not (show and err.is_terminal):
        yield lambda step, done, total: None
        return
    with _bar() as bar:
        task = bar.add_task("", total=None)

        def draw(step: str, done: int, total: int) -> None:
            bar.update(task, description=f"{step} {done}/{total}", completed=done, total=total)

        yield draw


def many(count: int, what: str) -> str:
    """How many of what there are, of a noun that takes an s."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@contextmanager
def counting(show: bool) -> Iterator[Callable[[str], None]]:
    """One live line on stderr, of which the end is not known. Nothing where nobody watches."""
    if not (show and err.is_terminal):
        yield lambda _: None
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda line: bar.update(task, description=line)


@contextmanager
def copy_progress(show: bool) -> Iterator[Callable[[CopyProgress], None]]:
    """One live line on stderr: what is being done, and how many windows of all. Nothing where nobody watches."""
    if not (show and err.is_terminal):
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("opening both", total=None)
        drawn = ("", 0.0)

        def draw(progress: CopyProgress) -> None:
            nonlocal drawn
            if progress.step == drawn[0] and time.monotonic() - drawn[1] < _DRAW_EVERY_S:
                return
            drawn = (progress.step, time.monotonic())
            line = f"{progress.step} {progress.done}/{progress.windows} windows"
            bar.update(task, description=line, completed=progress.done, total=progress.windows)

        yield draw


def print_copy(report: CopyReport) -> None:
    """What a copy did."""
    count = f"{report.written} of {report.windows} windows written, the others were there"
    say(f"{count}; {report.files} files, {report.failed} that could not be heard")
    say(
        f"compared: all windows, and the answers to {report.searches} searches. Took {span(report.wall_s)}.",
        style="dim",
    )


def print_report(report: IndexReport) -> None:
    """What a run of ``index`` did, failures last so that they are seen."""
    news = f"{report.indexed} indexed"
    if report.copies:
        news += f" ({report.copies} of them known by content: copied, moved or renamed)"
    news += f", {report.skipped} unchanged, {len(report.failed)} failed"
    news += f", {report.pruned} forgotten" if report.pruned else ""
    say(news + (f", {report.captioned} captioned" if report.captioned else ""))
    if report.audio_s:
        rate = report.audio_s / max(report.wall_s, 1e-6)
        say(f"heard {span(report.audio_s)} of sound in {span(report.wall_s)} ({rate:.0f} x real time)")
    if report.captioned_otherwise:
        others = f"{many(report.captioned_otherwise, 'sound')} with captions of another captioner, language or memory"
        say(f"{others} keep them: --caption-again makes new ones", style="dim")
    if report.left_out:
        ranked = sorted(report.left_out.items(), key=lambda item: (-item[1], item[0]))
        say("left out: " + ", ".join(f"{count} {reason}" for reason, count in ranked), style="dim")
    if report.skipped_failed:
        say(f"{report.skipped_failed} still can't be heard: try them again with --retry-failed", style="yellow")
    if report.lost:
        found = "those under these paths were heard again, for others index their folders again"
        say(f"the memory had lost {report.lost} sounds: {found}", style="yellow")
    print_failures("heard in part", report.damaged, "earshot status --failed")
    print_failures("failed", report.failed, "earshot status --failed")


def print_repair(report: Repaired) -> None:
    """What `repair` found and did, and what is left to do."""
    say(f"ledger: {report.ledger}; memory: {report.memory}; {report.windows} windows of {report.files} files")
    if report.aside:
        say(f"what was damaged lies in {report.aside}", style="dim")
    if report.captions != "whole":
        say("captions were damaged: remember them again with `earshot remember`", style="yellow")
    if report.unsound:
        say(f"{report.unsound} windows were not as they had been written", style="yellow")
    if not report.bundle:
        say("its bundle is not here: name it once with `earshot index --bundle`", style="yellow")
    if not report.is_whole:
        lost = f"{report.waiting} sounds" if report.waiting else "what was lost"
        say(f"run `earshot index` on your folders again: it hears {lost} anew", style="yellow")
    elif report.ledger != "whole":
        say("the next `earshot index` reads every file once, and knows it by its content")
    else:
        say("nothing to repair" if report.was_whole else "repaired", style="green")


def print_failures(what: str, failures: Sequence[tuple[str, str]], more: str = "", most: int = 20) -> None:
    """Each file with its reason on stderr; ``more`` is the command that shows those beyond ``most``."""
    for path, reason in failures[:most]:
        remark(f"{what}: {text_path(path)}: {reason}", style="red")
    if len(failures) > most:
        remark(f"… and {len(failures) - most} more" + (f": {more}" if more else ""), style="red")
