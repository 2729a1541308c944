"""What tells a sound from others is preferred to what is near to all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.bundle import open_bundle
from engine.distinctive import SHARE, Distinctive, distinctive_of


def test_what_is_near_to_every_sound_loses_most() -> None:
    common = np.array([1.0, 0.0, 0.0], np.float32)
    something, dog = np.array([0.9, 0.2, 0.0], np.float32), np.array([0.5, 0.6, 0.0], np.float32)
    sound = np.array([0.8, 0.6, 0.0], np.float32)
    captions = np.stack([something, dog])
    assert (captions @ sound).argmax() == 0
    found = Distinctive(common).likeness(captions, sound)
    assert found.argmax() == 1
    slow = [sum(a * b for a, b in zip(one, sound, strict=True)) - SHARE * one[0] for one in captions]
    np.testing.assert_allclose(found, slow, rtol=1e-6)


def test_where_nobody_knows_what_sounds_have_in_common_cosines_decide() -> None:
    bundle = open_bundle("starter")
    captions, sound = np.eye(3, 256, dtype=np.float32), np.ones(256, np.float32)
    for nobody in (None, replace(bundle, manifest=replace(bundle.manifest, captioner=None))):
        np.testing.assert_array_equal(distinctive_of(nobody).likeness(captions, sound), captions @ sound)
    assert distinctive_of(bundle).common.shape == (256,)
