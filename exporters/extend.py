"""A bundle of ours with an a2t module beside its towers: nothing else changes, and its space stays what it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from engine.bundle import open_bundle, read_manifest
from exporters import own
from exporters.amend import amend
from exporters.compose import GRAPH, compare_compose, write_compose
from exporters.composing import A2t, ComposedText
from exporters.errors import SourceError
from exporters.export import replacing, self_test
from exporters.finetuned import BASE, a2t_of, note_a2t, read_run, read_state
from exporters.source import fingerprint
from exporters.starter import read_towers
from exporters.store import PackedEmbedding, round_to_bytes

#: The manifest's section on the module, and what tells this one from others.
COMPOSED, MODULE = "composed", "module"


def extend_bundle(base: Path, a2t: A2t, out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle ``base``, of our own family and in fp32, with ``a2t``, in ``out``, which may be ``base`` itself.

    Returns the manifest. Raises ``SourceError``, ``ParityError``, ``BundleError``.
    """
    checkpoint = read_towers(base, packed=True)
    stored = isinstance(checkpoint.text.pieces, PackedEmbedding)
    part = own.source_of(read_towers(base), "text").text
    assert part is not None
    if stored:
        round_to_bytes(a2t)
    module = ComposedText(checkpoint.text, a2t).eval()
    with replacing(out) as folder:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        write_compose(module, part, folder, "fp32", packed=stored)
        note_a2t(folder, a2t)
        manifest = amend(folder, {"compose": {"graph": GRAPH}, **facts})
        with np.load(folder / "golden.npz") as known:
            golden = dict(known)
        parity = compare_compose(module, part, open_bundle(folder), golden)
        np.savez_compressed(folder / "golden.npz", **golden)
        manifest = amend(folder, {"parity": {**manifest["parity"], **parity}})
        self_test(open_bundle(folder))
    return manifest


def export_a2t(run: Path, out: Path) -> dict[str, Any]:
    """A run that has learnt its a2t module alone, as its base bundle with that module. Raises ``SourceError``."""
    told, _ = read_run(run)
    state = read_state(run)
    a2t = a2t_of(state)
    base = Path(told[BASE]["path"])
    if a2t is None or not (base / "manifest.json").is_file():
        raise SourceError(f"{run} without an a2t module, or not of a bundle", "both", "train it with --method composed")
    space_id = read_manifest(base / "manifest.json").space_id
    return extend_bundle(base, a2t, out, {COMPOSED: {"base": space_id, MODULE: module_print(state), **_learnt(told)}})


def module_print(state: Mapping[str, Tensor]) -> str:
    """What tells a run's a2t module from others upon one base: 12 hexadecimal digits of its weights' hash."""
    return fingerprint(((key, value) for key, value in state.items() if key.startswith("a2t.")), None, {})[:12]


def _learnt(told: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("method", "epochs", "rate", "a2t_rate", "temperature", "prompt", "seed")
    return {key: told["settings"][key] for key in wanted}
