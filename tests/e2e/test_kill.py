"""Never lost, never doubled: SIGKILL at random moments of `index`, on the embedded memory and real files."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from engine.fakes import FakeEncoders
from engine.memory.edge import EdgeMemory
from tests.sounds import noise, tone, write_sound

KILLS = 24
RUN = """
import sys
from pathlib import Path
from earshot import Library
from engine.fakes import FakeEncoders
from indexer import writer
writer.SAVE_POINTS = 64  # many small saves: many places to be killed in
writer.HELD_WINDOWS = 32
print("ready", flush=True)
with Library(sys.argv[1], encoders=FakeEncoders()) as library:
    report = library.index([sys.argv[2]], prune=True)
print(report.indexed, flush=True)
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for n in range(60):
        samples = tone(0.5 + n % 7, rate_hz=8000, hz=50.0 * (1 + n % 40)) + noise(
            0.5 + n % 7, rate_hz=8000, seed=n, peak=0.02
        )
        write_sound(folder / f"{n:03}.{('wav', 'flac', 'ogg')[n % 3]}", samples, rate_hz=8000)
    write_sound(folder / "long.wav", tone(120.0, rate_hz=8000, hz=990), rate_hz=8000)
    shutil.copy(folder / "003.wav", folder / "copy.wav")
    (folder / "broken.wav").write_text("no sound")
    return folder


def contents(library: Path) -> dict[str, tuple[bytes, str]]:
    """Everything that the memory holds: id -> vector and payload."""
    space = FakeEncoders().space
    with EdgeMemory(library / "memory" / "sounds") as memory:
        memory.ensure_space(space.space_id, space.dim)
        return {
            r.id: (np.asarray(r.vector).tobytes(), repr(sorted(r.payload.items())))
            for r in memory.scroll(with_vectors=True)
        }


def answers(library: Path) -> list[tuple[object, ...]]:
    with Library(library, encoders=FakeEncoders()) as opened:
        queries = ("band63", "band500", "band1000", "band2000")
        moments = [m for query in queries for m in opened.search(query, k=40, min_relevance=0)]
        found = sorted((m.path, m.start_s, m.end_s, round(m.score, 5)) for m in moments)
        state = opened.status()
        return [*found, (state.files, state.windows, state.failed, state.audio_s)]


def run(library: Path, sounds: Path, kill_after_s: float | None) -> bool:
    """Index in a process of its own; True if it got to the end."""
    command = [sys.executable, "-c", RUN, str(library), str(sounds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        last = process.stdout.read()
    assert process.returncode in (0, -signal.SIGKILL), "the run itself failed"
    return bool(last.strip())


def test_killed_at_random_moments(tmp_path: Path, sounds: Path):
    plain = tmp_path / "undisturbed"
    started = time.monotonic()
    assert run(plain, sounds, None)
    length_s = time.monotonic() - started
    expected, expected_answers = contents(plain), answers(plain)
    rng = random.Random(7)
    kills, rounds, unfinished = 0, 0, 0
    while kills < KILLS:
        library = tmp_path / f"killed-{rounds}"
        for _ in range(6):
            # The first kills of a round come early, so that several hit one library before it is whole.
            finished = run(library, sounds, rng.uniform(0, length_s / 2))
            kills += not finished
            totals = status_files(library)
            unfinished += totals not in (0, len(list(sounds.iterdir())) - 1)
        run(library, sounds, None)
        assert contents(library) == expected
        assert answers(library) == expected_answers
        rounds += 1
    assert unfinished >= 3, f"only {unfinished} of {kills} kills left a half-filled library: kill at other moments"


def status_files(library: Path) -> int:
    with Library(library, encoders=FakeEncoders()) as opened:
        return opened.status().files
