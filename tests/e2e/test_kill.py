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
KILLS_A_LIBRARY = 5
RUN = """
import sys
from earshot import Library
from engine.fakes import FakeEncoders
from indexer import writer

writer.SAVE_POINTS = 24  # many small saves: many places to be killed in
writer.HELD_WINDOWS = 32
save = writer.Writer.save

def announced(self):
    if self._ready:
        print("saving", flush=True)
    save(self)

writer.Writer.save = announced
print("ready", flush=True)
with Library(sys.argv[1], encoders=FakeEncoders()) as library:
    library.index([sys.argv[2]], prune=True)
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


def run(library: Path, sounds: Path, kill_at_save: int | None = None, delay_s: float = 0.0) -> int | None:
    """Index in a process of its own; how often it saved, or None if it was killed before its end.

    It is killed ``delay_s`` after its n-th save began, or with n = 0 after its start: saves, not seconds, say how far
    a run has come, on a quick machine and on a busy one.
    """
    command = [sys.executable, "-c", RUN, str(library), str(sounds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill_at_save is not None:
            for _ in range(kill_at_save):
                process.stdout.readline()
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
        saves = len(process.stdout.readlines())
    assert process.returncode in (0, -signal.SIGKILL), "the run itself failed"
    return saves if process.returncode == 0 else None


def test_killed_at_random_moments(tmp_path: Path, sounds: Path):
    plain = tmp_path / "undisturbed"
    started = time.monotonic()
    saves = run(plain, sounds)
    assert saves
    save_s = (time.monotonic() - started) / saves
    expected, expected_answers, whole = contents(plain), answers(plain), status_files(plain)
    rng = random.Random(7)
    kills = half_filled = rounds = 0
    while kills < KILLS:
        library = tmp_path / f"killed-{rounds}"
        for _ in range(KILLS_A_LIBRARY):
            if run(library, sounds, rng.randint(0, saves // 3), rng.uniform(0, save_s)) is None:
                kills += 1
                half_filled += 0 < status_files(library) < whole
        run(library, sounds)
        assert contents(library) == expected
        assert answers(library) == expected_answers
        rounds += 1
    assert 2 * half_filled >= kills, f"only {half_filled} of {kills} kills left a half-filled library: kill elsewhere"


def status_files(library: Path) -> int:
    with Library(library, encoders=FakeEncoders()) as opened:
        return opened.status().files
