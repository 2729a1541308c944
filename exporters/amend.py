"""A bundle that is given another file or fact: card and hashes are made anew, towers and space stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.bundle import file_sha256
from exporters.card import card


def amend(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put ``facts`` into the manifest of the bundle in ``folder``, list the files that lie there, return the manifest.

    The card of the starter tells of files and figures and is written again; others' cards tell of their towers only.
    """
    path = folder / "manifest.json"
    manifest: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8")), **facts}
    if "family" not in manifest:
        (folder / "README.md").write_text(card(manifest, folder), encoding="utf-8")
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != path.name)
    manifest["files"] = {name: file_sha256(folder / name) for name in names}
    draft = folder / ".manifest.json.draft"
    draft.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
    return manifest
