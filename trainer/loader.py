"""Examples -> batches of samples: decoded once, cropped at random to train, cut as the engine does to evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.types import Pad
from trainer.examples import Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to learn from: ``samples [batch, n]`` float32, whose they are, and their ``lengths [batch]``.

    In evaluation a clip has a row for each of its windows, so an example may come several times.
    """

    samples: Tensor
    lengths: Tensor
    examples: list[Example]


class Loader:
    """Batches of one epoch after another, the same for the same seed, exactly resumable.

    In training a clip gives one random crop an epoch, batches are all full (the rest of an epoch is left out), and
    rows are shuffled. In evaluation a clip gives the windows that ``engine.windows`` cuts, in order, none left out.

    All decoding happens before the first batch, into ``cache`` (``trainer.waveforms``), where the next run finds it.
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
    ) -> None:
        """``batch`` rows a process, of ``world`` processes of which this is number ``rank``.

        Fixed towers get rows of exactly ``window_samples``, shorter clips padded by ``pad``. With ``variable`` that is
        the most a row holds; clips of like length come together, and zeros fill up behind ``lengths``.
        ``hop_samples`` (default: ``window_samples``) and ``pad`` are the bundle's.

        Raises ``DataError`` where more than 1 % of the clips can't be heard, where a batch is larger than the data, and
        where the cache can't be written.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        """Batches in an epoch, for this process."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        """What is left of this epoch; at its end the next one begins."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; where this one is meant, stay where it is."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Where it is: the batch that was given last counts as done."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises ``DataError`` for a state of other data, seed or batch, with what differs."""
        raise NotImplementedError

    @property
    def skipped(self) -> list[tuple[Example, str]]:
        """The clips that can't be heard, and why."""
        raise NotImplementedError
