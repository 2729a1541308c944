"""One ONNX graph ready to run. The only file that talks to onnxruntime."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.bundle import CudaOptions
from engine.errors import BundleError, DeviceError
from engine.types import Device

#: Shapes of inputs for which buffers are kept on the device.
MOST_SHAPES = 16
#: The number by which onnxruntime records no run.
_NOT_RECORDED = -1
#: What is asked of CUDA where a manifest says nothing else.
CUDA = CudaOptions()


class Session:
    """A graph on one device, checked after opening: what was asked for is what runs.

    ``device`` is where it runs, ``note`` says why ``auto`` fell back, where it did.
    Raises ``DeviceError`` if ``cuda`` does not bind, ``BundleError`` if the graph can't be loaded.
    """

    def __init__(
        self, graph: Path, device: Device = "auto", threads: int | None = None, cuda: CudaOptions = CUDA
    ) -> None:
        if device not in get_args(Device):
            raise DeviceError(f"device {device!r}", f"one of {', '.join(get_args(Device))}")
        self.device: Device = "cpu" if device == "auto" else device
        self.note = ""
        self._bound: Bound | None = None
        self._threads = threads = threads or cpu_count()
        if device == "auto":
            missing = why_no_cuda()
            if not missing:
                try:
                    self._session = _open(graph, "cuda", threads, cuda)
                except (DeviceError, BundleError) as error:  # a card without cuDNN, or with its memory taken
                    missing = str(error)
                else:
                    self.device = "cuda"
                    self._bound = Bound(self._session, "cuda", cuda.graphs)
                    return
            self.note = f"running on the CPU: {missing}"
        self._session = _open(graph, self.device, threads, cuda)
        if self.device == "cuda":
            self._bound = Bound(self._session, "cuda", cuda.graphs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph's first output for these inputs. Raises ``BundleError`` if the graph does not take them."""
        try:
            if self._bound is not None:
                return self._bound.run(feeds)
            output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise _failed(feeds, error) from error
        return output

    @property
    def at_once(self) -> int:
        """How many calls at once take the least time: two, where there are cores for them."""
        return 2 if self.device == "cpu" and self._threads > 1 else 1

    def run_each(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[NDArray[np.float32]]:
        """What ``run`` gives for each of several inputs, ``at_once`` calls at a time. Raises as ``run`` does.

        Alone, a call shares every node between the cores, and waits at each for the last of them. Of two at once one
        runs within onnxruntime's own pool: on two cores it keeps to one, and the other call has none to share with.
        """
        if self.at_once == 1 or len(feeds) < 2:
            return [self.run(one) for one in feeds]
        waiting = iter(range(len(feeds)))

        def work(run: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
            return {number: run(feeds[number]) for number in waiting}

        with ThreadPoolExecutor(1) as beside:
            other = beside.submit(work, self._run_within)
            found = work(self.run) | other.result()
        return [found[number] for number in range(len(feeds))]

    def _run_within(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """``run`` by a thread of onnxruntime's pool, of which there is one at least where there are two cores."""
        answer: Future[NDArray[np.float32]] = Future()

        def keep(outputs: Sequence[NDArray[np.float32]], _: object, error: str) -> None:
            if error:
                answer.set_exception(_failed(feeds, error))
            else:
                answer.set_result(outputs[0])

        try:
            self._session.run_async(None, dict(feeds), keep, None)
        except Exception as error:
            raise _failed(feeds, error) from error
        return answer.result()


def _failed(feeds: Mapping[str, NDArray[Any]], error: object) -> BundleError:
    given = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
    return BundleError(f"a graph that fails on {given} ({error})", "one that runs", "copy or export the bundle again")


class Bound:
    """A session whose inputs and output stay on ``device``: buffers are made once a shape and filled at every call.

    The pipeline's windows always come in the same shape. Texts don't: of the shapes used longest ago buffers are
    dropped, beyond ``MOST_SHAPES``. With ``graphs`` the second call of a shape is recorded, and replayed from then on.
    """

    def __init__(self, session: Any, device: str, graphs: bool = False) -> None:
        self._session, self._device, self._graphs = session, device, graphs
        self._shapes: dict[tuple[Any, ...], _Buffers] = {}
        self._made = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph's first output for these inputs, on the CPU."""
        shape = tuple((name, value.shape, value.dtype.str) for name, value in feeds.items())
        if shape not in self._shapes:
            self._shapes[shape] = self._first(feeds)
        else:
            self._shapes[shape] = held = self._shapes.pop(shape)  # the latest comes last
            for name, value in feeds.items():
                held.inputs[name].update_inplace(np.ascontiguousarray(value))
            self._session.run_with_iobinding(held.binding, held.options)
        if len(self._shapes) > MOST_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        return np.array(self._shapes[shape].output.numpy())

    def _first(self, feeds: Mapping[str, NDArray[Any]]) -> _Buffers:
        """Buffers for inputs of a shape, which have been run once: only then is it known how large the output is."""
        binding, output = self._session.io_binding(), self._session.get_outputs()[0].name
        inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, 0)
            for name, value in feeds.items()
        }
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        binding.bind_output(output, self._device)
        self._session.run_with_iobinding(binding, self._options(_NOT_RECORDED))
        found = binding.get_outputs()[0]
        binding.bind_ortvalue_output(output, found)
        self._made += 1
        return _Buffers(binding, inputs, found, self._options(self._made))

    def _options(self, number: int) -> Any:
        """What tells the recordings of shapes apart, by number; None where nothing is recorded."""
        if not self._graphs:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What is kept on the device for one shape of the inputs."""

    binding: Any
    inputs: Mapping[str, Any]
    output: Any
    options: Any


class FillingSession:
    """A graph on the CPU that is asked of many inputs at once, each on a core of its own, and fills in arrays of the
    caller.

    Each core has a thread that stays on it: left to the system, two threads that are woken for a few milliseconds
    often spend them on one core. Also in a child process, and by several threads at once. Raises as ``Session`` does.
    """

    def __init__(self, graph: Path) -> None:
        self._session = Session(graph, "cpu", threads=1)._session
        self._cores = cores_allowed()
        self._of_process, self._workers = os.getpid(), self._threads()

    def _threads(self) -> ThreadPoolExecutor:
        """A thread a core; processes that need few begin at other cores."""
        cores: SimpleQueue[int] = SimpleQueue()
        first = os.getpid() % len(self._cores)
        for core in self._cores[first:] + self._cores[:first]:
            cores.put(core)
        return ThreadPoolExecutor(len(self._cores), initializer=_stay_on_one_of, initargs=(cores,))

    def fill(
        self,
        same: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        into: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """``into[name][k]`` becomes the output ``name`` for the inputs ``same`` and ``each[name][k]``.

        All arrays lie in memory as they are numbered. Raises ``BundleError`` if the graph does not take them.
        """
        count = len(next(iter(each.values())))
        waiting = iter(range(count))
        at_once = min(len(self._cores), count)
        if at_once == 1:
            self._fill(same, each, into, waiting)
            return
        if self._of_process != os.getpid():  # the threads stayed with the parent
            self._of_process, self._workers = os.getpid(), self._threads()
        parts = [self._workers.submit(self._fill, same, each, into, waiting) for _ in range(at_once)]
        for part in parts:
            part.result()

    def _fill(
        self,
        same: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        into: Mapping[str, NDArray[np.float32]],
        waiting: Iterator[int],
    ) -> None:
        binding = self._session.io_binding()
        for name, value in same.items():
            binding.bind_cpu_input(name, value)
        for number in waiting:
            for name, values in each.items():
                binding.bind_cpu_input(name, values[number])
            for name, outputs in into.items():
                output = outputs[number]
                binding.bind_output(name, "cpu", 0, np.float32, output.shape, output.ctypes.data)
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:  # onnxruntime raises its own unrelated classes
                raise _failed({**same, **{name: values[number] for name, values in each.items()}}, error) from error


def _stay_on_one_of(cores: SimpleQueue[int]) -> None:
    """Keep the thread that calls to a core, where the system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # a core that was taken away since
            os.sched_setaffinity(0, {cores.get()})


class KeepingSession:
    """A graph that goes on from its own outputs: what it calls ``new_X`` is its input ``X`` of the next call.

    What is kept stays on the device. Raises as ``Session`` does.
    """

    def __init__(self, graph: Path, device: Device = "auto", threads: int | None = None) -> None:
        opened = Session(graph, device, threads)
        self.device, self.note = opened.device, opened.note
        self._session = opened._session
        names = {value.name for value in self._session.get_outputs()}
        self._empty = {
            value.name: [size if isinstance(size, int) else 0 for size in value.shape]
            for value in self._session.get_inputs()
            if f"new_{value.name}" in names
        }
        self._kept: dict[str, Any] = {}

    def forget(self, rows: int) -> None:
        """Begin anew with ``rows`` along the first axis, and nothing kept of them."""
        self._kept = {
            name: self._value(np.empty([rows, *shape[1:]], np.float32)) for name, shape in self._empty.items()
        }

    def keep_rows(self, rows: NDArray[np.int64]) -> None:
        """Forget all but these rows of what is kept."""
        self._kept = {name: self._value(kept.numpy()[rows]) for name, kept in self._kept.items()}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for these inputs and what is kept. Raises ``BundleError`` if the graph does not take them."""
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, value in self._kept.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        for name in self._kept:
            binding.bind_output(f"new_{name}", self.device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise _failed(feeds, error) from error
        found = binding.get_outputs()
        self._kept = dict(zip(self._kept, found[len(outputs) :], strict=True))
        return [value.numpy() for value in found[: len(outputs)]]

    def _value(self, array: NDArray[np.float32]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)


def why_no_cuda() -> str:
    """Empty where CUDA can be tried, otherwise the reason why not. Costs no CUDA context."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA"
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver"
    count = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no NVIDIA device"
    return ""


def cpu_count() -> int:
    """How many CPU cores this process may use."""
    return len(cores_allowed())


def cores_allowed() -> list[int]:
    """The numbers of the CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def _open(graph: Path, device: Device, threads: int, cuda: CudaOptions) -> Any:
    """The graph on ``cpu`` or ``cuda``, and nowhere else."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Pools that spin between calls take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        providers = [*_cuda_providers(graph, cuda), *providers]
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise BundleError(
            f"a graph that can't be loaded ({graph.name}: {error})", "an ONNX model", "copy or export the bundle again"
        ) from error
    asked = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    bound = session.get_providers()
    if missing := [name for name in asked if name not in bound]:  # CUDA does what TensorRT can't
        raise DeviceError(
            f"onnxruntime bound {', '.join(bound)}", ", ".join(missing), "install earshot[cuda], or use --device cpu"
        )
    return session


def _cuda_providers(graph: Path, cuda: CudaOptions) -> list[Any]:
    """CUDA with its options, and TensorRT before it where it is asked for. Raises ``DeviceError``."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError("an onnxruntime without CUDA", "onnxruntime-gpu", "install earshot[cuda]")
    if reason := why_no_cuda():
        raise DeviceError(reason, "an NVIDIA device and its driver", "use --device auto or cpu")
    onnxruntime.preload_dlls()
    wanted: dict[str, str] = {"cudnn_conv_algo_search": cuda.conv_search, "arena_extend_strategy": cuda.arena}
    if cuda.graphs:
        wanted["enable_cuda_graph"] = "1"
    found: list[Any] = [("CUDAExecutionProvider", wanted)]
    if cuda.tensorrt:
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(graph.parent / "tensorrt")}
        found.insert(0, ("TensorrtExecutionProvider", kept))
    return found
