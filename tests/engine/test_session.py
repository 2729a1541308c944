"""One graph on one device, and no other than was asked for."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from engine import session
from engine.bundle import CudaOptions
from engine.errors import BundleError, DeviceError
from engine.session import MOST_SHAPES, Bound, Session, cpu_count, why_no_cuda


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``x [batch, 3] -> 2 x``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    double = helper.make_node("Add", ["x", "x"], ["y"])
    model = helper.make_model(
        helper.make_graph([double], "double", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    path = tmp_path / "double.onnx"
    onnx.save(model, str(path))
    return path


class FakeOnnxSession:
    """What onnxruntime returns when it falls back without a word."""

    opened: tuple[Any, ...] = ()

    def __init__(self, _graph: str, options: Any, providers: list[Any]) -> None:
        FakeOnnxSession.opened = (options.intra_op_num_threads, *providers)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def cuda_that_does_not_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card and its driver, and no cuDNN."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeOnnxSession)
    monkeypatch.setattr(session, "why_no_cuda", lambda: "")


@pytest.fixture
def cuda_that_binds(cuda_that_does_not_bind: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with all that CUDA needs."""
    monkeypatch.setattr(FakeOnnxSession, "get_providers", lambda _: ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_a_graph_runs_on_the_cpu(graph: Path) -> None:
    opened = Session(graph, "cpu", threads=1)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(opened.run({"x": x}), 2 * x)
    assert (opened.device, opened.note) == ("cpu", "")


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_of_several_inputs_gets_its_own_answer(graph: Path, threads: int, count: int) -> None:
    opened = Session(graph, "cpu", threads)
    feeds = [{"x": np.full((number + 1, 3), number, np.float32)} for number in range(count)]
    found = opened.run_each(feeds)
    assert len(found) == count
    for one, given in zip(found, feeds, strict=True):
        np.testing.assert_array_equal(one, 2 * given["x"])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_of_several_inputs_two_run_at_once_where_there_are_cores(graph: Path, threads: int) -> None:
    opened = Session(graph, "cpu", threads)
    together, callers = Barrier(min(threads, 2), timeout=60), set()
    outside, inside = opened.run, opened._run_within

    def met(run: Any) -> Any:
        def call(feeds: Any) -> Any:
            together.wait()  # of one that comes alone, this raises
            callers.add(get_ident())
            return run(feeds)

        return call

    opened.run, opened._run_within = met(outside), met(inside)  # type: ignore[method-assign]
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(np.concatenate(opened.run_each([{"x": x}] * 6)), np.full((6, 3), 2, np.float32))
    assert len(callers) == min(threads, 2)


@pytest.mark.parametrize("wrong", [{"y": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 4), np.float32)}])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_input_among_several_that_fails(graph: Path, threads: int, wrong: Any) -> None:
    opened, right = Session(graph, "cpu", threads), {"x": np.ones((1, 3), np.float32)}
    for at in range(4):
        with pytest.raises(BundleError, match="a graph that fails on"):
            opened.run_each([*[right] * at, wrong, *[right] * (3 - at)])
    np.testing.assert_array_equal(opened.run(right), 2 * right["x"])


@pytest.mark.skipif(not why_no_cuda(), reason="this machine has CUDA")
def test_cuda_without_a_card_raises(graph: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        Session(graph, "cuda")
    assert caught.value.found
    assert caught.value.action


@pytest.mark.parametrize("reason", ["no NVIDIA driver", "no NVIDIA device"])
def test_auto_falls_back_and_says_why(graph: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr(session, "why_no_cuda", lambda: reason)
    opened = Session(graph, "auto")
    assert opened.device == "cpu"
    assert reason in opened.note


@pytest.mark.usefixtures("cuda_that_does_not_bind")
def test_cuda_that_does_not_bind_raises(graph: Path) -> None:
    with pytest.raises(DeviceError, match="bound CPUExecutionProvider"):
        Session(graph, "cuda", threads=3)
    threads, (first, options), second = FakeOnnxSession.opened
    assert (threads, first, second) == (3, "CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


@pytest.mark.usefixtures("cuda_that_does_not_bind")
def test_auto_with_cuda_that_does_not_bind_falls_back_and_says_so(graph: Path) -> None:
    opened = Session(graph, "auto")
    assert opened.device == "cpu"
    assert "bound CPUExecutionProvider" in opened.note
    assert FakeOnnxSession.opened[1:] == ("CPUExecutionProvider",)


def test_cuda_in_an_onnxruntime_without_it_raises(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert why_no_cuda() == "this onnxruntime has no CUDA"
    with pytest.raises(DeviceError, match="without CUDA"):
        Session(graph, "cuda")


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cuda:0"])
def test_an_unknown_device_is_answered_with_the_known_ones(graph: Path, device: Any) -> None:
    with pytest.raises(DeviceError, match="auto, cpu, cuda"):
        Session(graph, device)


@pytest.mark.parametrize("content", [b"", b"no graph at all", bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_corrupt_graph_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"corrupt\.onnx"):
        Session(path, "cpu")


def test_half_a_graph_is_refused(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:-20])
    with pytest.raises(BundleError):
        Session(graph, "cpu")


@pytest.mark.parametrize(
    "feeds",
    [{"wrong": np.zeros((1, 3), np.float32)}, {"x": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 3))}],
    ids=["name", "shape", "type"],
)
def test_inputs_that_do_not_fit_are_a_fault_of_the_bundle(graph: Path, feeds: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        Session(graph, "cpu").run(feeds)
    assert next(iter(feeds)) in caught.value.found


# Buffers that stay on the device: here the device is the CPU, through the same calls.


def bound_to_cpu(graph: Path) -> Bound:
    return Bound(onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"]), "cpu")


def test_bound_buffers_hold_the_latest_inputs_of_every_shape(graph: Path) -> None:
    bound = bound_to_cpu(graph)
    answers = []
    for number in range(4):
        for rows in (2, 5):
            x = np.full((rows, 3), 10.0 * number + rows, np.float32)
            answers.append((bound.run({"x": x}), 2 * x))
    for found, wanted in answers:  # no later call has written over an earlier answer
        np.testing.assert_array_equal(found, wanted)


def test_bound_inputs_may_lie_anyhow_in_memory(graph: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(3, 8).T[::2]
    np.testing.assert_array_equal(bound_to_cpu(graph).run({"x": x}), 2 * x)


def test_buffers_of_shapes_not_used_for_long_are_dropped(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bound_to_cpu(graph)
    made: list[int] = []
    first = bound._first
    monkeypatch.setattr(bound, "_first", lambda feeds: made.append(len(feeds["x"])) or first(feeds))
    for rows in [1, *range(2, MOST_SHAPES + 1), 1, MOST_SHAPES + 1, 1, 2]:  # 2 is the one used longest ago
        bound.run({"x": np.zeros((rows, 3), np.float32)})
    assert made == [*range(1, MOST_SHAPES + 2), 2]


class Recorded:
    """A session that keeps which recording each run is of."""

    def __init__(self, graph: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.numbers: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.numbers.append(options.get_run_config_entry("gpu_graph_id"))
        self._session.run_with_iobinding(binding, options)


def test_each_shape_is_recorded_apart_and_not_before_its_buffers_are_there(graph: Path) -> None:
    session = Recorded(graph)
    bound = Bound(session, "cpu", graphs=True)
    for number, rows in enumerate((2, 5, 2, 5, 2)):
        x = np.full((rows, 3), 10.0 * number + rows, np.float32)
        np.testing.assert_array_equal(bound.run({"x": x}), 2 * x)
    assert session.numbers == ["-1", "-1", "1", "2", "1"]


def test_the_output_keeps_its_buffer(graph: Path) -> None:
    bound = bound_to_cpu(graph)
    places = set()
    for number in range(3):
        bound.run({"x": np.full((2, 3), number, np.float32)})
        places.add(next(iter(bound._shapes.values())).output.data_ptr())
    assert len(places) == 1


@pytest.mark.usefixtures("cuda_that_binds")
def test_what_cuda_is_made_of_is_loaded_before_the_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS and cuDNN come as Python packages, where no linker finds them."""
    steps: list[str] = []
    opened = FakeOnnxSession.__init__
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: steps.append("libraries"), raising=False)
    monkeypatch.setattr(
        FakeOnnxSession, "__init__", lambda *given, **more: steps.append("graph") or opened(*given, **more)
    )
    Session(graph, "cuda")
    assert steps == ["libraries", "graph"]


@pytest.mark.usefixtures("cuda_that_binds")
def test_what_was_measured_is_asked_for(graph: Path) -> None:
    Session(graph, "cuda", cuda=CudaOptions("EXHAUSTIVE", arena="kNextPowerOfTwo", graphs=True))
    _, (name, options), _ = FakeOnnxSession.opened
    assert name == "CUDAExecutionProvider"
    assert options == {
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "enable_cuda_graph": "1",
    }


@pytest.mark.usefixtures("cuda_that_binds")
def test_tensorrt_comes_first_where_it_is_asked_for_and_must_bind(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = "bound CUDAExecutionProvider, CPUExecutionProvider; expected TensorrtExecutionProvider;"
    with pytest.raises(DeviceError, match=bound):
        Session(graph, "cuda", cuda=CudaOptions(tensorrt=True))
    assert [name if isinstance(name, str) else name[0] for name in FakeOnnxSession.opened[1:]] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    all_of_them = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(FakeOnnxSession, "get_providers", lambda _: all_of_them)
    assert Session(graph, "cuda", cuda=CudaOptions(tensorrt=True)).device == "cuda"


@pytest.mark.usefixtures("cuda_that_binds")
def test_tensorrt_without_cuda_behind_it_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorRT can't compute would run on the CPU, unsaid."""
    without = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(FakeOnnxSession, "get_providers", lambda _: without)
    with pytest.raises(DeviceError, match="expected CUDAExecutionProvider;"):
        Session(graph, "cuda", cuda=CudaOptions(tensorrt=True))


@pytest.mark.usefixtures("cuda_that_binds")
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_on_cuda_inputs_are_bound(graph: Path, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    opened = Session(graph, device)
    assert (opened.device, opened.note) == ("cuda", "")
    asked: list[str] = []
    monkeypatch.setattr(Bound, "run", lambda _, feeds: asked.extend(feeds) or np.ones((1, 3), np.float32))
    assert opened.run({"x": np.zeros((1, 3), np.float32)}).sum() == 3
    assert asked == ["x"]


def test_some_core_may_be_used() -> None:
    assert cpu_count() >= 1
