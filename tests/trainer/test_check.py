"""What a check finds in the sounds themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.clips import write_clip, write_lines
from trainer.check import check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        write_clip(tmp_path / f"{seed}.wav", 8000 * (seed + 1), seed)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing of the kind")
    (tmp_path / "empty.wav").write_bytes(b"")
    return tmp_path


def test_problems_come_with_their_lines(folder):
    rows = [
        {"audio": "0.wav", "captions": "one"},
        {"audio": "1.wav", "captions": ["two", {"text": "zwei", "lang": "deu"}]},
        {"audio": "copy.wav", "captions": "three", "split": "test"},
        {"audio": "gone.wav"},
        {"audio": "bad.wav"},
        {"audio": "empty.wav", "captions": ""},
        {"audio": "./0.wav", "captions": "four"},
    ]
    steps = []
    report = check(write_lines(folder / "m.jsonl", rows), lambda *step: steps.append(step))
    assert [(problem.place.line, problem.kind) for problem in report.problems] == [
        (3, "one clip on two splits"),
        (4, "missing file"),
        (5, "unreadable audio"),
        (6, "empty caption"),
        (6, "unreadable audio"),
    ]
    assert (report.clips, report.labelled) == (6, 3)
    assert report.hours == pytest.approx((1 + 2) / 3600)
    assert (report.captions, report.splits) == ({"eng": 4, "deu": 1}, {"train": 5, "test": 1})
    assert {step for step, _, _ in steps} == {"hashing", "decoding"}
    assert all(done <= total for _, done, total in steps)


def test_a_copy_on_the_same_split_counts_twice(folder):
    report = check(write_lines(folder / "m.jsonl", [{"audio": "1.wav"}, {"audio": "copy.wav"}]))
    assert [(problem.place.line, problem.kind) for problem in report.problems] == [(2, "duplicate sound")]


def earshot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "earshot", *arguments], capture_output=True, text=True)


def test_the_command_tells_clean_from_problems_from_unreadable(folder):
    clean = earshot("train", "check", str(write_lines(folder / "clean.jsonl", [{"audio": "0.wav", "captions": "x"}])))
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "1, 1 of them with captions" in clean.stdout
    wrong = earshot("train", "check", str(write_lines(folder / "m.jsonl", [{"audio": "bad.wav"}])), "--json")
    assert (wrong.returncode, wrong.stderr) == (3, "")
    [problem] = json.loads(wrong.stdout)["problems"]
    assert (problem["line"], problem["kind"]) == (1, "unreadable audio")
    gone = earshot("train", "check", str(folder / "gone.jsonl"), "--json")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "gone.jsonl" in gone.stderr


BLOCKED = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from trainer.check import check
print(check(Path(sys.argv[1])).clips)
"""


def test_no_torch_is_needed(folder):
    path = write_lines(folder / "m.jsonl", [{"audio": "0.wav"}])
    result = subprocess.run([sys.executable, "-c", BLOCKED, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


LEAN = """
import sys
sys.modules["pycountry"] = None
sys.argv[0] = "earshot"
from earshot.cli import main
main()
"""


def test_without_the_extra_the_command_says_which_it_needs(folder):
    path = write_lines(folder / "m.jsonl", [{"audio": "0.wav", "captions": "x"}])
    command = [sys.executable, "-c", LEAN, "train", "check", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install 'earshot[train]'" in result.stderr
