"""The guides are run as they are written: console blocks by a shell, python blocks by Python, in one folder.

Under a command stand pieces of what it must print.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from earshot.demo import write_sounds

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("guide.md", "operations.md", "fine-tune-on-your-library.md")
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "sounds"
    write_sounds(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, sounds: Path) -> Path:
    shutil.copytree(sounds, tmp_path / "sounds")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """A newcomer's: no library yet, this interpreter's `earshot` on the path, no colours, a wide screen."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EARSHOT_", "XDG_"))}
    return kept | {"HOME": str(home), "PATH": path, "NO_COLOR": "1", "COLUMNS": "160"}


def run(command: list[str], place: Path) -> str:
    result = subprocess.run(
        command, cwd=place, env=environment(place / "home"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, f"{command[-1]}\n{result.stdout}"
    return result.stdout


def run_console(block: str, place: Path) -> None:
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *expected = step.rstrip("\n").split("\n")
        printed = run(["bash", "-o", "pipefail", "-c", command], place)
        for piece in expected:
            assert piece.strip() in printed, f"$ {command}\nexpected {piece!r} in:\n{printed}"


@pytest.mark.parametrize("guide", GUIDES)
def test_guide_runs_as_written(guide: str, place: Path):
    blocks = BLOCK.findall((DOCS / guide).read_text(encoding="utf-8"))
    assert blocks, f"no code in {guide}"
    for language, block in blocks:
        if language == "console":
            run_console(block, place)
        else:
            run([sys.executable, "-W", "error", "-c", block], place)


@pytest.mark.parametrize("guide", GUIDES)
def test_what_is_not_run_says_so_before(guide: str):
    before, _, _ = (DOCS / guide).read_text(encoding="utf-8").partition("*Not run here:*")
    assert re.findall(r"^```(\S+)", before, re.MULTILINE) == [language for language, _ in BLOCK.findall(before)]
