"""What a run of fine-tuning leaves in its folder, and goes on from.

A run's folder holds ``run.json`` (settings, base), ``last.pt`` (all that is needed to go on, or to export), and the
curves ``curve.jsonl`` and ``curve.svg``. Everything is written beside its place, flushed and renamed: whenever a run is
killed, the last whole checkpoint is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from exporters.finetuned import LAST, RUN
from trainer.cache import write_atomic
from trainer.settings import Settings, TrainingError

CURVE = "curve.jsonl"
FORMAT = 1


class RunFolder:
    """Where a run lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.folder / LAST

    def begin(self, settings: Settings, facts: Mapping[str, Any]) -> bool:
        """Write down what is to be done; whether there is a checkpoint to go on from.

        A run that never saved one, as its data could not be read, is forgotten. Raises ``TrainingError`` for a folder
        with other things in it, or a run with other settings, with what differs.
        """
        path = self.folder / RUN
        told = {"format": FORMAT, "settings": settings.to_dict(), **facts}
        if path.is_file() and self.last.is_file():
            self._require_same(self._read(), told)
            return True
        if self.folder.is_dir() and any(self.folder.iterdir()) and not path.is_file():
            raise TrainingError(f"{self.folder}, which holds other things", "a new folder, or a run's", "choose --out")
        self._write(told)
        return False

    def note(self, name: str, value: Any) -> None:
        """Write down what the run has found out. Raises ``TrainingError``."""
        told = self._read()
        if told.get(name) != value:
            self._write({**told, name: value})

    def _read(self) -> dict[str, Any]:
        path = self.folder / RUN
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(told, dict) or not isinstance(told.get("settings"), dict):
                raise TypeError("no settings in it")
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{path}, which can't be read ({error})",
                "what the run was told",
                f"put it back; or remove {self.folder}, and the run begins anew",
            ) from error
        return told

    def _write(self, told: Mapping[str, Any]) -> None:
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        with self.writing():
            write_atomic(self.folder / RUN, lambda draft: draft.write_text(text, "utf-8"))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say what to do where the folder can't be written: what was there before stays. Raises ``TrainingError``."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.folder}, which can't be written ({error.strerror or error})",
                "a folder with room for checkpoints and curves",
                "make room, or choose another --out; the same command goes on from the last checkpoint",
            ) from error

    def _require_same(self, there: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        was, now = ({**one["settings"], **{k: v for k, v in one.items() if k != "settings"}} for one in (there, told))
        changed = [
            f"{name}: {was.get(name)!r} there, {now.get(name)!r} now" for name in now if was.get(name) != now[name]
        ]
        if changed:
            raise TrainingError(
                f"{self.folder} with other settings ({'; '.join(changed)})",
                "the same, to go on with it",
                "give the same settings, or another --out",
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint. Raises ``TrainingError`` where it can't be written; the one before then stays."""

        def write(draft: Path) -> None:
            try:
                with draft.open("wb") as stream:  # given a path, torch would not say that the disk is full
                    torch.save(dict(state), stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # behind which torch failed to close its archive
                    raise error.__context__ from None
                raise

        with self.writing():
            write_atomic(self.last, write)

    def load(self) -> dict[str, Any]:
        """The latest checkpoint. Raises ``TrainingError`` where it can't be read."""
        try:
            state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch share no class
            raise TrainingError(
                f"{self.last} ({error})", "a checkpoint", "remove it, and the run begins anew"
            ) from error
        return state
