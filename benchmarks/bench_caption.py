"""How fast are captions made, beside ``transformers``' ``generate`` with the same weights in the same run?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.targets import judge
from earshot import foley_indoors as indoors
from earshot import foley_outdoors as outdoors
from engine.beams import Rules, beam_search
from engine.bundle import Bundle, open_bundle
from engine.decoding import CachedSteps
from engine.encoders import OnnxEncoders, encode_sound, normalise
from engine.fakes import FakeEncoders
from engine.memory.edge import EdgeMemory
from engine.projection import EVIDENCE, laid_out, project
from engine.session import KeepingSession, Session
from engine.types import FloatArray
from exporters.captiongraph import decoder_model, prefix_model
from exporters.decoder import CaptionDecoder, from_gpt2

TOKENS, BEAMS, DIM, PREFIX, START = 20, 5, 512, 10, 7
ROUNDS = 5
LARGE = 2048
SOUNDS = (
    outdoors.rain,
    outdoors.dog,
    outdoors.siren,
    outdoors.birds,
    indoors.typing,
    indoors.ticking,
    indoors.piano,
    indoors.telephone,
)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    """GPT-2 base with random weights that never ends early: all of it is worked out by both."""
    torch.manual_seed(0)
    config = GPT2Config(initializer_range=0.06, attn_implementation="sdpa")
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def ours(
    theirs: GPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CaptionDecoder, Session, KeepingSession]:
    """The same weights as ours, and its two graphs: prefix, and step by step."""
    decoder, folder = from_gpt2(theirs, DIM, PREFIX, TOKENS), tmp_path_factory.mktemp("gpt2")
    onnx.save_model(prefix_model(decoder), str(folder / "prefix.onnx"))
    onnx.save_model(decoder_model(decoder), str(folder / "decoder.onnx"))
    return decoder, Session(folder / "prefix.onnx", "cpu"), KeepingSession(folder / "decoder.onnx", "cpu")


def _in_turns(*tasks: Callable[[], object]) -> list[float]:
    """The median seconds of each; one after the other, so that what disturbs one disturbs all."""
    times: list[list[float]] = [[] for _ in tasks]
    for _ in range(ROUNDS):
        for task, taken in zip(tasks, times, strict=True):
            began = time.perf_counter()
            task()
            taken.append(time.perf_counter() - began)
    return [median(taken) for taken in times]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batch", [1, 8])
def test_gpt2_sized(benchmark, theirs, ours, batch: int) -> None:
    """A decoder of GPT-2 base's size, 20 tokens, 5 beams, 2 cores; both decode the same points, to the same pieces."""
    if benchmark.disabled:
        pytest.skip("takes minutes: run it with --benchmark-enable")
    decoder, prefix, session = ours
    vectors = np.random.default_rng(batch).standard_normal((batch, DIM)).astype(np.float32)
    rules = Rules(end=-1, max_tokens=TOKENS, beams=BEAMS)

    def ort() -> list[tuple[int, ...]]:
        steps = CachedSteps(session, prefix.run({"vectors": vectors}), START, decoder.config.pieces)
        return [one[0].pieces for one in beam_search(steps, batch, rules)]

    @torch.inference_mode()
    def pytorch() -> list[tuple[int, ...]]:
        begun = torch.cat([decoder.prefix(torch.from_numpy(vectors)), decoder.pieces(torch.full((batch, 1), START))], 1)
        found = theirs.generate(
            inputs_embeds=begun,
            attention_mask=torch.ones(begun.shape[:2]),
            num_beams=BEAMS,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        return [tuple(row) for row in found.tolist()]

    assert ort() == pytorch()  # and both are warm
    benchmark.pedantic(ort, rounds=1)
    ours_s, theirs_s, large_s = _in_turns(ort, pytorch, large_product)
    figures = {
        "ours_ms": round(ours_s * 1e3),
        "transformers_ms": round(theirs_s * 1e3),
        "times_faster": round(theirs_s / ours_s, 2),
        "gflops": round(_operations(decoder, batch) / ours_s / 1e9),
        "gflops_of_a_large_product": round(2 * LARGE**3 / large_s / 1e9),
    }
    benchmark.extra_info.update(figures)
    print(f"\n{benchmark.name}: {json.dumps(figures)}")
    judge(benchmark, {f"captions batch {batch}": theirs_s / ours_s})


def _operations(decoder: CaptionDecoder, batch: int) -> int:
    """Multiplications and additions in the matrix products of one decoding, attention's left out."""
    layers = sum(p.numel() for p in decoder.layers.parameters() if p.dim() > 1)
    steps = TOKENS - 1
    rows, read = batch * (PREFIX + 1 + steps * BEAMS), batch * (1 + steps * BEAMS)
    return 2 * (rows * layers + read * decoder.pieces.weight.numel())


def large_product() -> None:
    """What the machine can do: PyTorch's own product of two large matrices."""
    torch.ones(LARGE, LARGE) @ torch.ones(LARGE, LARGE)


def test_starter_caption(benchmark) -> None:
    """A window's vector to a caption with its evidence, as the starter comes: its strategy, its beams, its memory."""
    bundle = open_bundle("starter")
    if bundle.manifest.captioner is None:
        pytest.skip("the starter has no decoder yet")
    from earshot.captioning import OfBundle
    from engine.captioner import Captioner

    encoders = OnnxEncoders(bundle, "cpu")
    captioner = Captioner(bundle, encoders, OfBundle(encoders), device="cpu")
    vectors = encoders.text.encode_text(["a dog barks twice", "rain on a tin roof", "a door slams shut"])
    captioner.caption(vectors)
    turn = iter(range(10**9))
    benchmark.pedantic(lambda: captioner.caption(vectors[next(turn) % 3][None]), rounds=30, warmup_rounds=3)
    if not benchmark.disabled:
        judge(benchmark, {"caption": median(benchmark.stats.stats.data) * 1e3})


def captions_like(bundle: Bundle, count: int) -> FloatArray:
    """``count`` captions: those that come with the starter again and again, each time said a little differently.

    At the starter's temperature most of them weigh something, as what is remembered does and random directions don't.
    """
    with np.load(bundle.path("memory.npz")) as held:
        vectors = held["vectors"].astype(np.float32)
    again = np.resize(vectors, (count, vectors.shape[1]))
    return normalise(again + 0.03 * np.random.default_rng(0).standard_normal(again.shape, np.float32))


def heard_by(bundle: Bundle) -> FloatArray:
    """What the starter makes of sounds made on the spot."""
    encoders = OnnxEncoders(bundle, "cpu")
    made = (sound(np.random.default_rng(0), bundle.manifest.audio.sample_rate_hz, 6.0) for sound in SOUNDS)
    blocks = (iter([samples.astype(np.float32)]) for samples in made)
    return np.stack([encode_sound(encoders.audio, some, encoders.space) for some in blocks])


@pytest.mark.parametrize("sounds", [1, 8])
def test_projection(benchmark, sounds: int) -> None:
    """Sounds projected onto 100,000 captions, exactly, as the starter does it; for each of them."""
    bundle = open_bundle("starter")
    if bundle.manifest.captioner is None:
        pytest.skip("the starter has no decoder yet")
    laid, heard, tau = laid_out(captions_like(bundle, 100_000)), heard_by(bundle), bundle.manifest.captioner.tau
    turn = iter(range(10**9))

    def task() -> None:
        project(np.roll(heard, next(turn), axis=0)[:sounds], laid, tau)

    benchmark.pedantic(task, rounds=1 if benchmark.disabled else 50, warmup_rounds=2)
    if not benchmark.disabled:
        judge(benchmark, {"projection": median(benchmark.stats.stats.data) / sounds * 1e3})


class _Towers(FakeEncoders):
    """Texts are numbers of captions, in the starter's space; words, such as "silence", are the first."""

    def __init__(self, bundle: Bundle, count: int) -> None:
        super().__init__()
        self.bundle, self.space = replace(bundle, folder=bundle.folder / "no captions"), bundle.manifest.space
        self._captions = captions_like(bundle, count)

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        return self._captions[[int(text) if text.isdecimal() else 0 for text in texts]]


@pytest.mark.timeout(1200)
def test_projection_in_a_library(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as ``earshot caption`` does it: 100,000 captions that a library remembers, with the evidence."""
    monkeypatch.setattr(EdgeMemory, "optimise", lambda _: None)  # a graph, which takes minutes, and isn't asked here
    from earshot import Library
    from earshot.captioning import OfLibrary
    from engine.captioner import Captioner

    bundle, count = open_bundle("starter"), 2_000 if benchmark.disabled else 100_000
    if bundle.manifest.captioner is None:
        pytest.skip("the starter has no decoder yet")
    towers = _Towers(bundle, count)
    with Library(tmp_path / "library", encoders=towers, create=True) as library:
        library.remember(map(str, range(count)), lang="eng")
    with Library(tmp_path / "library", encoders=towers) as library:  # what was written is settled
        captioner = Captioner(bundle, library.encoders, OfLibrary(library), strategy="projection", device="cpu")
        sounds = heard_by(bundle)[:1]
        points, [evidence], [bound] = captioner._points(sounds)
        assert points.shape == sounds.shape
        assert (len(evidence), bound) == (EVIDENCE, 0.0)
        benchmark.pedantic(lambda: captioner._points(sounds), rounds=1 if benchmark.disabled else 50, warmup_rounds=2)
    if not benchmark.disabled:
        judge(benchmark, {"projection": median(benchmark.stats.stats.data) * 1e3})
