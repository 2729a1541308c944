"""A run's folder: what is whole there stays whole, whatever happens while the next is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.curves import Curve
from trainer.run import CURVE, RunFolder
from trainer.settings import Settings, TrainingError

#: Saves one checkpoint, and is killed in the middle of the next.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from trainer.run import RunFolder

class Fatal:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

folder = RunFolder(Path(sys.argv[1]))
folder.save({"step": 1})
folder.save({"weights": torch.zeros(100_000), "step": 2, "fatal": Fatal()})
"""


def test_killed_in_the_middle_of_saving_the_checkpoint_before_is_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "last.pt.draft").exists()
    assert RunFolder(tmp_path).load() == {"step": 1}
    RunFolder(tmp_path).save({"step": 3})
    assert RunFolder(tmp_path).load() == {"step": 3}


def test_a_disk_that_is_really_full_keeps_what_was_there(small_disk: Path) -> None:
    folder = RunFolder(small_disk / "run")
    folder.save({"step": 1})
    with pytest.raises(TrainingError, match=r"No space left on device.*make room"):
        folder.save({"step": 2, "weights": torch.zeros(1_000_000)})
    assert folder.load() == {"step": 1}
    curve = Curve(folder.folder / CURVE, 1)
    curve.add({"step": 1, "total": 1.0, "filling": "x" * 4_000_000})
    with pytest.raises(TrainingError, match=r"No space left on device.*make room"), folder.writing():
        curve.write()
    assert [path.name for path in folder.folder.iterdir()] == ["last.pt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(handle: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    RunFolder(tmp_path / "run").save({"step": 1})
    assert done == ["flush last.pt.draft", "rename last.pt.draft", "flush run"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 3}', b"\xff"])
def test_a_damaged_list_of_settings_is_said(tmp_path: Path, text: str | bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(Settings(data="a"), {})
    folder.save({"step": 1})
    (tmp_path / "run.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(TrainingError, match=r"run\.json, which can't be read.*begins anew"):
        folder.begin(Settings(data="a"), {})


def test_what_was_never_trained_may_be_told_otherwise(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.begin(Settings(data="a"), {})
    assert not folder.begin(Settings(data="b"), {})
    folder.save({"step": 1})
    assert folder.begin(Settings(data="b"), {})
    with pytest.raises(TrainingError, match="data: 'b' there, 'a' now"):
        folder.begin(Settings(data="a"), {})
