"""How `earshot` meets the system: signals, pipes, full devices, encodings; each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from earshot import Library
from earshot.cli import STOPPED
from earshot.lock import LibraryLock
from tests.sounds import noise, write_sound

SEARCH = ("search", "noise", "--min-relevance", "0")


class Place:
    """A folder with a library of one sound."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_sound(folder / "sounds" / "naïve hiss.wav", noise(1.0), title="A “hiss”")
        with Library(folder / "lib", device="cpu") as library:
            library.index([folder / "sounds"])

    def start(self, *command: str, **settings: Any) -> subprocess.Popen[str]:
        home = {"HOME": str(self.folder), "EARSHOT_LIBRARY": str(self.folder / "lib"), "LANG": "C.UTF-8"}
        settings = {"stdout": subprocess.PIPE, "cwd": self.folder} | settings
        environment = home | {"PATH": os.environ["PATH"]} | settings.pop("env", {})
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **settings)

    def earshot(self, *arguments: str, **settings: Any) -> tuple[int, str, str]:
        process = self.start(sys.executable, "-m", "earshot", *arguments, **settings)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        return process.returncode, out, err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def ctrl_c_works() -> None:
    """A test run in the background has SIGINT ignored, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_while_waiting(place: Place):
    lock = LibraryLock.take(place.folder / "lib")
    assert lock
    try:
        command = (sys.executable, "-m", "earshot", "index", "sounds")
        process = place.start(*command, preexec_fn=ctrl_c_works)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        lock.release()
    assert (process.returncode, out, err) == (130, "", f"{STOPPED}\n")


def test_ctrl_c_while_starting(place: Place):
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from earshot.cli import main\n"
        "main()"
    )
    process = place.start(sys.executable, "-c", code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", f"{STOPPED}\n")


def test_a_reader_that_has_gone_is_no_error(place: Place):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        status, _, err = place.earshot(*SEARCH, stdout=writing)
    finally:
        os.close(writing)
    assert (status, err) == (0, "")


@pytest.mark.parametrize("form", ["", "--json", "--paths"])
def test_a_closed_stdout_is_no_error(place: Place, form: str):
    command = f'"$0" -m earshot search beep --min-relevance 0 {form} >&-'
    process = place.start("bash", "-c", command, sys.executable)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", [(), ("--json",), ("--paths",)])
def test_a_full_device_is_said(place: Place, form: tuple[str, ...]):
    with open("/dev/full", "wb") as full:
        status, _, err = place.earshot(*SEARCH, *form, stdout=full)
    assert status == 1
    assert err == "error: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_poor_encodings(place: Place, encoding: str):
    status, out, _ = place.earshot(*SEARCH, env={"PYTHONIOENCODING": encoding}, encoding="latin-1")
    assert status == 0
    assert ("na\\xefve" if encoding == "ascii" else "naïve") in out
    assert '"A' in out
    assert "█" not in out


def test_json_is_json_in_any_encoding(place: Place):
    status, out, _ = place.earshot(*SEARCH, "--json", env={"PYTHONIOENCODING": "ascii"})
    assert status == 0
    [hit] = json.loads(out)
    assert hit["title"] == "A “hiss”"
    assert Path(hit["path"]).is_file()


def test_a_working_folder_that_has_gone(place: Place):
    command = (
        f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m earshot search noise --min-relevance 0"
    )
    out, err = place.start("bash", "-c", command).communicate(timeout=60)
    assert str(place.folder / "sounds") in out
    assert err == ""


def test_help_is_quick(place: Place):
    """Neither the model nor the store is loaded for it."""
    heavy = "('onnxruntime', 'qdrant_edge', 'av', 'soundfile', 'numpy')"
    code = f"import sys, earshot.commands; print([name for name in {heavy} if name in sys.modules])"
    out, _ = place.start(sys.executable, "-c", code).communicate(timeout=60)
    assert out == "[]\n"
