"""What fine-tuning starts from: a bundle of ours, a checkpoint of any family, or an earlier run."""

from __future__ import annotations

from pathlib import Path

from engine.bundle import known_bundles, read_manifest
from exporters import own
from exporters.errors import SourceError
from exporters.registry import load_source
from exporters.source import Source
from exporters.starter import read_towers


def find_base(base: str, bundles: Path | None = None) -> Path:
    """The folder or file that ``base`` names: a bundle's name, or a path. Raises ``SourceError``."""
    known = known_bundles(bundles)
    path = known.get(base, Path(base).expanduser())
    if not path.exists():
        raise SourceError(
            f"no base {base!r}", f"a bundle ({', '.join(sorted(known))}), a checkpoint or a run", "check the name"
        )
    return path.resolve()


def load_base(path: Path, name: str | None = None) -> Source:
    """The towers of a bundle of our own family, or of whatever ``load_source`` reads. Raises ``SourceError``.

    ``name`` is what the source is called; default: the bundle's name, or the folder's.
    """
    if not (path / "manifest.json").is_file():
        return load_source(path, name)
    manifest = read_manifest(path / "manifest.json")
    if manifest.precision != "fp32":
        raise SourceError(
            f"{manifest.name} in {manifest.precision}", "weights as they were trained", "take its fp32 bundle"
        )
    return own.source_of(read_towers(path), name or manifest.name)
