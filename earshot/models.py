"""Which model a library hears with: how a bundle is remembered, opened and tried."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from earshot.places import bundles_folder, expanded
from engine.bundle import known_bundles, open_bundle
from engine.encoders import Encoders, OnnxEncoders
from engine.memory.captions import ShippedCaptions
from engine.types import Device

DEFAULT_BUNDLE = "starter"
#: The file of a bundle with captions of its own.
MEMORY = "memory.npz"


def bundle_key(bundle: str | Path) -> str:
    """How a library remembers its bundle: a registered name, or else the folder in full."""
    return str(bundle) if str(bundle) in known_bundles(bundles_folder()) else str(expanded(bundle).resolve())


def load_encoders(bundle: str | Path, device: Device) -> OnnxEncoders:
    """The towers of a bundle by name or folder; graphs are loaded at first use. Raises ``BundleError``."""
    return OnnxEncoders(open_bundle(expanded(bundle), bundles_folder()), device)


def shipped_captions(encoders: Encoders) -> ShippedCaptions | None:
    """The captions that come with the bundle of these encoders, if any do. Raises ``BundleError``."""
    bundle = getattr(encoders, "bundle", None)
    path = bundle.folder / MEMORY if bundle is not None else None
    return _loaded(path, encoders.space.dim, path.stat().st_mtime_ns) if path is not None and path.exists() else None


@lru_cache(maxsize=2)
def _loaded(path: Path, dim: int, mtime_ns: int) -> ShippedCaptions:
    return ShippedCaptions(path, dim)


def check_encoders(encoders: Encoders) -> dict[str, str]:
    """Use both towers once: which bundle and device answered. Raises what is wrong with them."""
    bundle = getattr(encoders, "bundle", None)
    if bundle is not None:
        bundle.verify()
    texts = encoders.text.encode_text(["rain", "a dog barking"])
    encoders.audio.encode_audio(np.zeros((1, encoders.space.window_samples), np.float32))
    return {
        "bundle": f"{encoders.space.space_id}, {texts.shape[1]} dimensions, self-test passed",
        "device": encoders.device,
    }
