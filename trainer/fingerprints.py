"""What each thing that is kept was made of, in a record beside it: nothing made of other inputs passes for today's.

A record is ``<name>.made-of.json``, ``{input: its value or digest}``; inputs that are kept things themselves go by the
digests of their own records, so a change shows in all that comes after it. Figures that differ in their last bits from
machine to machine (sums of floats) stay out: what they are worked out from is told instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from engine.errors import EarshotError
from trainer.cache import write_atomic

#: Names of inputs and their values, short enough to be read, or digests of them.
Inputs = Mapping[str, str]


class StageError(EarshotError):
    """What is kept was made of other inputs than today's, or doesn't say of which."""


def digest(*parts: Any) -> str:
    """16 hex digits that stand for plain values, arrays, tensors, dataclasses, and lists and mappings of these.

    A ``Path`` stands for the bytes of its file, wherever that lies. Raises ``OSError`` where it can't be read.
    """
    sums = hashlib.sha256()
    for part in parts:
        _feed(sums, part)
    return sums.hexdigest()[:16]


def _feed(sums: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        part = part.detach().cpu().numpy()
    if isinstance(part, np.ndarray):
        sums.update(f"{part.dtype}{part.shape}".encode())
        sums.update(np.ascontiguousarray(part).data)
    elif isinstance(part, Path):
        with part.open("rb") as stream:
            sums.update(hashlib.file_digest(stream, "sha256").digest())
    elif dataclasses.is_dataclass(part):
        _feed(sums, {field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
    else:
        try:
            sums.update(json.dumps(part).encode())  # at once, where it is plain all through
        except TypeError:
            if not isinstance(part, Mapping | list | tuple):
                raise
            for item in part.items() if isinstance(part, Mapping) else part:
                _feed(sums, item)
            sums.update(str(len(part)).encode())


def record_of(kept: Path) -> Path:
    """Where the record of a kept file or folder lies."""
    return kept.with_name(f"{kept.name}.made-of.json")


def read_record(kept: Path) -> dict[str, str] | None:
    """What it says it was made of; ``None`` where it doesn't say. Raises ``StageError`` where that can't be read."""
    path = record_of(kept)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StageError(f"{path} damaged ({error})", "what its neighbour was made of", f"delete {path}") from None


def claim(inputs: Inputs, kept: Path, *twins: Path, dear: bool = False, adopt: bool = False) -> str:
    """Make sure that ``kept`` and its ``twins`` are made of ``inputs``, or not there yet; the digest of ``inputs``.

    Made of others they are deleted, to be made anew, but what is ``dear`` is refused. What has no record is refused
    too, unless it is to be ``adopt``ed: taken to be of today's inputs. Raises ``StageError``.
    """
    found = read_record(kept)
    if found != dict(inputs):
        there = [path for path in (kept, *twins) if path.exists()]
        if there and found is None and not adopt:
            raise StageError(
                f"{kept}, which doesn't say what it was made of",
                f"{record_of(kept).name} beside it",
                "choose another --out, delete it, or, where nothing has changed, run trainer.recipes.starter --adopt",
            )
        if there and found is not None:
            if dear:
                raise differing(kept, found, inputs)
            for path in there:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        text = json.dumps(dict(inputs), indent=1)
        write_atomic(record_of(kept), lambda draft: draft.write_text(text, encoding="utf-8"))
    return digest(sorted(inputs.items()))


def differing(kept: Path, found: Inputs, expected: Inputs) -> StageError:
    """The refusal that names what differs."""
    names = [name for name in dict.fromkeys([*found, *expected]) if found.get(name) != expected.get(name)]
    told = [", ".join(f"{name} {one.get(name, 'nothing')}" for name in names) for one in (found, expected)]
    return StageError(f"{kept} made of {told[0]}", told[1], f"choose another --out, or delete {kept} to begin it anew")
