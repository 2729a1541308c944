"""A linear probe: how well a bundle's vectors of sounds tell kinds apart that a straight line may tell. No torch.

Logistic regression on the mean of a clip's window vectors, standardised; its regularisation is chosen by
cross-validation among the clips that are learnt from, never by those that are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import EarshotError
from engine.types import FloatArray
from trainer.metrics import Floats, Relevance, choices
from trainer.scores import ClassPrecision, Integers

if TYPE_CHECKING:
    from trainer.examples import Example

#: Inverse strengths of the ridge, from which cross-validation chooses.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
FOLDS, SEED, ROUNDS = 3, 0, 1000
#: Learnt from where splits have these names.
LEARNT = ("train", "training", "development")


class ProbeError(EarshotError):
    """Data that no probe can be learnt from."""


def folds(asked: Sequence[Example], learnt: Sequence[Example]) -> list[tuple[Integers, Integers]]:
    """Which of ``[*asked, *learnt]`` to learn from, and which to ask about, once or more.

    Where nothing is to be learnt from, each split of those asked about by what the others teach, as with the folds of
    ESC-50. Raises ``ProbeError`` where there is one split only.
    """
    here = np.arange(len(asked))
    if learnt:
        return [(np.arange(len(learnt)) + len(asked), here)]
    splits = np.array([example.split for example in asked])
    names = np.unique(splits)
    if len(names) < 2:
        raise ProbeError(
            f"one split only, {names[0]}", "clips to learn from, of split train, or several folds", "add such clips"
        )
    return [(here[splits != name], here[splits == name]) for name in names]


def probed(vectors: FloatArray, relevant: Relevance, rounds: Sequence[tuple[Integers, Integers]]) -> Floats:
    """Scores ``[classes, n]`` of clips ``[n, dim]`` whose kinds are ``relevant [classes, n]``.

    ``rounds`` say what is learnt from and what is asked about, see ``folds``; a clip that none asks about stays NaN.
    A kind of which nothing is learnt, or nothing else, gets the lowest score there is. Raises ``ProbeError`` without
    scikit-learn, or where one kind only is learnt.
    """
    found = np.full(relevant.shape, np.nan)
    for learnt, asked in rounds:
        mean, width = vectors[learnt].mean(axis=0), np.maximum(vectors[learnt].std(axis=0), 1e-6)
        known, news = ((vectors[part] - mean) / width for part in (learnt, asked))
        taught = relevant[:, learnt]
        usable = taught.any(axis=1) & ~taught.all(axis=1)
        if usable.sum() < 2:
            raise ProbeError("fewer than two kinds to learn", "tags of several kinds among the clips to learn from")
        # Lower than all, yet finite: differences of scores are taken.
        found[:, asked] = -1e9
        found[np.ix_(usable, asked)] = _learn(known, taught[usable], _strength(known, taught[usable]))(news)
    return found


def _strength(vectors: FloatArray, relevant: Relevance) -> float:
    """That of ``STRENGTHS`` which does best on clips that it was not fitted on; of equals the first."""
    part = _parts(relevant)
    return max(
        STRENGTHS,
        key=lambda strength: float(np.mean([_tried(vectors, relevant, part == n, strength) for n in range(FOLDS)])),
    )


def _parts(relevant: Relevance) -> Integers:
    """A part for each clip, every kind spread over all of them."""
    order = np.random.default_rng(SEED).permutation(relevant.shape[1])
    order = order[np.argsort(relevant[:, order].argmax(axis=0), kind="stable")]
    part = np.empty(len(order), np.int64)
    part[order] = np.arange(len(order)) % FOLDS
    return part


def _tried(vectors: FloatArray, relevant: Relevance, held: np.ndarray, strength: float) -> float:
    taught = relevant[:, ~held]
    usable = taught.any(axis=1) & ~taught.all(axis=1)
    truth = relevant[usable][:, held]
    if usable.sum() < 2 or not truth.any():
        return 0.0
    scores = _learn(vectors[~held], taught[usable], strength)(vectors[held])
    if (relevant.sum(axis=0) == 1).all():
        return float(choices(scores.T, truth.argmax(axis=0)).mean())
    here = np.arange(int(held.sum()))
    return float(ClassPrecision(scores, truth, here).under(np.ones((1, len(here)), np.int32))[0])


def _learn(vectors: FloatArray, relevant: Relevance, strength: float) -> Any:
    """A function from vectors ``[m, dim]`` to scores ``[classes, m]``: one model, or one a kind where these overlap."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ProbeError("no scikit-learn installed", "what a probe needs", "pip install 'earshot[train]'") from error

    def fitted(truth: Any) -> Any:
        return LogisticRegression(C=strength, max_iter=ROUNDS).fit(vectors, truth)

    if (relevant.sum(axis=0) == 1).all() and len(relevant) > 2:
        model = fitted(relevant.argmax(axis=0))
        return lambda news: model.decision_function(news).T
    models = [fitted(row) for row in relevant]
    return lambda news: np.stack([model.decision_function(news) for model in models])
