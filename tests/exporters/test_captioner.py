"""The caption graphs say, piece by piece, what PyTorch says with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from engine.beams import Rules, beam_search, greedy_search
from engine.decoding import CachedSteps
from engine.session import KeepingSession, Session
from exporters.captiongraph import decoder_model, prefix_model
from exporters.decoder import CaptionDecoder, from_gpt2

PIECES, END, START, DIM = 60, 1, 7, 16
#: transformers says that its rule reaches what is generated alone: so does ours.
pytestmark = pytest.mark.filterwarnings("ignore:Passing `no_repeat_ngram_size`")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    """A GPT-2 whose chances are far apart, and that ends after a few pieces, sometimes."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=PIECES, n_positions=40, n_embd=32, n_layer=3, n_head=4, bos_token_id=END, eos_token_id=END
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        ends = model.transformer.wte.weight[END]
        model.transformer.ln_f.bias.add_(2 * ends / ends.square().sum())  # two more on the end's logit
    return model


@pytest.fixture(scope="module")
def ours(theirs: GPT2LMHeadModel) -> CaptionDecoder:
    """The same weights behind a mapping network."""
    torch.manual_seed(4)
    return from_gpt2(theirs, DIM, prefix=3, max_tokens=20)


@pytest.fixture(scope="module")
def graphs(ours: CaptionDecoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, KeepingSession]:
    folder: Path = tmp_path_factory.mktemp("graphs")
    onnx.save_model(prefix_model(ours), str(folder / "prefix.onnx"))
    onnx.save_model(decoder_model(ours), str(folder / "decoder.onnx"))
    return Session(folder / "prefix.onnx", "cpu", 1), KeepingSession(folder / "decoder.onnx", "cpu", 1)


def _vectors(clips: int) -> torch.Tensor:
    return 2 * torch.randn(clips, DIM, generator=torch.Generator().manual_seed(clips))


def _steps(graphs: tuple[Session, KeepingSession], vectors: torch.Tensor) -> CachedSteps:
    return CachedSteps(graphs[1], graphs[0].run({"vectors": vectors.numpy()}), START, PIECES)


@torch.no_grad()
def _generated(theirs: GPT2LMHeadModel, ours: CaptionDecoder, vectors: torch.Tensor, **settings: object) -> list:
    """What ``transformers`` generates, without what comes after the end."""
    start = ours.pieces(torch.full((len(vectors), 1), START))
    begun = torch.cat([ours.prefix(vectors), start], 1)
    found = theirs.generate(
        inputs_embeds=begun,
        attention_mask=torch.ones(begun.shape[:2]),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=END,
        **settings,
    )
    return [tuple(row[: row.index(END)] if END in row else row) for row in found.tolist()]


def test_log_probabilities_are_the_towers(graphs: tuple[Session, KeepingSession], ours: CaptionDecoder) -> None:
    """Step by step through the cache, against all at once without one."""
    vectors, ids = _vectors(3), torch.randint(0, PIECES, (3, 8), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = START
    with torch.no_grad():
        expected = torch.log_softmax(ours(vectors, ids), -1).numpy()
    steps = _steps(graphs, vectors)
    scores, pieces = steps.begin(PIECES)
    for place in range(8):
        found = np.take_along_axis(scores[:, 0], np.argsort(pieces[:, 0], axis=1), axis=1)
        np.testing.assert_allclose(found, expected[:, place], atol=2e-5)
        if place < 7:
            scores, pieces = steps.advance(ids[:, place + 1 : place + 2].numpy(), np.zeros((3, 1), np.int64), PIECES)


@pytest.mark.parametrize("no_repeat", [0, 2])
@pytest.mark.parametrize("clips", [1, 9])
def test_greedy_is_pytorchs(graphs, theirs, ours, clips: int, no_repeat: int) -> None:
    vectors = _vectors(clips)
    rules = Rules(END, max_tokens=12, beams=1, no_repeat=no_repeat)
    found = greedy_search(_steps(graphs, vectors), clips, rules)
    expected = _generated(theirs, ours, vectors, num_beams=1, no_repeat_ngram_size=no_repeat)
    assert [one.pieces for one in found] == expected
    assert clips == 1 or len({len(said) for said in expected}) > 1  # they end at different steps


@pytest.mark.parametrize(("beams", "penalty", "no_repeat"), [(5, 1.0, 0), (3, 0.0, 0), (4, 2.0, 2), (2, 0.5, 3)])
@pytest.mark.parametrize("clips", [1, 9])
def test_beam_search_is_pytorchs(graphs, theirs, ours, clips: int, beams: int, penalty: float, no_repeat: int) -> None:
    vectors = _vectors(clips)
    rules = Rules(END, max_tokens=12, beams=beams, length_penalty=penalty, no_repeat=no_repeat)
    found = beam_search(_steps(graphs, vectors), clips, rules)
    settings = {"num_beams": beams, "length_penalty": penalty, "no_repeat_ngram_size": no_repeat}
    expected = _generated(theirs, ours, vectors, num_return_sequences=beams, **settings)
    assert [one.pieces for hypotheses in found for one in hypotheses] == expected


def test_banned_pieces_are_never_said(graphs, theirs, ours) -> None:
    vectors = _vectors(6)
    banned = {piece for said in _generated(theirs, ours, vectors, num_beams=3) for piece in said[:2]} - {END}
    rules = Rules(END, max_tokens=12, beams=3, banned=frozenset(banned))
    found = beam_search(_steps(graphs, vectors), 6, rules)
    settings = {"num_beams": 3, "bad_words_ids": [[piece] for piece in banned]}
    assert [hypotheses[0].pieces for hypotheses in found] == _generated(theirs, ours, vectors, **settings)


def test_a_clip_says_the_same_alone_and_among_others(graphs) -> None:
    vectors, rules = _vectors(7), Rules(END, max_tokens=12, beams=4)
    together = beam_search(_steps(graphs, vectors), 7, rules)
    for number in range(7):
        alone = beam_search(_steps(graphs, vectors[number : number + 1]), 1, rules)[0]
        assert [one.pieces for one in alone] == [one.pieces for one in together[number]]
        np.testing.assert_allclose([one.score for one in alone], [one.score for one in together[number]], atol=1e-4)
