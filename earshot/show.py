"""What the command line prints: tables for people, lines for pipes, clips for a DAW."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from engine.types import Moment
    from indexer.report import IndexReport
    from indexer.report import Progress as IndexProgress

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
NOTHING = "Nothing sounds like that."
_DRAW_EVERY_S = 0.2


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


def short_path(path: str, base: Path | None = None) -> str:
    """The path relative to ``base`` or to the current folder where it lies below it."""
    for folder in (base, Path.cwd()):
        if folder is not None and Path(path).is_relative_to(folder):
            return str(Path(path).relative_to(folder))
    return path


def moments_table(moments: Sequence[Moment], base: Path | None = None) -> Table:
    """One row a sound: how relevant, where to listen, in which file."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim")
    table.add_column("relevance")
    table.add_column("listen at", justify="right", no_wrap=True)
    table.add_column("of", justify="right", no_wrap=True, style="dim")
    table.add_column("file", overflow="fold")
    for rank, moment in enumerate(moments, 1):
        bar = "█" * round(moment.relevance * 8)
        file = Text(short_path(moment.path, base))
        if moment.title:
            file.append(f"  “{moment.title}”", style="dim")
        if len(moment.paths) > 1:
            file.append(f"  (+{len(moment.paths) - 1} copies)", style="dim")
        table.add_row(
            str(rank),
            Text(f"{moment.relevance:4.0%} ").append(f"{bar:<8}", style="green"),
            f"{clock(moment.start_s)} - {clock(moment.end_s)}",
            clock(moment.duration_s),
            file,
        )
    return table


def print_paths(moments: Sequence[Moment], end: str) -> None:
    """Paths alone, each followed by ``end`` (a NUL for ``xargs -0``)."""
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join((moment.path + end).encode("utf-8", "surrogateescape") for moment in moments))


@contextmanager
def index_progress(show: bool) -> Iterator[Callable[[IndexProgress], None]]:
    """One live line on stderr: files, files/s, audio hours an hour, time to go. Nothing where nobody watches."""
    if not (show and err.is_terminal):
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    with Progress(*columns, console=err, transient=True) as bar:
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
            total = progress.to_do_bytes if progress.scanned else None
            bar.update(task, description=line, completed=report.done_bytes, total=total)

        yield draw


def print_report(report: IndexReport) -> None:
    """What a run of ``index`` did, failures last so that they are seen."""
    news = f"{report.indexed} indexed"
    if report.copies:
        news += f" ({report.copies} of them known by content: copied, moved or renamed)"
    out.print(f"{news}, {report.skipped} unchanged, {len(report.failed)} failed", end="")
    out.print(f", {report.pruned} forgotten" if report.pruned else "")
    if report.audio_s:
        rate = report.audio_s / max(report.wall_s, 1e-6)
        out.print(f"heard {span(report.audio_s)} of sound in {span(report.wall_s)} ({rate:.0f} x real time)")
    if report.left_out:
        ranked = sorted(report.left_out.items(), key=lambda item: (-item[1], item[0]))
        out.print("left out: " + ", ".join(f"{count} {reason}" for reason, count in ranked), style="dim")
    if report.skipped_failed:
        out.print(f"{report.skipped_failed} still can't be heard: try them again with --retry-failed", style="yellow")
    for path, reason in report.failed[:20]:
        err.print(Text(f"failed: {path}: {reason}", style="red"), soft_wrap=True)
    if len(report.failed) > 20:
        err.print(f"… and {len(report.failed) - 20} more: earshot status --failed", style="red")
    if report.interrupted:
        err.print("Stopped. What was heard is kept: run the same command again to go on.", style="yellow")


def save_clips(moments: Sequence[Moment], folder: Path) -> list[Path]:
    """Cut every moment to a WAV file at the file's own rate and channels, for a DAW.

    Raises ``AudioError`` if a file can't be read any more.
    """
    import soundfile

    from engine.audio import read_stretch

    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for rank, moment in enumerate(moments, 1):
        samples, rate_hz = read_stretch(Path(moment.path), moment.start_s, moment.end_s)
        stem = re.sub(r"[^\w.-]+", "_", Path(moment.path).stem)[:80]
        target = folder / f"{rank:02d}_{stem}_{moment.start_s:.1f}s.wav"
        soundfile.write(target, samples, rate_hz, subtype="PCM_24")
        saved.append(target)
    return saved
