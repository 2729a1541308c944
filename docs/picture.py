"""Draws docs/picture.svg: what `earshot demo` answers. Run: python docs/picture.py"""

from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from earshot import Library
from earshot.demo import QUERIES, write_sounds
from earshot.show import moments_table

SHOWN = 3
console = Console(record=True, width=96, file=StringIO())
with TemporaryDirectory() as folder:
    sounds = Path(folder) / "sounds"
    write_sounds(sounds)
    with Library(Path(folder) / "library") as library:
        library.index([sounds])
        for query in QUERIES[:SHOWN]:
            console.print(f"$ earshot search “{query}” -k 3", style="bold")
            console.print(moments_table(library.search(query, k=3), sounds), end="\n\n")
console.save_svg(str(Path(__file__).parent / "picture.svg"), title="earshot")
