"""Examples -> batches of samples: decoded once, cropped at random to train, cut as the engine does to evaluate."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engine.types import FloatArray, Pad
from engine.windows import pad_to, window_starts
from trainer.examples import DataError, Example
from trainer.waveform_index import Waveform
from trainer.waveforms import OnProgress, Waveforms, no_progress

#: Above this share of clips that can't be heard, the data is not what it was taken for.
MOST_UNREADABLE = 0.01
#: Of how many batches the clips are sorted by length: fewer pad more, more leave less to chance.
BUCKET_BATCHES = 50
AHEAD = 2
_NAMED = 10

#: A clip's number and its first sample; None: a random one.
_Row: TypeAlias = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to learn from: ``samples [batch, n]`` float32, whose they are, and their ``lengths [batch]``.

    ``contents`` are the sha256 of the rows' sounds. In evaluation a clip has a row for each of its windows, so an
    example may come several times.
    """

    samples: Tensor
    lengths: Tensor
    examples: list[Example]
    contents: list[str]


class Loader:
    """Batches of one epoch after another, the same for the same seed, exactly resumable.

    In training a clip gives one random crop an epoch, batches are all full (the rest of an epoch is left out), and
    rows are shuffled. In evaluation a clip gives the windows that ``engine.windows`` cuts, none left out.

    All decoding happens at the start, into ``cache`` (``trainer.waveforms``), where the next run finds it.
    ``skipped`` are the clips that can't be heard, and why.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        sample_rate_hz: int,
        window_samples: int,
        batch: int,
        seed: int,
        cache: Path,
        rank: int = 0,
        world: int = 1,
        train: bool = True,
        variable: bool = False,
        hop_samples: int | None = None,
        pad: Pad = "repeat",
        called: str = "clips",
        on_progress: OnProgress = no_progress,
    ) -> None:
        """``batch`` rows a process, of ``world`` processes of which this is number ``rank``.

        Fixed towers get rows of exactly ``window_samples``, shorter clips padded by ``pad``. With ``variable`` that is
        the most a row holds; clips of like length come together, and zeros fill up behind ``lengths``.
        ``hop_samples`` (default: ``window_samples``) and ``pad`` are the bundle's. ``called`` is what a message calls
        the examples.

        Raises ``DataError`` where more than 1 % of the clips can't be heard, where a batch is larger than the data, and
        where the cache can't be written.
        """
        self._waveforms = Waveforms(cache, sample_rate_hz)
        self._size, self._hop, self._pad = window_samples, hop_samples or window_samples, pad
        self._batch, self._rank, self._world = batch, rank, world
        self._train, self._variable, self._seed, self._called = train, variable, seed, called
        self._epoch = self._position = 0
        self._clips: list[tuple[Example, Waveform]] = []
        self.skipped: list[tuple[Example, str]] = []
        for example, found in zip(examples, self._waveforms.fill(examples, on_progress), strict=True):
            if isinstance(found, Waveform):
                self._clips.append((example, found))
            else:
                self.skipped.append((example, str(found)))
        self._require_enough(len(examples))
        self._known_as = self._fingerprint()
        self._plan = self._planned()

    def _require_enough(self, asked: int) -> None:
        if len(self.skipped) > MOST_UNREADABLE * asked:
            named = "; ".join(f"{example.name}: {reason}" for example, reason in self.skipped[:_NAMED])
            more = f"; and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
            raise DataError(
                f"{len(self.skipped)} of {asked} {self._called} that can't be heard ({named}{more})",
                f"at most {MOST_UNREADABLE:.0%}",
                "`earshot train check` names them all",
            )
        needed = self._batch * self._world if self._train else 1
        if len(self._clips) < needed:
            processes = f" in each of {self._world} processes" if self._world > 1 else ""
            raise DataError(
                f"a batch of {self._batch}{processes} from {len(self._clips)} {self._called}",
                "a batch no larger than the data",
                "give more clips, or a smaller batch",
            )

    def __len__(self) -> int:
        """Batches in an epoch, for this process."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        """What is left of this epoch, prepared in a thread; at its end the next one begins."""
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1) as thread:
            try:
                for rows in self._plan[self._position :]:
                    pending.append(thread.submit(self._filled, rows, self._epoch))
                    if len(pending) > AHEAD:
                        yield self._given(pending.popleft())
                while pending:
                    yield self._given(pending.popleft())
            finally:
                thread.shutdown(cancel_futures=True)
        self._go_to(self._epoch + 1)

    def _given(self, batch: Future[Batch]) -> Batch:
        found = batch.result()
        self._position += 1
        return found

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; where it has begun already, stay where it is."""
        if epoch != self._epoch:
            self._go_to(epoch)

    def _go_to(self, epoch: int) -> None:
        self._epoch, self._position = epoch, 0
        self._plan = self._planned()

    def state_dict(self) -> dict[str, Any]:
        """Where it is, in plain numbers and texts: the batch that was given last counts as done."""
        return {"epoch": self._epoch, "position": self._position, **self._known_as}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises ``DataError`` for a state of other data, seed or batch, with what differs."""
        differs = [name for name, value in self._known_as.items() if state.get(name) != value]
        if differs:
            raise DataError(
                "a state with " + ", ".join(f"{name} {state.get(name)}" for name in differs),
                ", ".join(f"{name} {self._known_as[name]}" for name in differs),
                "go on with what the run began with, or begin a new one",
            )
        self._go_to(int(state["epoch"]))
        self._position = int(state["position"])

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for the same numbers to come, its data among them."""
        return dict(self._known_as)

    def _fingerprint(self) -> dict[str, Any]:
        said = [
            (example.id, *((caption.lang, caption.text) for caption in example.captions))
            for example, _ in self._clips
            if example.captions
        ]
        clips = hashlib.sha256("".join(waveform.sha256 for _, waveform in self._clips).encode())
        return {
            "seed": self._seed,
            "batch": self._batch,
            "world": self._world,
            "train": self._train,
            "variable": self._variable,
            "window_samples": self._size,
            "hop_samples": self._hop,
            "sample_rate_hz": self._waveforms.sample_rate_hz,
            "clips": clips.hexdigest()[:16],
            "captions": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16],
        }

    def _planned(self) -> list[list[_Row]]:
        """The rows of each batch of this epoch, for this process."""
        if self._train:
            mine = slice(self._rank * self._batch, (self._rank + 1) * self._batch)
            return [[(int(clip), None) for clip in batch[mine]] for batch in self._shuffled()]
        dealt = list(range(self._rank, len(self._clips), self._world))
        if self._variable:
            dealt.sort(key=self._length)
        rows: list[_Row] = [
            (clip, start)
            for clip in dealt
            for start in window_starts(self._clips[clip][1].samples, self._size, self._hop)
        ]
        return [rows[start : start + self._batch] for start in range(0, len(rows), self._batch)]

    def _shuffled(self) -> list[np.ndarray]:
        """This epoch's clips, in whole batches of all processes together."""
        chance = np.random.default_rng([self._seed, self._epoch])
        size = self._batch * self._world
        order = chance.permutation(len(self._clips))
        order = order[: len(order) - len(order) % size]
        if not self._variable:
            return list(order.reshape(-1, size))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), BUCKET_BATCHES * size):
            bucket = order[start : start + BUCKET_BATCHES * size]
            lengths = [self._length(clip) for clip in bucket]
            batches += list(bucket[np.argsort(lengths, kind="stable")].reshape(-1, size))
        return [batches[number] for number in chance.permutation(len(batches))]

    def _length(self, clip: int) -> int:
        """Samples that the clip takes in a row."""
        return min(self._clips[clip][1].samples, self._size)

    def _filled(self, rows: Sequence[_Row], epoch: int) -> Batch:
        """Read the rows."""
        lengths = [self._length(clip) if self._variable else self._size for clip, _ in rows]
        samples = np.zeros((len(rows), max(lengths)), np.float32)
        for row, ((clip, first), length) in enumerate(zip(rows, lengths, strict=True)):
            samples[row, :length] = self._cut(clip, first, epoch, length)
        examples, waveforms = zip(*(self._clips[clip] for clip, _ in rows), strict=True)
        contents = [waveform.sha256 for waveform in waveforms]
        return Batch(torch.from_numpy(samples), torch.tensor(lengths), list(examples), contents)

    def _cut(self, clip: int, first: int | None, epoch: int, length: int) -> FloatArray:
        """``[length]`` samples of a clip. A crop's chance is its own, whatever thread, batch or process it falls to."""
        waveform = self._clips[clip][1]
        spare = max(0, waveform.samples - self._size)
        if first is None:
            first = int(np.random.default_rng([self._seed, epoch, clip]).integers(spare + 1)) if spare else 0
        found = self._waveforms.read(waveform, first, min(self._size, waveform.samples))
        return found if len(found) == length else pad_to(found, length, self._pad)
