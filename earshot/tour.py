"""`earshot demo`: from nothing to answers, in a library of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs

from earshot import show
from earshot.demo import QUERIES, write_sounds
from earshot.library import DEFAULT_BUNDLE, Library
from engine.bundle import open_bundle

RESULTS = 3


def run_tour(sounds: Path | None = None) -> None:
    """Make sounds (or take a folder), index them, and run half a dozen searches.

    Raises ``LibraryError`` if ``sounds`` is missing.
    """
    base = Path(platformdirs.user_cache_dir("earshot")) / "demo"
    if sounds is None:
        sounds = base / "sounds"
        if not sounds.is_dir():
            made = write_sounds(base / "unfinished")
            (base / "unfinished").rename(sounds)
            show.out.print(f"Made {len(made)} sounds in {sounds}", soft_wrap=True)
    sounds = sounds.absolute()
    key = f"{sounds} in {open_bundle(DEFAULT_BUNDLE).manifest.space_id}"
    folder = base / f"library-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with Library(folder) as library:
        with show.index_progress(True) as draw:
            report = library.index([sounds], prune=True, on_progress=draw)
        show.print_report(report)
        for query in QUERIES:
            moments = library.search(query, k=RESULTS)
            show.out.print(f"\n[bold]earshot search[/] [cyan]“{query}”[/]")
            show.out.print(show.moments_table(moments, sounds) if moments else f"  {show.NOTHING}")
    show.out.print("\nNow your own: [bold]earshot index ~/Sounds && earshot search “a door slams shut”[/]")
    show.out.print(f"Or go on with these: [bold]earshot search “…” --library {folder}[/]", soft_wrap=True)
