"""What only an embedded store must stand: kills, a second process, damage."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge

from engine.errors import DamagedMemoryError, LibraryBusyError, MemoryStoreError, QueryError
from engine.memory import edge_shard, keywords
from engine.memory.edge import EdgeMemory
from engine.memory.exact import ExactMemory
from engine.types import Clause, Filter, Point, point_id

SPACE, DIM = "tiny/model@0123456789ab", 8
ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from pathlib import Path
from tests.engine.memory.test_edge import SPACE, DIM, batch
from engine.memory.edge import EdgeMemory
from engine.types import Clause, Filter
memory = EdgeMemory(Path(sys.argv[1]))
memory.ensure_space(SPACE, DIM)
for number in range(20):
    memory.upsert(batch(number))
memory.set_payload(Filter((Clause("sha256", "in", ["3"]),)), {"paths": ["/moved.wav"]})
memory.delete(Filter((Clause("sha256", "in", ["4"]),)))
memory.upsert(batch(5))
if sys.argv[2] == "flush":
    memory.flush()
print("written", flush=True)
number = 100
while True:
    memory.upsert(batch(number))
    number += 1
"""


def batch(number: int) -> list[Point]:
    """Fifty windows of one sound."""
    vectors = np.random.default_rng(number).standard_normal((50, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    payload = {"sha256": str(number), "paths": [f"/{number}.wav"]}
    return [Point(point_id(str(number), SPACE, i), vector, payload) for i, vector in enumerate(vectors)]


def writer(folder: Path, flush: str) -> subprocess.Popen[str]:
    """A process that has written 20 sounds to ``folder``, and goes on writing."""
    command = [sys.executable, "-c", WRITER, str(folder), flush]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


class Failing:
    """A shard of which everything fails."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(self.error)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    with EdgeMemory(folder) as memory:
        memory.ensure_space(SPACE, DIM)
    return folder


@pytest.mark.parametrize("flush", ["flush", "no flush"])
def test_a_kill_loses_nothing_that_was_flushed_and_leaves_an_openable_shard(flush: str, tmp_path: Path) -> None:
    process = writer(tmp_path, flush)
    with pytest.raises(LibraryBusyError, match="another process"):
        EdgeMemory(tmp_path).ensure_space(SPACE, DIM)
    kill(process)
    with EdgeMemory(tmp_path) as memory:
        memory.ensure_space(SPACE, DIM)
        counts = [memory.count(Filter((Clause("sha256", "=", str(number)),))) for number in range(20)]
        if flush == "flush":
            assert counts == [50] * 4 + [0] + [50] * 15
            assert memory.count(Filter((Clause("paths", "~", "moved"),))) == 50
        for number in range(20):
            memory.upsert(batch(number))
        assert memory.count(Filter((Clause("sha256", "in", [str(number) for number in range(20)]),))) == 1000


def test_a_kill_while_the_shard_is_made_is_repaired_by_the_next_opening(tmp_path: Path) -> None:
    made = "from engine.memory import edge_shard; from pathlib import Path; import os, signal, sys\n"
    made += "folder = Path(sys.argv[1]); die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    before_rename = "Path.rename = die\nedge_shard.open_shard(folder / 'tiny%2Fmodel@0123456789ab.shard', 8)"
    before_current = "edge_shard.open_shard(folder / 'tiny%2Fmodel@0123456789ab.shard', 8)\ndie()"
    for death in (before_rename, before_current):
        ended = subprocess.run([sys.executable, "-c", made + death, str(tmp_path)], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not (tmp_path / "current").exists()
    with EdgeMemory(tmp_path) as memory:
        memory.ensure_space(SPACE, DIM)
        memory.upsert(batch(0))
        assert memory.count() == 50
    shard = "tiny%2Fmodel@0123456789ab.shard"
    assert json.loads((tmp_path / "current").read_text()) == {
        "space_id": SPACE,
        "dim": DIM,
        "shard": shard,
        "words": keywords.VERSION,
    }
    assert {path.name for path in tmp_path.iterdir()} == {"current", shard}


@pytest.mark.parametrize("damaged", ["segment.json", "edge_config.json", "current"])
def test_damage_is_said_with_the_folder_and_what_to_do(damaged: str, empty: Path) -> None:
    path = next(empty.rglob(damaged))
    kept = path.read_bytes()
    path.write_bytes(b"\0garbage")
    try:
        with pytest.raises(DamagedMemoryError, match=r"found .* expected .*earshot repair") as caught:
            EdgeMemory(empty).ensure_space(SPACE, DIM)
        assert str(empty) in str(caught.value)
    finally:
        path.write_bytes(kept)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MemoryStoreError, match="file"):
        EdgeMemory(tmp_path / "file").ensure_space(SPACE, DIM)


def test_only_a_shard_that_does_not_load_is_to_be_removed(empty: Path) -> None:
    with EdgeMemory(empty) as memory:
        memory.ensure_space(SPACE, DIM)
        shard, memory._shard = memory._shard, Failing("int too big to convert")
        try:
            with pytest.raises(MemoryStoreError, match="searching for the 7 nearest") as caught:
                memory.search(batch(0)[0].vector, 7)
        finally:
            memory._shard = shard
    assert "int too big to convert" in str(caught.value)
    assert "remove" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("Failed to save: No space left on device (os error 28)", "free some space"),
        ("Too many open files (os error 24)", "ulimit"),
        ("Permission denied (os error 13)", "permissions"),
    ],
)
def test_a_fault_of_the_system_does_not_cost_the_shard(
    error: str, advice: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_shard.qdrant, "EdgeShard", Failing(error))
    with pytest.raises(MemoryStoreError, match=advice) as caught:
        EdgeMemory(empty).ensure_space(SPACE, DIM)
    assert "remove" not in str(caught.value)
    assert caught.value.expected
    assert not isinstance(caught.value, DamagedMemoryError), "nothing is to be repaired"


def test_what_the_store_says_is_short_and_names_the_folder_once(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [shard] = empty.glob("*.shard")
    monkeypatch.setattr(edge_shard.qdrant, "EdgeShard", Failing(f"{shard}/a at {shard}/b: " + "x\n" * 1000))
    with pytest.raises(DamagedMemoryError, match=r"found .*expected .*earshot repair") as caught:
        EdgeMemory(empty).ensure_space(SPACE, DIM)
    assert str(caught.value).count(str(empty)) == 1
    assert len(str(caught.value)) < len(str(shard)) + 500
    assert "\n" not in str(caught.value)


def test_a_disk_without_room_is_said_before_it_kills_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file that the disk can't hold ends the process by SIGBUS, so room is asked for beforehand."""
    mib = 1024 * 1024
    free = 300 * mib
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, free))
    with EdgeMemory(tmp_path / "a") as memory:
        memory.ensure_space(SPACE, DIM)
        memory.upsert(batch(0))
        free = 200 * mib
        changes = [
            lambda: memory.upsert(batch(1)),
            lambda: memory.set_payload(Filter(), {"title": "x"}),
            memory.optimise,
            lambda: EdgeMemory(tmp_path / "b").ensure_space(SPACE, DIM),
        ]
        for change in changes:
            with pytest.raises(MemoryStoreError, match=r"found 200 MiB free .* at least 2\d\d MiB; free some space"):
                change()
        assert len(memory.search(batch(0)[0].vector, 99)) == 50
        free = 10 * mib
        with pytest.raises(MemoryStoreError, match="10 MiB free"):
            memory.delete(Filter((Clause("sha256", "=", "0"),)))
    with pytest.raises(MemoryStoreError, match="10 MiB free"):
        EdgeMemory(tmp_path / "a").ensure_space(SPACE, DIM)
    free = 100 * mib
    with EdgeMemory(tmp_path / "a") as memory:
        memory.ensure_space(SPACE, DIM)
        assert memory.count() == 50


def test_more_hits_than_anyone_reads_are_refused_at_the_door(empty: Path) -> None:
    with EdgeMemory(empty) as memory:
        memory.ensure_space(SPACE, DIM)
        for k in (1_000_001, 2**63 - 1):
            with pytest.raises(QueryError, match=f"found k = {k}; expected at most 1,000,000"):
                memory.search(batch(0)[0].vector, k)


def test_threads_search_while_one_writes(empty: Path) -> None:
    errors: list[BaseException] = []
    done = threading.Event()
    query = batch(0)[0].vector
    with EdgeMemory(empty) as memory:
        memory.ensure_space(SPACE, DIM)

        def search() -> None:
            try:
                while not done.is_set():
                    memory.search(query, 5)
            except BaseException as error:
                errors.append(error)
                raise

        searchers = [threading.Thread(target=search) for _ in range(2)]
        for thread in searchers:
            thread.start()
        for number in range(20):
            memory.upsert(batch(number))
        memory.optimise()
        done.set()
        for thread in searchers:
            thread.join()
        assert memory.count() == 1000
        memory.delete(Filter((Clause("absent", "!=", 0),)))
    assert errors == []


def test_the_graph_finds_what_brute_force_finds_also_under_a_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain walk goes astray under a substring that one path in nine has, strewn over all kinds."""
    monkeypatch.setattr("engine.memory.edge_shard.INDEX_FROM_POINTS", 500)
    monkeypatch.setattr("engine.memory.edge_shard.SCAN_BELOW_POINTS", 100)
    oracle = ExactMemory()
    oracle.ensure_space(SPACE, 32)
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((50, 32))
    points = []
    for i in range(4000):
        vector = (kinds[i % 50] + 0.5 * rng.standard_normal(32)).astype(np.float32)
        path = f"/{'rain' if i % 9 == 0 else 'wind'}/{i}.wav"
        points.append(Point(point_id(str(i), SPACE, 0), vector / np.linalg.norm(vector), {"paths": [path]}))
    oracle.upsert(points)
    queries = [(kinds[i]).astype(np.float32) for i in range(0, 50, 5)]
    with EdgeMemory(tmp_path) as memory:
        memory.ensure_space(SPACE, 32)
        memory.upsert(points)
        memory.optimise()
        for where in (None, Filter((Clause("paths", "~", "RAIN"),)), Filter((Clause("paths", "~", "WIND"),))):
            found = [{hit.id for hit in memory.search(query, 10, where)} for query in queries]
            expected = [{hit.id for hit in oracle.search(query, 10, where)} for query in queries]
            assert np.mean([len(a & b) / 10 for a, b in zip(found, expected, strict=True)]) >= 0.95


def test_the_documents_of_an_earlier_shard_are_read_once(tmp_path: Path):
    folder = tmp_path / "tiny.shard"
    shard = qdrant_edge.EdgeShard.create(str(folder), edge_shard.config(DIM))
    said = [{"sha256": "a", "window": n, "title": "Thunder", "paths": ["/a.wav"]} for n in (0, 1)]
    said.append({"sha256": "b", "window": 0, "words": ["door", "slam"]})
    ids = [point_id("a", SPACE, n) for n in range(3)]
    points = [qdrant_edge.Point(i, [1.0] * DIM, payload) for i, payload in zip(ids, said, strict=True)]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()
    (tmp_path / "current").write_text(json.dumps({"space_id": SPACE, "dim": DIM, "shard": folder.name}))
    for _ in range(2):
        with EdgeMemory(tmp_path) as memory:
            memory.ensure_space(SPACE, DIM)
            assert [hit.id for hit in memory.search_words("thunder", 5)] == ids[:1]
            assert [hit.id for hit in memory.search_words("slam", 5)] == ids[2:]
            assert memory.count() == 3
        assert json.loads((tmp_path / "current").read_text())["words"] == keywords.VERSION
