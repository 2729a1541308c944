"""The demo's sounds: a small library such as a person might have, made on the spot by ``earshot.synth``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import soundfile

from earshot import foley_indoors as indoors
from earshot import foley_outdoors as outdoors
from earshot.synth import Samples, Sound, clock

PEAK = 0.7
SIREN_FROM_S, SIREN_TO_S = 20.0, 29.0

QUERIES = (
    "an emergency siren wailing",
    "perro ladrando",
    "someone typing on a keyboard",
    "des vagues sur la plage",
    "a helicopter flying over",
    "birds singing in the morning",
)
"""Questions that the demo's library can answer, in three languages. The siren is also in the windy evening, at 20 s."""


class Take(NamedTuple):
    """One file to be made; two channels are two microphones for a field of sound, else a source that passes by."""

    path: str
    sound: Sound
    seconds: float
    rate_hz: int
    channels: int = 1
    title: str = ""


def windy_evening(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Wind, with a siren in the street from ``SIREN_FROM_S`` to ``SIREN_TO_S``."""
    out = 0.25 * _levelled(outdoors.wind(rng, rate_hz, seconds))
    siren = _levelled(outdoors.siren(rng, rate_hz, SIREN_TO_S - SIREN_FROM_S))
    t = clock(rate_hz, SIREN_TO_S - SIREN_FROM_S)
    start = round(SIREN_FROM_S * rate_hz)
    out[start : start + len(siren)] += siren * np.clip(np.minimum(t, t[-1] - t) / 0.5, 0, 1)
    return out


TAKES = (
    Take("alarms/siren_wail.wav", outdoors.siren, 10, 44_100),
    Take("alarms/alarm_clock_beeps.flac", indoors.alarm_clock, 6, 48_000, title="Bedside alarm clock"),
    Take("alarms/telephone_ringing.ogg", indoors.telephone, 9, 22_050, title="Old telephone"),
    Take("alarms/car_horn.mp3", outdoors.car_horn, 5, 44_100, 2),
    Take("alarms/doorbell_ding_dong.wav", indoors.doorbell, 6, 16_000),
    Take("weather/rain_on_yard.ogg", outdoors.rain, 8, 48_000, 2),
    Take("weather/thunder_rumble.flac", outdoors.thunder, 12, 22_050, title="Thunderstorm from the porch"),
    Take("weather/wind_gusts.wav", outdoors.wind, 10, 16_000),
    Take("weather/ocean_waves.mp3", outdoors.waves, 14, 32_000, 2, "Beach at dawn"),
    Take("weather/balcony_windy_evening.ogg", windy_evening, 40, 16_000),
    Take("animals/dog_barks.wav", outdoors.dog, 7, 32_000),
    Take("animals/garden_birds.flac", outdoors.birds, 9, 44_100, title="Garden birds"),
    Take("animals/crickets_night.ogg", outdoors.crickets, 10, 32_000, 2),
    Take("machines/engine_idling.wav", outdoors.engine, 8, 11_025),
    Take("machines/helicopter_flyover.ogg", outdoors.helicopter, 12, 32_000, 2),
    Take("machines/power_drill.mp3", indoors.drill, 8, 32_000),
    Take("machines/steam_valve.wav", indoors.steam, 7, 22_050),
    Take("machines/handsaw.flac", indoors.sawing, 6, 32_000),
    Take("household/clock_ticking.wav", indoors.ticking, 8, 32_000),
    Take("household/keyboard_typing.flac", indoors.typing, 8, 44_100, title="Office keyboard"),
    Take("household/knocking_on_door.wav", indoors.knocking, 6, 16_000),
    Take("household/footsteps_gravel.ogg", outdoors.footsteps, 8, 22_050),
    Take("household/tap_dripping.wav", indoors.dripping, 8, 22_050),
    Take("household/glass_shatters.wav", indoors.glass, 4, 48_000),
    Take("household/fireplace.flac", indoors.crackling_fire, 12, 32_000),
    Take("household/heartbeat_stethoscope.wav", indoors.heartbeat, 8, 8_000),
    Take("music/church_bell.ogg", indoors.church_bell, 12, 32_000, 2, "Sunday bell"),
    Take("music/drum_beat.mp3", indoors.drums, 10, 44_100, 2),
    Take("music/piano_melody.flac", indoors.piano, 12, 22_050, title="Slow piano"),
    Take("music/laser_zaps.wav", indoors.laser, 5, 44_100),
    Take("music/audience_applause.mp3", indoors.applause, 8, 44_100, 2),
)
_FIELDS = (outdoors.rain, outdoors.waves, outdoors.crickets, indoors.applause)


def write_sounds(folder: Path) -> list[Path]:
    """Make every take below ``folder`` (created if need be, files replaced); returns the paths, in order.

    The same samples every time: each take's chance is seeded by its name. Raises ``OSError`` where it can't write.
    """
    paths = []
    for take in TAKES:
        path = folder / take.path
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = _render(take)
        with soundfile.SoundFile(path, "w", take.rate_hz, take.channels) as file:
            if take.title:
                file.title = take.title
            # libsndfile's Vorbis encoder overflows its stack on very long writes.
            for start in range(0, len(samples), take.rate_hz):
                file.write(samples[start : start + take.rate_hz])
        paths.append(path)
    return paths


def _render(take: Take) -> Samples:
    """The samples of a take, ``[n]`` or ``[n, 2]``, at a peak of ``PEAK``."""
    rng = np.random.default_rng(crc32(take.path.encode()))
    samples = take.sound(rng, take.rate_hz, take.seconds)
    if take.channels == 2 and take.sound in _FIELDS:
        samples = np.stack([samples, take.sound(rng, take.rate_hz, take.seconds)], axis=1)
    elif take.channels == 2:
        angle = np.linspace(0.2, 0.3, len(samples)) * np.pi
        samples = np.stack([samples * np.cos(angle), samples * np.sin(angle)], axis=1)
    return PEAK * _levelled(samples)


def _levelled(samples: Samples) -> Samples:
    return samples / float(np.max(np.abs(samples)))
