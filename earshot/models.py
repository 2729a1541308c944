"""Which model a library hears with: how a bundle is remembered, opened and tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from earshot.places import bundles_folder, expanded
from engine.bundle import known_bundles, open_bundle
from engine.encoders import Encoders, OnnxEncoders
from engine.types import Device

DEFAULT_BUNDLE = "starter"


def bundle_key(bundle: str | Path) -> str:
    """How a library remembers its bundle: a registered name, or else the folder in full."""
    return str(bundle) if str(bundle) in known_bundles(bundles_folder()) else str(expanded(bundle).resolve())


def load_encoders(bundle: str | Path, device: Device) -> OnnxEncoders:
    """The towers of a bundle by name or folder; graphs are loaded at first use. Raises ``BundleError``."""
    return OnnxEncoders(open_bundle(expanded(bundle), bundles_folder()), device)


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
