"""Sounds of the street, the weather, the sea and the animals; see ``earshot.synth`` for their means."""

from __future__ import annotations

import numpy as np

from earshot.synth import Samples, add, burst, clock, filtered, glide, noise, room, wander


def siren(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """An electronic siren that wails up and down every four seconds, in a street."""
    turn = (1 - np.cos(2 * np.pi * clock(rate_hz, seconds) / 4)) / 2
    tone = np.tanh(2 * glide(600 * 2.4**turn, rate_hz, [1 / k for k in range(1, 9)]))
    horn = filtered(tone, rate_hz, [(200, -24), (600, -6), (1100, 0), (2500, -3), (5000, -24)])
    return room(rng, horn, rate_hz, 1.2, 0.35) + 0.01 * noise(rng, rate_hz, seconds, [(50, 0), (500, -12), (4000, -40)])


def car_horn(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A car's two horns, honking twice shortly and once at length."""
    t = clock(rate_hz, seconds)
    levels = [1, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.3, 0.25, 0.2]
    tone = glide(np.full_like(t, 405.0), rate_hz, levels) + glide(np.full_like(t, 508.0), rate_hz, levels)
    pressed = ((t > 0.3) & (t < 0.8)) | ((t > 1.1) & (t < 1.5)) | ((t > 2.2) & (t < 4.0))
    tone *= np.convolve(pressed.astype(float), np.ones(400) / 400, "same")
    honk = filtered(tone, rate_hz, [(200, -20), (900, 0), (6000, -12)])
    return room(rng, honk, rate_hz, 0.9, 0.3) + 0.02 * noise(rng, rate_hz, seconds, [(40, 0), (400, -10), (5000, -40)])


def helicopter(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A helicopter passing over: thumping blades, chopped noise, a turbine's whine."""
    t = clock(rate_hz, seconds)
    turn = (t * 13.0) % 1
    chop = (0.5 + 0.5 * np.cos(2 * np.pi * turn)) ** 1.5
    low = noise(rng, rate_hz, seconds, [(20, -6), (60, 0), (200, -3), (700, -14), (3000, -34)])
    mid = noise(rng, rate_hz, seconds, [(100, -16), (500, 0), (1500, -5), (5000, -24)])
    whine = glide(np.full_like(t, 1900.0), rate_hz, [1, 0.4]) + glide(np.full_like(t, 26.0), rate_hz, [1] * 12)
    near = 0.4 + 0.6 * np.exp(-(((t - seconds / 2) / (seconds / 3)) ** 2))
    return near * ((0.25 + chop) * low + (0.15 + 0.4 * chop) * mid + 0.012 * whine)


def engine(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A truck idling: firing strokes that never quite repeat, the exhaust's breath, and rattle."""
    stroke_hz = 28 * (1 + 0.05 * (wander(rng, rate_hz, seconds, 6) - 0.5))
    levels = [np.exp(-((np.log(k * 28 / 90) / 1.1) ** 2)) * (1.4 if k % 2 == 0 else 0.8) for k in range(1, 30)]
    strokes = glide(stroke_hz, rate_hz, levels) * (1 + 0.25 * wander(rng, rate_hz, seconds, 30))
    breath = noise(rng, rate_hz, seconds, [(30, -3), (80, 0), (300, -6), (1000, -12), (4000, -24), (9000, -40)])
    rattle = noise(rng, rate_hz, seconds, [(300, -10), (1500, 0), (4000, -6)])
    beat: Samples = 0.5 + 0.5 * np.sin(2 * np.pi * np.cumsum(stroke_hz) / rate_hz)
    return strokes / float(strokes.std()) + 0.4 * breath + 0.12 * rattle * beat


def footsteps(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Walking on gravel: heel and toe crunch, and the ground gives a dull thud."""
    out = 0.004 * noise(rng, rate_hz, seconds, [(60, 0), (500, -12), (4000, -24)])
    t = clock(rate_hz, 0.4)
    heel_and_toe = np.exp(-(((t - 0.08) / 0.05) ** 2)) + 0.7 * np.exp(-(((t - 0.24) / 0.06) ** 2))
    for at_s in np.arange(0.25, seconds - 0.5, 0.55):
        stones = noise(rng, rate_hz, 0.4, [(200, -10), (700, 0), (2000, -3), (5000, -12), (12000, -28)])
        grit = 0.4 + 0.6 * wander(rng, rate_hz, 0.4, 120)
        add(out, at_s, stones * heel_and_toe * grit, rate_hz, rng.uniform(0.8, 1))
        thud = burst(rng, rate_hz, 0.12, [(40, -4), (90, 0), (200, -4), (600, -16), (2000, -30)])
        add(out, at_s + 0.04, thud, rate_hz, 0.5)
    return out


def rain(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Steady rain on a yard: a hiss, and drops close by."""
    out = 0.5 * noise(rng, rate_hz, seconds, [(60, -20), (400, -9), (2000, -3), (6000, 0), (15000, -8)])
    drops = [burst(rng, rate_hz, 0.02, [(300, -20), (f, 0), (2 * f, -20)]) for f in rng.uniform(1200, 6000, 24)]
    for at_s in rng.uniform(0, seconds, int(140 * seconds)):
        add(out, at_s, drops[rng.integers(24)], rate_hz, min(3.0, rng.pareto(2.5) * 0.7))
    return out * (0.85 + 0.3 * wander(rng, rate_hz, seconds, 0.5))


def thunder(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A crack, then a long rolling rumble over faint rain."""
    t = clock(rate_hz, seconds)
    rumble = noise(rng, rate_hz, seconds, [(15, -6), (45, 0), (120, -5), (400, -20), (2000, -44)])
    roll = np.zeros_like(t)
    for at_s in np.concatenate(([0.6, 0.9], 0.8 + rng.exponential(2.0, 12))):
        after = np.maximum(t - at_s, 0)
        roll += rng.uniform(0.4, 1) * (t > at_s) * np.minimum(after / 0.06, 1) * np.exp(-after / rng.uniform(0.5, 1.4))
    out = rumble * roll
    crack = [(30, -6), (150, 0), (800, -4), (4000, -18), (10000, -34)]
    for at_s in (0.6, 0.68, 0.83, 1.0):
        add(out, at_s, burst(rng, rate_hz, 1.3, crack), rate_hz, rng.uniform(0.4, 0.9))
    return out + 0.02 * noise(rng, rate_hz, seconds, [(300, -20), (3000, 0), (9000, -6)])


def wind(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Gusts of a storm: a deep roar, and leaves when it blows hardest."""
    gust = wander(rng, rate_hz, seconds, 1.0)
    roar = noise(rng, rate_hz, seconds, [(15, -6), (45, 0), (120, -5), (400, -20), (2000, -44)])
    leaves = noise(rng, rate_hz, seconds, [(100, -30), (350, -3), (500, 0), (800, -6), (1600, -20), (5000, -40)])
    return roar * (0.12 + gust) ** 1.5 + 0.11 * leaves * gust**2


def waves(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """Surf on a beach: each wave rumbles in, breaks, and hisses back."""
    t = clock(rate_hz, seconds)
    low = noise(rng, rate_hz, seconds, [(30, -6), (150, 0), (600, -6), (2000, -24)])
    high = noise(rng, rate_hz, seconds, [(200, -20), (800, -4), (2500, 0), (9000, -10)])
    out = 0.12 * low + 0.06 * high
    for at_s in np.arange(-2.0, seconds, 5.5) + rng.uniform(-0.5, 0.5):
        swell = np.exp(-(((t - at_s - 2.2) / 1.3) ** 2))
        after = np.maximum(t - at_s - 1.8, 0)
        out += 0.8 * swell * low + 0.7 * (1 - np.exp(-after / 0.5)) * np.exp(-after / 1.6) * high
    return out


def birds(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A few songbirds answering each other: sweeps, trills and whistles between 2.5 and 6 kHz."""
    out = np.zeros(round(seconds * rate_hz))
    for bird in range(3):
        base, level, at_s = 2800 + 900 * bird, (1.0, 0.6, 0.35)[bird], 0.2 + 0.7 * bird
        while at_s < seconds:
            length_s, up = rng.uniform(0.05, 0.11), rng.choice([-0.25, 0.2, 0.35])
            t = clock(rate_hz, length_s) / length_s
            note = glide(base * (1 + up * t + 0.05 * np.sin(40 * t)), rate_hz, [1, 0.12]) * np.sin(np.pi * t) ** 2
            for _ in range(rng.integers(2, 7)):
                add(out, at_s, note, rate_hz, level * rng.uniform(0.7, 1))
                at_s += length_s + rng.uniform(0.03, 0.06)
            at_s += rng.uniform(0.3, 1.1)
    air = noise(rng, rate_hz, seconds, [(50, 0), (400, -14), (3000, -30), (8000, -36)])
    return room(rng, out, rate_hz, 0.8, 0.15) + 0.01 * air


def crickets(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A summer night: three crickets near, a field of them far."""
    t = clock(rate_hz, seconds)
    out = np.zeros_like(t)
    for hz, chirps_hz, level in ((4350.0, 2.6, 1.0), (4620.0, 2.9, 0.6), (4900.0, 2.35, 0.4)):
        at = (t * chirps_hz + rng.uniform()) % 1
        pulses = np.maximum(0, np.sin(2 * np.pi * ((at * 12) % 1))) ** 2 * (at < 4 / 12)
        out += level * pulses * glide(hz * (1 - 0.02 * ((at * 12) % 1)), rate_hz)
    field = noise(rng, rate_hz, seconds, [(1000, -60), (4000, -10), (4500, 0), (5200, -10), (9000, -60)])
    trill = 0.5 + 0.5 * np.sin(2 * np.pi * 38 * t)
    return out + 0.35 * field * trill + 0.03 * noise(rng, rate_hz, seconds, [(50, 0), (600, -18), (5000, -30)])


def dog(rng: np.random.Generator, rate_hz: int, seconds: float) -> Samples:
    """A dog barking in bouts: a rough voice that rises and falls through the throat's formants."""
    out = np.zeros(round(seconds * rate_hz))
    at_s = 0.3
    while at_s < seconds - 0.3:
        for _ in range(rng.integers(1, 4)):
            t = clock(rate_hz, 0.2) / 0.2
            pitch = rng.uniform(430, 500) * (0.65 + 0.5 * np.sin(np.pi * np.minimum(1, t * 1.15 + 0.05)))
            pitch *= 1 + 0.04 * rng.standard_normal(len(t)).cumsum() / np.sqrt(np.arange(1, len(t) + 1))
            voice = glide(pitch, rate_hz, [1 / k**0.6 for k in range(1, 16)])
            rough = voice + 1.1 * noise(rng, rate_hz, 0.2, [(300, -10), (1500, 0), (5000, -10)])
            bark = np.tanh(rough) * np.minimum(1, t / 0.06) * np.minimum(1, ((1 - t) / 0.55)) ** 1.5
            throat = [(150, -30), (420, -8), (750, 0), (1250, -1), (1800, -8), (2600, -10), (4500, -26), (9000, -45)]
            add(out, at_s, filtered(bark, rate_hz, throat), rate_hz, rng.uniform(0.75, 1))
            at_s += rng.uniform(0.28, 0.4)
        at_s += rng.uniform(0.4, 0.9)
    return room(rng, out, rate_hz, 0.5, 0.2)
