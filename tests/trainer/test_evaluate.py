"""The verdict's figures on cases worked by hand, through encoders that are known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from engine.fakes import FakeEncoders
from trainer.evaluate import Figure, best_windows, figures, hear, similar, table


def test_best_windows_by_loops():
    chance = np.random.default_rng(0)
    texts = chance.standard_normal((3, 4))
    heard = [chance.standard_normal((n, 4)) for n in (1, 2, 5)]
    found = best_windows(texts, heard)
    for i, text in enumerate(texts):
        for j, windows in enumerate(heard):
            assert found[i, j] == pytest.approx(max(float(text @ window) for window in windows))


def test_figures_by_hand():
    # Two kinds, four sounds; "a" is answered rightly, "b" by a sound of "a"; the sounds of a kind are alike.
    scores = np.array([[0.9, 0.2, 0.1, 0.3], [0.8, 0.1, 0.7, 0.6]])
    means = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    found = {f.name: f for f in figures(scores, ["a", "b"], ["a", "a", "b", "b"], means @ means.T)}
    assert found["text-to-audio P@1"].value == 0.5
    assert found["text-to-audio R@5"].value == 1.0
    assert found["text-to-audio mAP@10"].value == pytest.approx(((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert found["zero-shot accuracy"].value == 1.0
    assert found["find-similar P@1"].value == 1.0
    assert found["median rank"].value == 1.5


def test_similar_is_the_mean_of_best_windows():
    chance = np.random.default_rng(2)
    asked = [chance.standard_normal((n, 6)).astype(np.float32) for n in (1, 3, 2)]
    heard = [chance.standard_normal((n, 6)).astype(np.float32) for n in (4, 1)]
    found = similar(asked, heard)
    for i, queries in enumerate(asked):
        for j, windows in enumerate(heard):
            slow = sum(max(float(q @ w) for w in windows) for q in queries) / len(queries)
            assert found[i, j] == pytest.approx(slow, abs=1e-5)


def test_hear_gives_every_window(tmp_path):
    encoders = FakeEncoders()
    rate = encoders.space.sample_rate_hz
    size, hop = encoders.space.window_samples, encoders.space.hop_samples
    noise = np.random.default_rng(0).standard_normal(size + 2 * hop) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, rate)
    [vectors] = hear(encoders, [tmp_path / "a.wav"])
    assert vectors.shape == (3, encoders.space.dim)


def test_table_has_a_line_for_each_figure():
    lines = table([Figure.of("x", np.array([0.0, 1.0])), Figure.of("y", np.ones(3))]).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "| y | 1.000 | 1.000 to 1.000 | 3 |"


def test_the_verdict_needs_no_torch():
    code = "import sys, trainer.evaluate, trainer.metrics, trainer.calibrate; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
