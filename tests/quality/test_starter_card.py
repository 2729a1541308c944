"""What the starter's card says it reaches is no less than what was promised when it was chosen."""

from __future__ import annotations

import json

import pytest

from engine.bundle import STARTER_DIR
from trainer.calibrate import GROUPS
from trainer.parallel import LANGUAGES

FLOORS = {"text-to-audio P@1": 0.38, "zero-shot accuracy": 0.28, "find-similar P@1": 0.79, "eng mAP@10": 0.35}
#: A language of 45 queries may lose this share of what English finds.
LEAST_OF_ENGLISH = 0.8
MOST_FALSE_ANSWERS, LEAST_RECALL = 0.1, 0.79


@pytest.fixture(scope="module")
def manifest() -> dict[str, object]:
    return json.loads((STARTER_DIR / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores(manifest: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    return {str(score["name"]): score["value"] for score in manifest["scores"]}


@pytest.mark.parametrize("figure", FLOORS)
def test_dev_split(scores: dict[str, float], figure: str) -> None:
    assert scores[figure] >= FLOORS[figure]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_finds_nearly_as_much_as_english(scores: dict[str, float], language: str) -> None:
    for figure in ("P@1", "mAP@10"):
        assert scores[f"{language} {figure}"] >= LEAST_OF_ENGLISH * scores[f"eng {figure}"]


@pytest.mark.parametrize("group", GROUPS)
def test_few_false_answers_at_the_recall_of_the_cutoff(manifest: dict[str, dict[str, float]], group: str) -> None:
    found = manifest["calibration_found"]
    assert found[f"{group}: recall at the cutoff, kinds present"] >= LEAST_RECALL
    assert found[f"{group}: queries with a false answer, kinds absent"] <= MOST_FALSE_ANSWERS
