"""The command line as a person and a program meet it, on the shipped model.

How it meets the system (signals, pipes, encodings) is in test_cli_process.py.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from earshot import cli, show
from earshot.limits import MOST_RESULTS
from earshot.lock import LibraryLock
from engine.bundle import open_bundle
from engine.types import Moment
from indexer.report import IndexReport
from tests.sounds import noise, tone, write_sound

HOSTILE = "bell\x07 \x1b]0;title\x07\nforged line.wav"

#: Whether the shipped starter has learnt to put words and a sound together.
COMPOSES = open_bundle("starter").manifest.compose is not None


class Result:
    """What one command printed."""

    def __init__(self, stdout: bytes, stderr: bytes) -> None:
        self.raw = stdout
        self.stdout, self.stderr = stdout.decode("utf-8", "backslashreplace"), stderr.decode("utf-8")


class Shell:
    """Runs `earshot` in a folder of its own, as its console script does, but in this process to save its start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sounds = folder / "sounds"
        write_sound(self.sounds / "hiss.wav", noise(3.0, rate_hz=16_000), rate_hz=16_000, title="A hiss")
        write_sound(
            self.sounds / "tones" / "Beep one.flac", tone(5.0, rate_hz=44_100, hz=1000, channels=2), rate_hz=44_100
        )

    def run(self, *arguments: str, status: int = 0) -> Result:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        home = {"HOME": str(self.folder), "EARSHOT_LIBRARY": str(self.folder / "lib"), "COLUMNS": "160"}
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            for name in [name for name in os.environ if name.startswith(("EARSHOT_", "XDG_"))]:
                patch.delenv(name)
            for name, value in home.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["earshot", *arguments])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                cli.main()
            out.flush()
            err.flush()
        result = Result(out.buffer.getvalue(), err.buffer.getvalue())  # type: ignore[attr-defined]
        assert end.value.code == status, f"exit {end.value.code}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
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
    counts, names = {"files", "windows", "failed", "lost", "audio_s", "captions"}, {"space_id", "previous", "filling"}
    assert set(status) == counts | names | {"memory", "remark", "generated"}
    assert status["space_id"].startswith("starter@")


def test_search_json_has_the_promised_keys(indexed: Shell):
    found = indexed.json("search", "beep", "--min-relevance", "0")
    assert isinstance(found, list)
    assert len(found) == 2
    keys = {"path", "paths", "start_s", "end_s", "score", "relevance", "duration_s", "title", "by"}
    keys |= {"caption", "caption_score", "caption_unsure", "caption_by"}
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


def test_words_with_a_sound(indexed: Shell):
    found = indexed.run("search", "with rain", "--audio", "sounds/hiss.wav", "--min-relevance", "0", "--json")
    assert {row["composed"] for row in json.loads(found.stdout)} == {"learnt" if COMPOSES else "sum"}
    assert ("were added" in found.stderr) != COMPOSES
    assert "composed" not in indexed.json("search", "rain", "--min-relevance", "0")[0]


def test_nothing_sounds_like_that(indexed: Shell):
    result = indexed.run("search", "a dog barking", "--min-relevance", "1")
    assert "Nothing sounds like that" in result.stdout
    assert indexed.json("search", "a dog barking", "--min-relevance", "1") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("search", "rain", "--library", "nowhere"), "no library"),
        (("search", "   "), "empty text"),
        (("search",), "words, a sound, or both"),
        (("search", "--audio", "missing.wav"), "missing.wav"),
        (("search", "rain", "--filter", "loudness<3"), "one of"),
        (("search", "rain", "--filter", "duration<long"), "a number"),
        (("index", "missing-folder"), "missing-folder"),
        (("index", "sounds", "--bundle", "nonsense"), "starter"),
        (("index", "sounds", "--device", "cuda"), "cpu"),
    ],
)
def test_errors_say_what_to_do_and_exit_with_1(
    indexed: Shell, arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("engine.session.why_no_cuda", lambda: "no CUDA here")
    result = indexed.run(*arguments, status=1)
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("serch",),
        ("search", "x", "-k", "0"),
        ("search", "x", "-k", str(MOST_RESULTS + 1)),
        ("index",),
        ("search", "x", "--min-relevance", "2"),
    ],
)
def test_wrong_usage_exits_with_2(indexed: Shell, arguments: tuple[str, ...]):
    indexed.run(*arguments, status=2)


def test_an_empty_library_says_how_to_fill_it(shell: Shell):
    (shell.folder / "empty").mkdir()
    assert "no sounds found in empty: expected files such as .wav" in shell.run("index", "empty").stderr
    assert "no sounds found" in shell.run("demo", "empty").stderr
    assert "no sounds found" not in shell.run("index", "empty", "sounds", "--library", "other").stderr
    assert "earshot index" in shell.run("search", "rain").stdout


def test_a_held_library_is_named_with_its_holder(indexed: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("earshot.limits.WAIT_S", 0.0)
    lock = LibraryLock.take(indexed.folder / "lib")
    assert lock
    lock.say("indexing", None)
    try:
        assert "held by process" in indexed.run("index", "sounds", status=1).stderr
        indexed.run("status")
    finally:
        lock.release()
    indexed.run("index", "sounds")


def test_a_run_stopped_by_ctrl_c_says_so(indexed: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.pipeline.index", lambda *_: IndexReport(interrupted=True))
    assert cli.STOPPED in indexed.run("index", "sounds", status=130).stderr
    assert cli.STOPPED in indexed.run("index", "sounds", "--json", status=130).stderr


def test_doctor_and_bundle_list(indexed: Shell):
    assert "self-test passed" in indexed.run("doctor").stdout
    [bundle] = indexed.json("bundle", "list")  # type: ignore[misc]
    assert (bundle["name"], bundle["languages"]) == (
        "starter",
        ["eng", "fra", "deu", "spa", "nld", "cat", "jpn", "zho"],
    )


def test_demo_of_a_folder(indexed: Shell):
    printed = indexed.run("demo", "sounds").stdout
    assert "2 indexed" in printed
    assert printed.count("earshot search") >= 6


def test_version_and_help(indexed: Shell):
    assert indexed.run("--version").stdout.startswith("earshot 0.")
    assert "Exit status" in indexed.run("--help").stdout


def test_help_shows_the_defaults(indexed: Shell):
    text = " ".join(indexed.run("search", "--help").stdout.replace("│", " ").split())
    for default in ("[default: 10]", "[default: your own]", "[default: the library's own, or starter]"):
        assert default in text
    assert "[default: one a core]" in " ".join(indexed.run("index", "--help").stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "missing-folder"),
        ("index", "missing-folder", "--prune"),
        ("index", "missing-folder", "--prune-anyway"),
        ("index", "sounds", "--bundle", "nonsense"),
        ("index", "sounds", "--device", "cuda"),
        ("status",),
        ("search", "rain"),
    ],
)
def test_what_is_refused_leaves_no_library(indexed: Shell, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.session.why_no_cuda", lambda: "no CUDA here")
    indexed.run(*arguments, "--library", "refused/lib", status=1)
    assert not (indexed.folder / "refused").exists()


@pytest.mark.parametrize("address", ["localhost:6333", "10.0.0.1:6333/qdrant", "[::1]:6333", "ftp://archive/sounds"])
def test_what_looks_like_an_address_is_no_folder(indexed: Shell, address: str):
    for command in (("index", "sounds"), ("status",), ("search", "rain"), ("doctor",), ("repair",)):
        said = indexed.run(*command, "--library", address, status=1).stderr
        assert said.startswith(f"error: found '{address}', which looks like a server's address; expected http://")
    indexed.run("copy", "lib", address, status=1)
    assert not (indexed.folder / address.partition("/")[0]).exists()


def test_a_folder_may_have_the_name_of_an_address(shell: Shell):
    (shell.folder / "take:1").mkdir()
    shell.run("index", "sounds", "--library", "take:1")
    shell.run("index", "sounds", "--library", "./take:2")
    assert "files  2" in shell.run("status", "--library", "take:2").stdout


def test_doctor_makes_no_library_and_puts_its_finding_in_json(indexed: Shell):
    healthy = indexed.json("doctor", "--library", "nowhere")
    assert isinstance(healthy, dict)
    assert healthy["healthy"] is True
    assert "none in" in healthy["library"]
    assert "self-test passed" in healthy["bundle"]
    assert not (indexed.folder / "nowhere").exists()
    assert "none in" in indexed.run("doctor", "--library", "nowhere").stdout
    ill = indexed.json("doctor", "--bundle", "nonsense", status=1)
    assert isinstance(ill, dict)
    assert ill["healthy"] is False
    assert "nonsense" in ill["problem"]


def test_folders_may_begin_with_a_quoted_tilde(indexed: Shell):
    assert "2 unchanged" in indexed.run("index", "~/sounds", "--library", "~/lib").stdout
    assert "found /" not in indexed.run("demo", "~/sounds").stderr
    assert "~missing" in indexed.run("index", "~missing", status=1).stderr
    assert not (indexed.folder / "~").exists()


def test_a_missing_demo_folder_is_said(indexed: Shell):
    assert "no-such-folder" in indexed.run("demo", "no-such-folder", status=1).stderr


def test_a_moved_bundle_is_named_once(shell: Shell):
    from engine.bundle import STARTER_DIR

    shutil.copytree(STARTER_DIR, shell.folder / "model")
    shell.run("index", "sounds", "--bundle", "model")
    (shell.folder / "model").rename(shell.folder / "moved")
    assert "files  2" in shell.run("status").stdout
    assert "--bundle" in shell.run("search", "beep", status=1).stderr
    shell.run("search", "beep", "--bundle", "moved")
    shell.run("doctor", "--bundle", "moved")
    shell.run("doctor", status=1)
    shell.run("index", "sounds", "--bundle", "moved")
    shell.run("search", "beep")


class Odd(Shell):
    """A library of names that a terminal, a pipe or a decoder might take amiss."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_sound(folder / "made.wav", noise(1.0, seed=1))
        shutil.copy(folder / "made.wav", self.sounds / HOSTILE)
        write_sound(folder / "made.wav", noise(1.0, seed=2))
        self.latin1 = os.fsencode(self.sounds) + b"/caf\xe9.wav"
        shutil.copy(folder / "made.wav", self.latin1)
        self.long = self.sounds / "a folder with a long name" / f"{'very ' * 30}long.wav"
        write_sound(self.long, noise(1.0, seed=3))
        (self.sounds / f"broken {HOSTILE}").write_text("no sound")
        self.report = self.run("index", "sounds", status=3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    return Odd(tmp_path_factory.mktemp("odd"))


def test_names_cannot_command_the_terminal(odd: Odd):
    found = odd.run("search", "noise", "--min-relevance", "0")
    failed = odd.run("status", "--failed")
    for text in (found.stdout, failed.stdout, odd.report.stderr):
        assert not set(text) & {"\x1b", "\x07"}
        assert "\nforged line" not in text
        assert r"\x1b]0;title\x07\nforged line.wav" in text
    assert r"caf\xe9.wav" in found.stdout


def test_json_and_paths_are_exact(odd: Odd):
    found = odd.json("search", "noise", "--min-relevance", "0")
    assert isinstance(found, list)
    assert str(odd.sounds / HOSTILE) in [hit["path"] for hit in found]
    paths = odd.run("search", "noise", "--min-relevance", "0", "--paths", "-0").raw.split(b"\0")
    assert odd.latin1 in paths
    assert os.fsencode(odd.sounds / HOSTILE) in paths
    status = odd.json("status", "--failed")
    assert isinstance(status, dict)
    assert status["failures"][0]["path"] == str(odd.sounds / f"broken {HOSTILE}")


def test_no_name_is_folded_in_a_pipe(odd: Odd):
    lines = odd.run("search", "noise", "--min-relevance", "0").stdout.splitlines()
    assert sum(str(odd.long.relative_to(odd.folder)) in line for line in lines) == 1
    assert len(lines) == 6
    assert all(line == line.rstrip() for line in lines)


def test_what_cannot_be_cut_is_named_and_the_rest_is_cut(odd: Odd):
    away = odd.long.with_name("away.wav")
    odd.long.rename(away)
    try:
        arguments = ("search", "noise", "--min-relevance", "0", "--save-clips", "cuts")
        result = odd.run(*arguments, status=3)
    finally:
        away.rename(odd.long)
    assert "4 clips in cuts" in result.stderr
    assert f"not cut: {odd.long}" in result.stderr
    assert len(list((odd.folder / "cuts").iterdir())) == 4
    assert "made.wav" in odd.run("search", "noise", "--save-clips", "made.wav", status=1).stderr


@pytest.mark.parametrize("is_terminal", [True, False])
def test_ctrl_c_is_advised_only_where_somebody_can_press_it(monkeypatch: pytest.MonkeyPatch, is_terminal: bool):
    text = io.StringIO()
    monkeypatch.setattr(show, "err", Console(file=text, force_terminal=is_terminal, color_system=None))
    show.waiting("waiting for process 1")
    assert ("Ctrl-C stops waiting" in text.getvalue()) is is_terminal


def test_the_table_fits_a_narrow_terminal():
    moment = Moment("/x/rain on the yard.wav", ("/x/rain on the yard.wav",), 3661.0, 3665.5, 0.5, 0.75, 7200.0)
    text = io.StringIO()
    console = Console(file=text, width=60, force_terminal=True, color_system=None)
    console.print(show.moments_table([moment], Path("/x"), roomy=False))
    assert "1:01:01.0 - 1:01:05.5" in text.getvalue()
    assert "rain on the yard.wav" in text.getvalue()
    assert all(len(line) <= 60 for line in text.getvalue().splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 雨　音 👩\u200d🚒.wav", "naïve 雨　音 👩\u200d🚒.wav"),
        ("a\x1b[31m\x07\r\n\t\x9b", r"a\x1b[31m\x07\r\n\t\x9b"),
        ("\u202egpj.wav\u2028", r"\u202egpj.wav\u2028"),
        ("caf\udce9 \ud800", r"caf\xe9 \ud800"),
    ],
)
def test_printable(text: str, shown: str):
    assert show.printable(text) == shown


def test_any_error_is_one_line(indexed: Shell, monkeypatch: pytest.MonkeyPatch):
    def fault(*_: object) -> None:
        raise TypeError("no\nsuch thing")

    monkeypatch.setattr("indexer.ledger.Ledger.totals", fault)
    assert indexed.run("status", status=1).stderr.count("\n") == 1
    (indexed.folder / "bad").mkdir(exist_ok=True)
    (indexed.folder / "bad" / "ledger.sqlite").write_text("no database")
    assert "bad/ledger.sqlite" in indexed.run("status", "--library", "bad", status=1).stderr


def test_prune_of_a_folder_that_is_gone(shell: Shell):
    shell.run("index", "sounds")
    shutil.rmtree(shell.sounds / "tones")
    assert "--prune-anyway" in shell.run("index", "sounds/tones", "--prune", status=1).stderr
    assert "forgotten" in shell.run("index", "sounds/tones", "--prune-anyway").stdout
    shell.run("index", "sounds/tones", status=1)


def test_a_prune_that_is_refused_is_reported_with_all_the_rest(shell: Shell):
    shell.run("index", "sounds")
    shutil.rmtree(shell.sounds / "tones")
    (shell.sounds / "hiss.wav").unlink()
    write_sound(shell.sounds / "new.wav", noise(1.0, seed=4))
    (shell.sounds / "text.wav").write_text("no sound")
    report = shell.json("index", "sounds", "--prune", status=1)
    assert isinstance(report, dict)
    assert (report["indexed"], len(report["failed"]), report["pruned"]) == (1, 1, 0)
    assert "2 of 3 known files gone" in report["refused"]
    said = shell.run("index", "sounds", "--prune", status=1)
    assert "1 unchanged" not in said.stdout
    assert "2 unchanged" in said.stdout
    assert "error: found 2 of 3 known files gone" in said.stderr
    again = shell.json("index", "sounds", "--prune-anyway")
    assert isinstance(again, dict)
    assert (again["pruned"], again["refused"]) == (2, None)


def test_an_unreadable_path_costs_only_itself(indexed: Shell, monkeypatch: pytest.MonkeyPatch):
    secret = write_sound(indexed.folder / "secret.wav", noise(1.0, seed=5))
    reach, access = os.open, os.access

    def refusing(path: object, *arguments: int) -> int:
        if str(path).endswith("secret.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return reach(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(
        os, "access", lambda path, *how, **more: "secret" not in str(path) and access(path, *how, **more)
    )
    report = indexed.json("index", "secret.wav", "sounds", "--library", "secrets", status=3)
    assert isinstance(report, dict)
    assert report["indexed"] == 2
    assert report["failed"] == [
        {
            "path": str(secret),
            "reason": "found Permission denied; expected a readable file; check the path and its permissions",
        }
    ]
    assert "Permission denied; expected" in indexed.run("search", "--audio", "secret.wav", status=1).stderr
    assert "Permission denied; expected" in indexed.run("demo", "secret.wav").stderr


def test_a_lost_memory_is_not_called_nothing(shell: Shell):
    shell.run("index", "sounds")
    shutil.rmtree(shell.folder / "lib" / "memory")
    assert "earshot index" in shell.run("search", "rain", status=1).stderr
    assert "had lost" in shell.run("index", "sounds").stdout
    shell.run("search", "rain", "--min-relevance", "0")


def test_copy_says_what_it_did_and_refuses_a_library_of_its_own(shell: Shell):
    shell.run("index", "sounds")
    report = shell.json("copy", "lib", "backup")
    assert isinstance(report, dict)
    assert set(report) == {
        "source",
        "target",
        "files",
        "failed",
        "windows",
        "written",
        "captions",
        "searches",
        "wall_s",
    }
    assert (report["files"], report["failed"], report["written"]) == (2, 0, report["windows"])
    again = shell.run("copy", "lib", "backup").stdout
    assert again.startswith(f"0 of {report['windows']} windows written")
    assert "compared: all windows" in again
    assert "expected an empty place" in shell.run("copy", "backup", "lib", status=1).stderr
    assert "no library in" in shell.run("copy", "nowhere", "elsewhere", status=1).stderr
