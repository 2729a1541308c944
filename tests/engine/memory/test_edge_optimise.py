"""Building the index beside the shard that answers: in a process of its own, at any moment killed, refused or stopped.

The builder is held at its start until the test lets it go, so what happens during a build is known, not timed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.errors import MemoryStoreError
from engine.memory import edge, edge_rebuild, edge_shard
from engine.memory.edge import EdgeMemory
from engine.types import Clause, Filter
from tests.engine.memory.test_edge import DIM, ROOT, SPACE, batch

#: 60 batches of 50 points, and a graph from 500 on.
BATCHES, FROM_POINTS = 60, 500
SHARD = "tiny%2Fmodel@0123456789ab.shard"
HELD = """
import os, sys, time
with open({pid!r}, "w") as file:
    file.write(str(os.getpid()))
os.rename({pid!r}, {begun!r})
while not os.path.exists({go!r}):
    time.sleep(0.01)
os.execv(sys.executable, [sys.executable, "-P", {builder!r}, *sys.argv[1:]])
"""
OPTIMISER = """
import sys
from pathlib import Path
import pytest
from tests.engine.memory import test_edge_optimise as held
patch = pytest.MonkeyPatch()
held.Builder(Path(sys.argv[2]), patch)
memory = held.opened(Path(sys.argv[1]), patch)
try:
    memory.optimise()
except KeyboardInterrupt:
    assert len(memory.search(held.batch(0)[0].vector, 5)) == 5
    memory.close()
    print("stopped")
"""


class Builder:
    """Stands before the real builder: says that it has begun, and waits to be let go."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = folder / "begun", folder / "go"
        places = {name: str(folder / name) for name in ("pid", "begun", "go")}
        script = folder / "builder.py"
        script.write_text(HELD.format(builder=str(edge_rebuild._BUILDER), **places))
        monkeypatch.setattr(edge_rebuild, "_BUILDER", script)

    def pid(self) -> int:
        """Its process, once it has begun."""
        until = time.monotonic() + 60
        while not self.begun.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return int(self.begun.read_text())


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EdgeMemory:
    for module in (edge, edge_shard):
        monkeypatch.setattr(module, "INDEX_FROM_POINTS", FROM_POINTS)
    memory = EdgeMemory(folder)
    memory.ensure_space(SPACE, DIM)
    return memory


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory with enough points for a graph, not built yet."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as monkeypatch, opened(folder, monkeypatch) as memory:
        for number in range(BATCHES):
            memory.upsert(batch(number))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    edge_rebuild.copy_shard(written, tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tmp_path, monkeypatch)


@pytest.fixture
def memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeMemory]:
    with opened(folder, monkeypatch) as memory:
        yield memory


def indexed(memory: EdgeMemory) -> int:
    return int(memory._open_shard()[0].info().indexed_vectors_count)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def answers(memory: EdgeMemory) -> list[str]:
    return [memory.search(batch(number)[7].vector, 1)[0].id for number in range(BATCHES)]


def test_searches_are_answered_and_writes_kept_while_it_builds(
    memory: EdgeMemory, folder: Path, builder: Builder
) -> None:
    before, records = answers(memory), memory.scroll()
    first = next(records)
    building = threading.Thread(target=memory.optimise)
    building.start()
    builder.pid()
    assert answers(memory) == before
    writing = threading.Thread(target=lambda: memory.upsert(batch(BATCHES)))
    writing.start()
    assert memory.count() == 50 * BATCHES
    assert building.is_alive(), "all that was answered while it was built"
    builder.go.touch()
    building.join(60)
    writing.join(60)
    assert indexed(memory) == 50 * BATCHES
    assert memory.count() == 50 * (BATCHES + 1)
    assert answers(memory) == before
    # a reader that began on the old shard goes on in the new one; what was written meanwhile it may see or not
    assert 50 * BATCHES <= len({first.id, *(record.id for record in records)}) <= 50 * (BATCHES + 1)
    assert names(folder) == {"current", SHARD.replace(".shard", ".1.shard")}


def test_a_copy_is_made_only_where_something_was_written_and_kept_only_where_that_changed_it(
    memory: EdgeMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (SHARD.replace(".shard", f".{number}.shard") for number in (1, 2))
    memory.optimise()
    with monkeypatch.context() as without:
        without.setattr(edge, "built_copy", None)
        memory.optimise()
    memory.upsert(batch(BATCHES))
    memory.optimise()
    assert names(folder) == {"current", first}
    memory.close()
    with opened(folder, monkeypatch) as again:
        assert indexed(again) == 50 * BATCHES
        again.delete(Filter((Clause("sha256", "in", [str(number) for number in range(20)]),)))
        again.optimise()
        assert again.count() == 50 * (BATCHES - 19)
    assert names(folder) == {"current", second}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_stopped_it_leaves_the_old_shard_and_no_process(
    end: signal.Signals, folder: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + OPTIMISER
    command = [sys.executable, "-c", code, str(folder), str(builder.go.parent)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = builder.pid()
    builder.go.touch()
    process.send_signal(end)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) in ((-signal.SIGKILL, ""), (0, "stopped\n"))
    until = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_running(pid)
    with opened(folder, monkeypatch) as memory:
        assert names(folder) == {"current", SHARD}
        assert memory.count() == 50 * BATCHES


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("sys.exit('panicked: no such segment')", "panicked: no such segment"),
        ("os.kill(os.getpid(), 9)", "SIGKILL.*free some memory"),
        ("os.kill(os.getpid(), 7)", "SIGBUS.*free some disk"),
    ],
)
def test_a_builder_that_fails_is_said_and_costs_nothing(
    last: str, reason: str, memory: EdgeMemory, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "builder.py").write_text(f"import os, sys; {last}")
    monkeypatch.setattr(edge_rebuild, "_BUILDER", tmp_path / "builder.py")
    before = answers(memory)
    with pytest.raises(MemoryStoreError, match=f"{reason}.*nothing is lost"):
        memory.optimise()
    assert answers(memory) == before
    memory.upsert(batch(BATCHES))
    assert names(folder) == {"current", SHARD}


def test_without_room_for_a_copy_it_is_built_in_place(
    memory: EdgeMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = edge_shard.ROOM_TO_WRITE + edge_shard.allocated(folder) * 3 // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, room))
    memory.optimise()
    assert indexed(memory) == 50 * BATCHES
    assert names(folder) == {"current", SHARD}


def test_a_library_of_the_first_version_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ``current`` did not name the shard."""
    (folder / "current").write_text(json.dumps({"space_id": SPACE, "dim": DIM}))
    with opened(folder, monkeypatch) as memory:
        assert memory.count() == 50 * BATCHES
        memory.optimise()
        assert json.loads((folder / "current").read_text())["shard"] == SHARD.replace(".shard", ".1.shard")


@pytest.mark.parametrize("shard", ["../elsewhere.shard", "/tmp/x.shard", ".."])
def test_current_names_nothing_elsewhere(shard: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "current").write_text(json.dumps({"space_id": SPACE, "dim": DIM, "shard": shard}))
    with pytest.raises(MemoryStoreError, match="no name of a folder"):
        opened(folder, monkeypatch)


def test_a_file_that_goes_while_it_is_copied_is_not_missed(
    memory: EdgeMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = edge_rebuild._copy_with_holes
    passing = iter([folder / SHARD / "passing"])

    def copy(source: Path, target: Path) -> None:
        for path in passing:
            copied(path, target)
        copied(source, target)

    monkeypatch.setattr(edge_rebuild, "_copy_with_holes", copy)
    memory.optimise()
    assert (memory.count(), indexed(memory)) == (50 * BATCHES, 50 * BATCHES)
    monkeypatch.setattr(edge_rebuild, "_copy_with_holes", lambda source, target: copied(folder / "never", target))
    memory.upsert(batch(BATCHES))
    with pytest.raises(MemoryStoreError, match="never"):
        memory.optimise()
    assert memory.count() == 50 * (BATCHES + 1)


def test_holes_are_copied_as_holes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    with (tmp_path / "sparse").open("wb") as file:
        for offset in (0, 50_000_000, 80_000_000):
            file.seek(offset)
            file.write(data)
        file.truncate(100_000_000)
    (tmp_path / "empty").touch()
    for name in ("sparse", "empty"):
        edge_rebuild._copy_with_holes(tmp_path / name, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == (tmp_path / name).read_bytes()
        assert os.stat(tmp_path / "copy").st_blocks <= os.stat(tmp_path / name).st_blocks
