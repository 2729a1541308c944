"""Seeded mutation fuzz over every container: no crash, no hang over 10 s, no memory over 1 GB, and always an answer.

200 mutants here; `make fuzz` takes 2,000 and a new seed each time. What goes wrong is kept in ``build/fuzz`` under a
name that says how to make it again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from engine.errors import AudioError
from engine.fakes import FakeEncoders
from engine.windows import cut
from indexer.decoding import WORKER_BYTES, Worker, borrowed
from tests.hostile.mutate import mutate
from tests.hostile.seeds import write_seeds
from tests.sounds import tone, write_sound

FILES = int(os.environ.get("EARSHOT_FUZZ_FILES", "200"))
SEED = int(os.environ.get("EARSHOT_FUZZ_SEED", "1"))
KEPT = Path(__file__).parents[2] / "build" / "fuzz"
MAX_BYTES = 1 << 30


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One mutant after another of each seed, in files named after seed, number and container."""
    folder = tmp_path_factory.mktemp("fuzz")
    seeds = write_seeds(folder / "seeds")
    contents = {name: path.read_bytes() for name, path in seeds.items()}
    (folder / "mutants").mkdir()
    paths = []
    for number in range(FILES):
        name = list(seeds)[number % len(seeds)]
        path = folder / "mutants" / f"{SEED}-{number}-{name}{seeds[name].suffix}"
        path.write_bytes(mutate(contents[name], random.Random(f"{SEED}/{number}")))
        paths.append(path)
    return paths


def test_the_seeds_themselves_are_heard(tmp_path: Path):
    """So that every mutant starts from a file that works, in every container."""
    seeds = write_seeds(tmp_path)
    assert len(seeds) >= 30
    for name, path in seeds.items():
        with borrowed(bool) as worker:
            clip, _ = worker.open(path, 16_000)
            assert sum(map(len, clip.blocks)) > 0.3 * 16_000, name
            assert not clip.remarks, name


def test_every_mutant_is_heard_or_says_why_not(mutants: list[Path]):
    print(f"\nseed {SEED}, {FILES} mutants")
    heard, refused, wrong = 0, 0, []
    growth = Growth()
    for path in mutants:
        problem = ""
        with borrowed(bool) as worker:
            try:
                problem = odd_vectors(worker, path)
                heard += 1
            except AudioError as error:
                problem = unclear(error)
                refused += 1
            peak = ram_bytes(worker.pid)
        if peak > MAX_BYTES:
            problem = f"{peak >> 20} MiB"
            worker.close()
        if problem:
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / path.name).write_bytes(path.read_bytes())
            wrong.append(f"{KEPT / path.name}: {problem}")
    print(f"{heard} heard, {refused} refused; this process grew by {growth.bytes() >> 20} MiB")
    assert growth.bytes() < MAX_BYTES - WORKER_BYTES, "the worker and we"
    assert not wrong, "\n".join(wrong)
    assert min(heard, refused) > FILES / 10, "mutations that change nothing, or everything, test nothing"


def odd_vectors(worker: Worker, path: Path) -> str:
    """Hear a file in a worker, as a run does; what is wrong with its vectors, if anything."""
    encoders = FakeEncoders()
    clip, _ = worker.open(path, encoders.space.sample_rate_hz)
    for window in cut(clip.blocks, encoders.space):
        [vector] = encoders.encode_audio(window.samples[None])
        if not abs(np.linalg.norm(vector) - 1) < 1e-3:
            return f"a vector of length {np.linalg.norm(vector)}"
    return ""


def unclear(error: AudioError) -> str:
    """What an error should not say, or leaves unsaid."""
    for word in ("crashed", "worked for", "nothing came", "ended (status"):
        if word in error.found:
            return error.found
    return "" if error.found and error.expected and error.action else f"only {error}"


def ram_bytes(pid: int, field: str = "VmHWM") -> int:
    """The most that a process has had in RAM (VmRSS: what it has); 0 where the system doesn't say, or it has died."""
    try:
        lines: Iterator[str] = iter(Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field)), 0)


class Growth:
    """How many bytes this process, which other tests may have filled, has grown at most since then."""

    def __init__(self) -> None:
        with suppress(OSError):  # where it can't be asked to count anew, what other tests took counts as well
            Path("/proc/self/clear_refs").write_text("5")
        self._before = ram_bytes(os.getpid(), "VmRSS")

    def bytes(self) -> int:
        return ram_bytes(os.getpid()) - self._before


@pytest.mark.skipif(not ram_bytes(os.getpid()), reason="the system doesn't say how much memory a process takes")
def test_growth_is_noticed_though_it_has_passed():
    growth = Growth()
    with mmap(-1, 64 << 20) as glut:  # pages of its own, where an array might be given what earlier tests freed
        glut.write(bytes([1]) * len(glut))
    assert 48 << 20 < growth.bytes() < 256 << 20


def test_a_library_of_mutants_is_indexed_beside_a_good_file(mutants: list[Path], tmp_path: Path):
    some = mutants[:200]
    write_sound(tmp_path / "good.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    growth = Growth()
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        report = library.index([tmp_path / "good.wav", *some])
        assert growth.bytes() < MAX_BYTES - WORKER_BYTES
        assert report.indexed + len(report.failed) == len(some) + 1
        assert all("expected" in reason for _, reason in report.failed)
        assert "good.wav" in {Path(moment.path).name for moment in library.search("band500", k=500, min_relevance=0)}
        library.check()
        again = library.index([tmp_path / "good.wav", *some])
        assert (again.indexed, again.failed, again.lost) == (0, [], 0)
