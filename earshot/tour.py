"""`earshot demo`: from nothing to answers, in a library of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs
from rich.text import Text

from earshot import show
from earshot.demo import QUERIES, write_sounds
from earshot.library import Library
from earshot.models import DEFAULT_BUNDLE
from earshot.places import expanded
from engine.bundle import open_bundle
from indexer.scan import scan

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
            show.say(f"Made {len(made)} sounds in {sounds}")
    sounds = expanded(sounds).absolute()
    scan([sounds])  # raises if it is missing, before a library is made
    key = f"{sounds} in {open_bundle(DEFAULT_BUNDLE).manifest.space_id}"
    folder = base / f"library-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    with Library(folder) as library:
        with show.index_progress(True) as draw:
            report = library.index([sounds], prune_anyway=True, on_progress=draw)
        show.print_report(report)
        if report.is_empty:
            show.nothing_found([sounds])
            return
        for query in QUERIES:
            moments = library.search(query, k=RESULTS)
            _show_command(f"search “{query}”")
            if moments:
                show.print_moments(moments, sounds)
            else:
                show.say(f"  {show.NOTHING}")
    show.out.print()
    show.say("Now your own: earshot index ~/Sounds && earshot search “a door slams shut”")
    show.say(f"Or go on with these: earshot search “…” --library {folder}")


def _show_command(rest: str) -> None:
    show.out.print()
    show.out.print(Text.assemble(("earshot ", "bold"), (show.typeset(rest), "cyan")), soft_wrap=True)
