"""The command line as a person and a program meet it, on the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot.lock import LibraryLock
from tests.sounds import noise, tone, write_sound


class Shell:
    """Runs `earshot` in a process of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sounds = folder / "sounds"
        write_sound(self.sounds / "hiss.wav", noise(3.0, rate_hz=16_000), rate_hz=16_000, title="A hiss")
        write_sound(
            self.sounds / "tones" / "Beep one.flac", tone(5.0, rate_hz=44_100, hz=1000, channels=2), rate_hz=44_100
        )

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "earshot", *arguments],
            cwd=self.folder,
            env={
                "HOME": str(self.folder),
                "EARSHOT_LIBRARY": str(self.folder / "lib"),
                "COLUMNS": "120",
                "LANG": "C.UTF-8",
            },
            capture_output=True,
            text=True,
        )
        assert result.returncode == status, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def json(self, *arguments: str, status: int = 0) -> object:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("indexed"))
    shell.run("index", "sounds")
    return shell


def test_index_json_has_the_promised_keys(shell: Shell):
    report = shell.json("index", "sounds")
    assert isinstance(report, dict)
    assert (report["indexed"], report["skipped"], report["failed"]) == (2, 0, [])
    assert report["audio_s"] == pytest.approx(8.0)
    assert report["windows"] > 0
    assert report["wall_s"] > 0
    assert set(report["stages_s"]) >= {"scan", "decode", "encode", "write"}
    again = shell.json("index", "sounds")
    assert isinstance(again, dict)
    assert (again["indexed"], again["skipped"], again["windows"]) == (0, 2, 0)


def test_a_failed_file_gives_exit_status_3_and_is_listed(shell: Shell):
    (shell.sounds / "text.wav").write_text("no sound")
    report = shell.json("index", "sounds", status=3)
    assert isinstance(report, dict)
    [failed] = report["failed"]
    assert failed["path"].endswith("text.wav")
    assert "expected" in failed["reason"]
    status = shell.json("status", "--failed")
    assert isinstance(status, dict)
    assert status["failed"] == 1
    assert status["failures"][0]["path"].endswith("text.wav")
    shell.json("index", "sounds")
    shell.json("index", "sounds", "--retry-failed", status=3)


def test_status_json_has_the_promised_keys(indexed: Shell):
    status = indexed.json("status")
    assert isinstance(status, dict)
    assert set(status) == {"files", "windows", "failed", "audio_s", "space_id", "memory"}
    assert status["space_id"].startswith("starter@")


def test_search_json_has_the_promised_keys(indexed: Shell):
    found = indexed.json("search", "beep", "--min-relevance", "0")
    assert isinstance(found, list)
    assert len(found) == 2
    keys = {"path", "paths", "start_s", "end_s", "score", "relevance", "duration_s", "title", "caption"}
    assert all(set(hit) == keys for hit in found)
    assert all(0 <= hit["relevance"] <= 1 and hit["start_s"] < hit["end_s"] <= hit["duration_s"] for hit in found)


def test_search_by_sound_finds_itself_first(indexed: Shell):
    found = indexed.json("search", "--audio", "sounds/hiss.wav", "-k", "1")
    assert isinstance(found, list)
    assert found[0]["title"] == "A hiss"
    assert found[0]["score"] > 0.99


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("duration<4", ["hiss.wav"]),
        ("path~BEEP", ["Beep one.flac"]),
        ("channels=2", ["Beep one.flac"]),
        ("title=a HISS", ["hiss.wav"]),
    ],
)
def test_filters(indexed: Shell, condition: str, names: list[str]):
    found = indexed.json("search", "a sound", "--filter", condition, "--min-relevance", "0")
    assert isinstance(found, list)
    assert [Path(hit["path"]).name for hit in found] == names


def test_paths_are_for_pipes(indexed: Shell):
    lines = indexed.run("search", "beep", "--min-relevance", "0", "--paths").stdout.splitlines()
    assert len(lines) == 2
    assert all(Path(line).is_file() for line in lines)
    nul = indexed.run("search", "beep", "--min-relevance", "0", "--paths", "-0").stdout
    assert nul.count("\0") == 2
    assert "\n" not in nul


def test_save_clips_cuts_moments_at_the_files_own_rate(indexed: Shell):
    [hit] = indexed.json(
        "search", "beep", "-k", "1", "--filter", "path~beep", "--min-relevance", "0", "--save-clips", "cuts"
    )  # type: ignore[misc]
    [cut] = sorted((indexed.folder / "cuts").iterdir())
    samples, rate_hz = soundfile.read(cut)
    assert rate_hz == 44_100
    assert samples.shape == (round((hit["end_s"] - hit["start_s"]) * 44_100), 2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.01)


def test_nothing_sounds_like_that(indexed: Shell):
    result = indexed.run("search", "a dog barking", "--min-relevance", "1")
    assert "Nothing sounds like that" in result.stdout
    assert indexed.json("search", "a dog barking", "--min-relevance", "1") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("search", "rain", "--library", "nowhere"), "no library"),
        (("search", "   "), "empty text"),
        (("search",), "either words or a sound"),
        (("search", "rain", "--audio", "sounds/hiss.wav"), "either words or a sound"),
        (("search", "--audio", "missing.wav"), "No such file"),
        (("search", "rain", "--filter", "loudness<3"), "one of"),
        (("search", "rain", "--filter", "duration<long"), "a number"),
        (("index", "missing-folder"), "missing-folder"),
        (("index", "sounds", "--bundle", "nonsense"), "starter"),
        (("index", "sounds", "--device", "cuda"), "cpu"),
    ],
)
def test_errors_say_what_to_do_and_exit_with_1(indexed: Shell, arguments: tuple[str, ...], says: str):
    result = indexed.run(*arguments, status=1)
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [("serch",), ("search", "x", "-k", "0"), ("index",), ("search", "x", "--min-relevance", "2")]
)
def test_wrong_usage_exits_with_2(indexed: Shell, arguments: tuple[str, ...]):
    indexed.run(*arguments, status=2)


def test_an_empty_library_says_how_to_fill_it(shell: Shell):
    (shell.folder / "empty").mkdir()
    shell.run("index", "empty")
    assert "earshot index" in shell.run("search", "rain").stdout


def test_a_held_library_is_named_with_its_holder(shell: Shell):
    shell.run("index", "sounds")
    lock = LibraryLock(shell.folder / "lib", wait_s=0)
    try:
        result = shell.run("index", "sounds", status=1)
        assert "held by process" in result.stderr
        shell.run("status")
    finally:
        lock.release()
    shell.run("index", "sounds")


def test_doctor_and_bundle_list(indexed: Shell):
    assert "self-test passed" in indexed.run("doctor").stdout
    [bundle] = indexed.json("bundle", "list")  # type: ignore[misc]
    assert (bundle["name"], bundle["languages"]) == ("starter", ["eng"])


def test_demo_of_a_folder(indexed: Shell):
    printed = indexed.run("demo", "sounds").stdout
    assert "2 indexed" in printed
    assert printed.count("earshot search") >= 6


def test_version_and_help(indexed: Shell):
    assert indexed.run("--version").stdout.startswith("earshot 0.")
    assert "Exit status" in indexed.run("--help").stdout
