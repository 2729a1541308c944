"""What the experiments on real sound are read from: ranks, towers on features, intervals, and the translated texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower
from trainer.loop import Plan
from trainer.metrics import first_ranks
from trainer.parallel import LANGUAGES
from trainer.recipes.enhanced import MIXES, read_translations
from trainer.recipes.evidence import Exam, FeatureTowers, difference, estimate, first_ranks_unsorted, kept

TEXTS = ["rain", "rain on a roof", "a dog barks", "wind", "a very long tale of wind and rain"]
AUDIO = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=8)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    words = sorted({word for text in TEXTS for word in text.split()})
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", "unused", *words])}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def towers(tokenizer: Path, *, locked: bool = False) -> tuple[FeatureTowers, TextTower]:
    torch.manual_seed(0)
    text = TextTower(TextConfig(pieces=40, dim=8, heads=2, inner=16)).eval()
    return FeatureTowers(AudioTower(AUDIO), text, tokenizer, TEXTS, locked=locked).eval(), text


@pytest.mark.parametrize("locked", [False, True])
def test_texts_are_read_as_the_tower_would_one_by_one(tokenizer: Path, locked: bool):
    found, text = towers(tokenizer, locked=locked)
    reader = Tokenizer.from_file(str(tokenizer))
    for name, vector in zip(TEXTS, found.read(TEXTS), strict=True):
        ids = torch.tensor([reader.encode(name).ids])
        with torch.inference_mode():
            np.testing.assert_allclose(vector, text(ids, torch.ones_like(ids))[0].numpy(), atol=1e-6)


def test_sounds_in_words_come_back_in_order(tokenizer: Path):
    found, _ = towers(tokenizer)
    sounds = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    with torch.inference_mode():
        alone = torch.cat([found.compose([text], sounds[[i]]) for i, text in enumerate(TEXTS)])
        assert torch.allclose(found.compose(TEXTS, sounds), alone, atol=1e-6)


@pytest.mark.parametrize("locked", [False, True])
def test_only_what_may_learn_does(tokenizer: Path, locked: bool):
    found, _ = towers(tokenizer, locked=locked)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    features = torch.rand(5, 2, 8)

    def losses(model: FeatureTowers, chance: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"total": -(model.encode_audio(features) * model.encode_texts(TEXTS)).sum(1).mean()}

    found.learn(losses, Plan(3, 1e-2, warmup=1, average=0))
    moved = {name.split(".")[0] for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"audio"} if locked else {"audio", "text"})
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items() if ".trunk." in name)


def test_a_sound_is_its_best_window_and_any_sound_of_a_text_will_do():
    class Given:
        def read(self, texts: list[str]) -> np.ndarray:
            return np.eye(3, dtype=np.float32)[: len(texts)]

        def heard(self, features: np.ndarray) -> np.ndarray:
            return features

    # Three sounds, of two, one and one windows; the first and the last say the same.
    windows = np.array([[0.1, 0.8, 0], [0.7, 0.2, 0], [0.5, 0.9, 0], [0.6, 0.3, 0]], np.float16)
    exam = Exam(windows, np.array([0, 0, 1, 2]), ["a", "b"], np.array([0, 1, 0]))
    marks = exam.marks(Given())  # type: ignore[arg-type]
    np.testing.assert_array_equal(marks["t2a"], [1, 1])
    # The first sound's best windows give 0.7 for its own text and 0.8 for the other.
    np.testing.assert_array_equal(marks["a2t"], [2, 1, 1])
    np.testing.assert_allclose(marks["t2a ap"], [(1 + 2 / 2) / 2, 1])
    asked = exam.found_by(Given(), np.array([1]), ["x"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(asked["t2a"], [3])


def test_ranks_are_those_of_the_metrics_ties_included():
    chance = np.random.default_rng(3)
    scores = chance.integers(0, 6, (40, 30)).astype(np.float32)
    right = chance.random((40, 30)) < 0.1
    right[:, 0] |= ~right.any(axis=1)
    np.testing.assert_array_equal(first_ranks_unsorted(scores, right), first_ranks(scores, right))


def test_an_interval_holds_what_seeds_and_queries_would_give():
    chance = np.random.default_rng(1)
    hits = (chance.random((5, 400)) < 0.3).astype(float)
    found = estimate(hits)
    assert found.value == pytest.approx(hits.mean())
    assert found.low < found.value < found.high
    # Independent hits: between the error of all 2,000 and that of the queries alone with the seeds'.
    error = np.sqrt(0.3 * 0.7 / 2000)
    assert 2.8 * error * 0.8 < found.seen < 2.8 * error * 3
    same = estimate(hits - hits)
    assert (same.value, same.low, same.high, same.seen) == (0, 0, 0, 0)


def test_a_difference_is_paired():
    base = np.tile((np.arange(200) % 2).astype(float), (5, 1))
    better = base.copy()
    better[:, ::20] = 1.0
    assert difference(better, base).startswith("+0.050 (+0.0")
    assert ", +10%, " in difference(better, base)


def test_what_was_done_is_not_done_again(tmp_path: Path):
    times = []

    def work() -> dict[str, np.ndarray]:
        times.append(1)
        return {"a b": np.arange(3.0)}

    for _ in range(2):
        np.testing.assert_array_equal(kept(tmp_path / "x.npz", work)["a b"], [0, 1, 2])
    assert len(times) == 1


def test_translations_are_whole_and_distinct():
    told = read_translations()
    assert len(told) == 260
    for language in LANGUAGES:
        assert len({said[language] for said in told.values()}) == len(told), language


def test_a_translation_that_is_not_whole_is_refused(tmp_path: Path):
    (tmp_path / "texts.tsv").write_text("\t".join(LANGUAGES) + "\nrain\tpluie\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"texts\.tsv, line 2"):
        read_translations(tmp_path / "texts.tsv")


def test_runs_have_names_of_their_own():
    assert len({(mix.start, mix.ratio, tuple(mix.languages)) for mix in MIXES}) == len(MIXES)
