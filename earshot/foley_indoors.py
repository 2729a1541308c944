"""Sounds of the house, the workshop and music; see ``earshot.synth`` for their means."""

from __future__ import annotations

import numpy as np

from earshot.synth import Samples, add, burst, clock, filtered, glide, noise, ring, room, wander


def alarm_clock(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A digital alarm clock: four short beeps, then a rest."""
    t = clock(rate_hz, seconds)
    on = ((t % 1.0) < 0.5) & ((t % 0.125) < 0.065)
    beep = np.sign(np.sin(2 * np.pi * 2048 * t)) * np.convolve(on, np.ones(40) / 40, "same")
    return room(rng, filtered(beep, rate_hz, [(500, -30), (2000, 0), (6000, -8)]), rate_hz, 0.3, 0.15)


def telephone(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """An old telephone: a clapper between two bells, two seconds on, two off."""
    out = np.zeros(round(seconds * rate_hz))
    bells = [
        ring(rate_hz, 0.7, [(f, 1, 0.6), (f * 2.76, 0.6, 0.35), (f * 5.4, 0.35, 0.2), (f * 1.01, 0.5, 0.6)])
        for f in (1180.0, 1480.0)
    ]
    for strike, at_s in enumerate(np.arange(0.1, seconds, 1 / 22)):
        if at_s % 4 < 2:
            add(out, at_s + rng.uniform(0, 0.003), bells[strike % 2], rate_hz, rng.uniform(0.8, 1))
    return room(rng, out, rate_hz, 0.4, 0.2)


def doorbell(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Ding-dong: two struck bars."""
    out = np.zeros(round(seconds * rate_hz))
    for start_s in np.arange(0.3, seconds - 1.5, 3.0):
        for delay_s, hz in ((0.0, 659.3), (0.75, 523.3)):
            add(
                out,
                start_s + delay_s,
                ring(rate_hz, 2.0, [(hz, 1, 2), (hz * 2.76, 0.3, 0.8), (hz * 5.4, 0.12, 0.3)]),
                rate_hz,
            )
    return room(rng, out, rate_hz, 0.5, 0.15)


def ticking(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A small alarm clock: tick, tock, five times a second, in a quiet room."""
    out = 0.012 * noise(rng, rate_hz, seconds, [(60, 0), (500, -8), (4000, -16)])
    for beat, at_s in enumerate(np.arange(0.15, seconds, 0.2)):
        pitch, level = (1.0, 1.0) if beat % 2 else (1.12, 0.8)
        brass = ring(rate_hz, 0.08, [(2700 * pitch, 0.5, 0.05), (3100 * pitch, 0.6, 0.05), (4100 * pitch, 0.4, 0.04)])
        for delay_s, share in ((0.0, 1.0), (0.012, 0.4)):
            add(out, at_s + delay_s, brass, rate_hz, share * level)
            pallet = burst(rng, rate_hz, 0.02, [(500, -20), (2500, 0), (6000, -2)])
            add(out, at_s + delay_s, pallet, rate_hz, share * level)
    return out


def typing(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Somebody typing fast on a computer keyboard, with pauses to think."""
    out = 0.006 * noise(rng, rate_hz, seconds, [(60, 0), (500, -8), (4000, -16)])
    at_s = 0.2
    while at_s < seconds - 0.2:
        for _ in range(rng.integers(6, 14)):
            hz, level = rng.uniform(0.85, 1.2), rng.uniform(0.4, 1)
            touch = burst(rng, rate_hz, 0.012, [(600, -22), (2500 * hz, -2), (5000 * hz, 0), (11000, -6)])
            down = burst(rng, rate_hz, 0.03, [(200, -16), (900 * hz, -4), (2400 * hz, 0), (5000, -5), (10000, -16)])
            add(out, at_s, touch, rate_hz, 0.4 * level)
            add(out, at_s + 0.012, down, rate_hz, level)
            add(out, at_s + rng.uniform(0.07, 0.1), touch, rate_hz, 0.5 * level)
            at_s += rng.uniform(0.07, 0.16)
        at_s += rng.uniform(0.05, 0.4)
    return room(rng, out, rate_hz, 0.2, 0.15)


def knocking(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Knuckles on a wooden door, four at a time."""
    out = 0.002 * noise(rng, rate_hz, seconds, [(60, 0), (500, -8), (4000, -20)])
    for bout_s in np.arange(0.3, seconds - 0.9, 1.9):
        for knock in range(4):
            pitch, at_s = rng.uniform(0.96, 1.04), bout_s + 0.2 * knock
            modes = [(90, 1.0, 0.2), (150, 0.7, 0.14), (230, 0.58, 0.115), (390, 0.5, 0.1)]
            add(out, at_s, ring(rate_hz, 0.3, [(hz * pitch, level, fall_s) for hz, level, fall_s in modes]), rate_hz)
            add(
                out, at_s, burst(rng, rate_hz, 0.05, [(60, -6), (200, 0), (600, -4), (1500, -14), (5000, -36)]), rate_hz
            )
    return room(rng, out, rate_hz, 0.4, 0.1)


def dripping(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Drops into a basin: each bubble rings upwards."""
    out = np.zeros(round(seconds * rate_hz))
    for at_s in np.arange(0.3, seconds, 0.62) + rng.uniform(-0.06, 0.06):
        t = clock(rate_hz, 0.12)
        base = rng.uniform(750, 1300)
        add(out, at_s, 0.25 * burst(rng, rate_hz, 0.012, [(1500, -10), (5000, 0)]), rate_hz)
        add(out, at_s + 0.012, glide(base * (1 + 4.5 * t), rate_hz) * np.exp(-t / 0.022), rate_hz, rng.uniform(0.6, 1))
    return room(rng, out, rate_hz, 0.8, 0.25)


def glass(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A pane that shatters: the blow, then shards that ring and scatter on the floor."""
    out = np.zeros(round(seconds * rate_hz))
    for start_s in (0.25, 0.25 + seconds / 2):
        add(out, start_s, burst(rng, rate_hz, 0.25, [(200, -10), (1500, 0), (7000, 0)]), rate_hz, 0.8)
        for at_s in start_s + np.concatenate((rng.exponential(0.05, 40), rng.gamma(3.0, 0.16, 70))):
            hz, fall_s = rng.uniform(2300, 9000), rng.uniform(0.03, 0.3)
            modes = [(hz * ratio, level, fall_s / ratio) for ratio, level in ((1, 1.0), (1.58, 0.6), (2.24, 0.4))]
            add(out, at_s, ring(rate_hz, 0.3, modes), rate_hz, 0.28 * rng.uniform(0.2, 1) * np.exp(-(at_s - start_s)))
    return room(rng, out, rate_hz, 0.4, 0.12)


def crackling_fire(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A wood fire: a soft roar, and snaps of every size."""
    out = 0.03 * noise(rng, rate_hz, seconds, [(30, 0), (200, -4), (1000, -14), (6000, -24)])
    out *= 0.5 + wander(rng, rate_hz, seconds, 6)
    snaps = [burst(rng, rate_hz, rng.uniform(0.003, 0.02), [(500, -12), (3000, 0), (9000, -3)]) for _ in range(30)]
    for at_s in rng.uniform(0, seconds, int(45 * seconds)):
        add(out, at_s, snaps[rng.integers(30)], rate_hz, min(1.0, 0.07 * rng.pareto(1.2)))
    return out


def heartbeat(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A heart through a stethoscope: lub, dub, 72 times a minute."""
    out = 0.015 * noise(rng, rate_hz, seconds, [(20, 0), (120, -6), (500, -24)])
    for at_s in np.arange(0.2, seconds, 60 / 72):
        for delay_s, low_hz, level in ((0.0, 45.0, 1.0), (0.3, 58.0, 0.75)):
            t = clock(rate_hz, 0.14)
            thump = noise(rng, rate_hz, 0.14, [(20, -14), (low_hz, 0), (low_hz * 1.8, -6), (250, -26), (600, -50)])
            thump += 1.5 * np.sin(2 * np.pi * low_hz * t)
            add(out, at_s + delay_s, thump * np.sin(np.pi * t / 0.14) ** 2, rate_hz, level)
    return out


def applause(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A hall that applauds: a thousand claps a second from forty kinds of hands."""
    out = np.zeros(round(seconds * rate_hz))
    claps = [
        burst(
            rng, rate_hz, rng.uniform(0.04, 0.08), [(hz / 4, -24), (hz / 1.5, -4), (hz, 0), (2 * hz, -6), (5 * hz, -14)]
        )
        for hz in rng.uniform(800, 2000, 40)
    ]
    for at_s in rng.uniform(0, seconds, int(1000 * seconds)):
        add(out, at_s, claps[rng.integers(40)], rate_hz, rng.uniform(0.1, 1) ** 1.5)
    return room(rng, out, rate_hz, 1.0, 0.5)


def drill(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A power drill: the motor runs up, labours in the wall, and stops, again and again."""
    t = clock(rate_hz, seconds) % 3.4
    speed: Samples = np.where(t < 2.6, 1 - np.exp(-t / 0.12), np.exp(-(t - 2.6) / 0.15))
    pitch = (450 + 12 * wander(rng, rate_hz, seconds, 4)) * speed
    levels = [0.6, 1, 0.4, 0.9, 0.3, 0.5, 0.2, 0.45, 0.15, 0.3, 0.1, 0.2, 0.1, 0.1]
    grit = noise(rng, rate_hz, seconds, [(60, -14), (300, -6), (900, 0), (3000, 0), (6000, -4), (9000, -10)])
    return (0.5 * glide(pitch, rate_hz, levels) + 0.9 * grit) * speed**2


def sawing(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A hand saw through wood: quick push and pull, the teeth just audible."""
    stroke = (clock(rate_hz, seconds) * 5) % 2
    travel = np.sin(np.pi * (stroke % 1)) ** 0.8
    teeth = 0.8 + 0.2 * np.sin(2 * np.pi * np.cumsum(150 * (0.3 + travel)) / rate_hz)
    push = noise(rng, rate_hz, seconds, [(150, -26), (600, -8), (1500, 0), (3000, -1), (5000, -4), (9000, -14)])
    pull = noise(rng, rate_hz, seconds, [(150, -14), (400, -3), (900, 0), (1800, -3), (4000, -10), (9000, -24)])
    return teeth * travel * np.where(stroke < 1, push, 0.6 * pull)


def steam(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A valve that lets off steam in long hisses."""
    t = clock(rate_hz, seconds) % 3.2
    hiss = noise(rng, rate_hz, seconds, [(200, -34), (1500, -12), (5000, 0), (12000, -2)])
    return hiss * (0.04 + np.minimum(1, t / 0.05) * np.where(t < 1.7, 1, np.exp(-(t - 1.7) / 0.12)))


def laser(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Ray guns of a space film: steep falling glides."""
    out = np.zeros(round(seconds * rate_hz))
    for at_s in np.arange(0.2, seconds - 0.3, 0.62) + rng.uniform(-0.1, 0.1):
        t = clock(rate_hz, 0.35)
        zap = glide(90 + rng.uniform(3500, 5500) * np.exp(-t / 0.045), rate_hz, [1, 0.6, 0.5, 0.4, 0.3])
        zap += 0.5 * burst(rng, rate_hz, 0.35, [(300, -10), (2000, 0), (8000, -10)])
        add(out, at_s, np.tanh(2 * zap) * np.exp(-t / 0.09), rate_hz)
    return room(rng, out, rate_hz, 0.7, 0.3)


def church_bell(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A bell with a founder's partials: hum, prime, tierce, quint, nominal and above, beating a little."""
    out = np.zeros(round(seconds * rate_hz))
    partials = [
        (0.5, 0.45, 9),
        (1, 0.6, 6),
        (1.183, 0.9, 5),
        (1.506, 0.4, 4),
        (2, 1, 4),
        (2.514, 0.5, 2.5),
        (2.662, 0.5, 2),
    ]
    partials += [(3.011, 0.7, 1.7), (4.166, 0.6, 1.1), (5.433, 0.5, 0.8), (6.796, 0.4, 0.6), (8.2, 0.3, 0.4)]
    modes = [(415.3 * ratio * beat, level, fall_s) for ratio, level, fall_s in partials for beat in (1, 1.0025)]
    toll = ring(rate_hz, 7.0, modes)
    for at_s in np.arange(0.2, seconds, 1.9):
        add(out, at_s, toll, rate_hz, rng.uniform(0.85, 1))
        add(out, at_s, burst(rng, rate_hz, 0.06, [(800, -6), (3000, 0), (8000, -6)]), rate_hz, 0.8)
    air = noise(rng, rate_hz, seconds, [(50, 0), (400, -12), (4000, -30)])
    return room(rng, out, rate_hz, 2.5, 0.35) + 0.03 * air


def drums(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A rock beat at 108 a minute: bass drum, snare, hi-hat."""
    out = np.zeros(round(seconds * rate_hz))
    t = clock(rate_hz, 0.35)
    kick = glide(48 + 110 * np.exp(-t / 0.03), rate_hz) * np.exp(-t / 0.1)
    snare = burst(rng, rate_hz, 0.25, [(150, -8), (400, -4), (3000, 0), (9000, -4)])
    snare += 1.2 * ring(rate_hz, 0.25, [(185, 1, 0.2), (330, 0.6, 0.15)])
    hat = burst(rng, rate_hz, 0.09, [(2000, -40), (6000, -3), (9000, 0), (16000, -3)])
    for step, at_s in enumerate(np.arange(0.1, seconds, 60 / 108 / 2)):
        add(out, at_s, hat, rate_hz, 0.3 if step % 2 else 0.4)
        if step % 8 in (0, 3, 4):
            add(out, at_s, kick, rate_hz, 1.4)
        if step % 4 == 2:
            add(out, at_s, snare, rate_hz, 0.7)
    return room(rng, out, rate_hz, 0.5, 0.15)


def piano(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A slow melody over chords: stiff strings, two to a note, and hammers."""
    melody = [76, 79, 84, 83, 79, 76, 77, 81, 79, 77, 76, 74, 72, 76, 79, 72]
    chords = [(48, 55, 64), (45, 52, 60), (41, 48, 57), (43, 50, 59)]
    notes = [(0.2 + 0.45 * step, key, 1.0) for step, key in enumerate(melody * 2)]
    notes += [(0.2 + 1.8 * bar, key, 0.6) for bar, chord in enumerate(chords * 2) for key in chord]
    hammer = burst(rng, rate_hz, 0.05, [(80, 0), (300, -2), (1200, -10), (4000, -20)])
    strings: dict[int, Samples] = {}
    out = np.zeros(round(seconds * rate_hz))
    for at_s, key, level in (note for note in notes if note[0] < seconds):
        if key not in strings:
            hz = 440 * 2 ** ((key - 69) / 12)
            stiff = [(k, k * hz * np.sqrt(1 + 0.0004 * k * k)) for k in range(1, 12)]
            fall_s = 4.0 * (60 / key) ** 2
            strings[key] = ring(rate_hz, 1.8, [(f, 0.8**k, fall_s / k**0.5) for k, f in stiff])
            strings[key] += ring(rate_hz, 1.8, [(f * 1.0006, 0.6 * 0.8**k, 0.4 * fall_s / k**0.5) for k, f in stiff])
        add(out, at_s, strings[key], rate_hz, level)
        add(out, at_s, hammer, rate_hz, 0.1 * level)
    return room(rng, out, rate_hz, 0.8, 0.15)
