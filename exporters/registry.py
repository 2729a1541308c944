"""Which family a checkpoint is of. A new family is one more module in ``FAMILIES``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from exporters import finetuned, laion, msclap, own, sentence
from exporters.errors import SourceError
from exporters.source import OtherFamilyError, Source


class Family(Protocol):
    """A module of ``exporters`` that reads one kind of checkpoint."""

    NAME: str
    SUMMARY: str

    def reads(self, source: Path, config: dict[str, Any]) -> bool:
        """Whether a file or folder, with this ``config.json`` (``{}`` where it has none), is of this family."""

    def load(self, source: Path, name: str) -> Source:
        """Read it. Raises ``SourceError``; ``OtherFamilyError`` where it isn't of this family after all."""


FAMILIES: tuple[Family, ...] = (laion, msclap, sentence, own, finetuned)


def known_families() -> str:
    """The families in words, for errors and help."""
    return "; ".join(f"{family.NAME} ({family.SUMMARY})" for family in FAMILIES)


def load_source(source: Path, name: str | None = None) -> Source:
    """Read a checkpoint file or folder, ``name`` being what its bundle is called; default: the source's own.

    Raises ``SourceError``: nothing there, a family that is not known, or a checkpoint that can't be read.
    """
    if not source.exists():
        raise SourceError(f"nothing at {source}", "a checkpoint's file or folder", "check the path")
    config = _config(source)
    for family in FAMILIES:
        if family.reads(source, config):
            with suppress(OtherFamilyError):
                return family.load(source, name or source.resolve().name)
    kind = config.get("model_type") or "none that config.json names"
    raise SourceError(f"a checkpoint of an unknown family in {source} (model type: {kind})", known_families())


def _config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} ({error})", "JSON", "download or copy it again") from error
    return config if isinstance(config, dict) else {}
