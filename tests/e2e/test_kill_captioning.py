"""Never lost, never doubled: SIGKILL at random moments of `index --caption`, on the embedded memory."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from earshot import Library
from engine.fakes import FakeEncoders
from engine.memory.captions import CaptionMemory
from engine.memory.edge import EdgeMemory
from indexer.captions import WINDOWS_A_STEP
from indexer.ledger import Ledger
from tests.sounds import tone, write_sound

KILLS, FILES = 6, 60
RUN = """
import sys
import time
from earshot import Library
from engine.fakes import FakeEncoders
from engine.types import Caption
from indexer import captions, writer

_, library, sounds, window_s, at_once = sys.argv
writer.SAVE_POINTS = captions.WINDOWS_AT_ONCE = int(at_once)  # many small saves: many places to be killed in

class Sayer:
    identity = "sayer#1"

    def caption(self, vectors):
        print(len(vectors), flush=True)
        time.sleep(0.02)  # or all is said before the first kill
        return [Caption(f"a sound like {abs(hash(v.tobytes())) % 7}", 0.5, "eng") for v in vectors]

print("ready", flush=True)
with Library(library, encoders=FakeEncoders(window_s=float(window_s), hop_s=float(window_s) / 2)) as opened:
    opened.index([sounds], caption=Sayer())
print("done", flush=True)
"""


def run(
    library: Path, sounds: Path, kill_at: int | None, delay_s: float, window_s: float = 1.0, at_once: int = 12
) -> tuple[bool, int]:
    """Index in a process of its own; whether it ended by itself, and how many windows it began to caption.

    Killed after its n-th batch of captions began, if there are as many.
    """
    command = [sys.executable, "-c", RUN, str(library), str(sounds), str(window_s), str(at_once)]
    windows = 0
    environment = {"PYTHONHASHSEED": "1", "PATH": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill_at is not None:
            for _ in range(kill_at):
                line = process.stdout.readline()
                if not line.strip().isdigit():  # so little was left to say that it has ended before
                    break
                windows += int(line)
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
        windows += sum(int(line) for line in process.stdout.read().split() if line.isdigit())
    assert process.returncode in (0, -signal.SIGKILL), "the run itself failed"
    return process.returncode == 0, windows


def test_killed_while_it_captions(tmp_path: Path):
    for n in range(FILES):
        samples = tone(1.0 + n % 4, rate_hz=8000, hz=60.0 * (1 + n))
        write_sound(tmp_path / "sounds" / f"{n}.wav", samples, rate_hz=8000)
    library, rng = tmp_path / "library", random.Random(3)
    kills = sum(
        not run(library, tmp_path / "sounds", kill_at=rng.randrange(1, 4), delay_s=rng.uniform(0, 0.05))[0]
        for _ in range(KILLS)
    )
    assert kills >= 3
    assert run(library, tmp_path / "sounds", None, 0.0)[0]
    said = _is_whole(library, tmp_path / "sounds", FILES)
    with Library(library, encoders=FakeEncoders()) as again:
        assert again.remembers(source="generated") == len(said)
        assert again.text_memory()[1] == []
        assert len(again.search("sound like", by="keywords", k=100)) == FILES


def test_killed_in_the_middle_of_ten_thousand_windows(tmp_path: Path):
    """What was said before is there, and not said again."""
    library, sounds, at_once = tmp_path / "library", tmp_path / "sounds", 512
    parts = [tone(1.0, rate_hz=8000, hz=60.0 * (1 + n % 30)) for n in range(101)]
    write_sound(sounds / "long.wav", np.concatenate(parts), rate_hz=8000)
    settings = {"delay_s": 0.0, "window_s": 0.02, "at_once": at_once}
    ended, first = run(library, sounds, 10 * at_once // WINDOWS_A_STEP, **settings)
    assert not ended
    ended, second = run(library, sounds, None, **settings)
    assert ended
    assert 10_000 <= first + second <= 10_200 + at_once
    assert second < 6000
    _is_whole(library, sounds, 1)


def _is_whole(library: Path, sounds: Path, files: int) -> set[str]:
    """Every window is there once and captioned, every caption is remembered once; returns what was said."""
    space = FakeEncoders().space
    ledger = Ledger(library / "ledger.sqlite")
    assert ledger.uncaptioned([sounds], 10) == {}
    windows = ledger.totals().windows
    ledger.close()
    with EdgeMemory(library / "memory" / "sounds") as memory:
        memory.ensure_space(space.space_id, space.dim)
        payloads = [record.payload for record in memory.scroll()]
    assert len(payloads) == windows
    assert all(payload.get("caption") for payload in payloads)
    first = [payload for payload in payloads if payload["window"] == 0]
    assert len(first) == files
    for payload in first:
        own = {p["caption"] for p in payloads if p["sha256"] == payload["sha256"]}
        assert set(payload["captions"]) == own
    said = {str(payload["caption"]) for payload in payloads}
    with EdgeMemory(library / "memory" / "captions") as memory:
        memory.ensure_space(space.space_id, space.dim)
        kept = Counter(one.text for one in CaptionMemory(memory, space.space_id).all())
    assert kept == Counter(said)
    return said
