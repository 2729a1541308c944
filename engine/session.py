"""One ONNX graph ready to run. The only file that talks to onnxruntime."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.errors import BundleError, DeviceError
from engine.types import Device


class Session:
    """A graph on one device, checked after opening: what was asked for is what runs.

    ``device`` is where it runs, ``note`` says why ``auto`` fell back, where it did.
    Raises ``DeviceError`` if ``cuda`` does not bind, ``BundleError`` if the graph can't be loaded.
    """

    def __init__(self, graph: Path, device: Device = "auto", threads: int | None = None) -> None:
        if device not in get_args(Device):
            raise DeviceError(f"device {device!r}", f"one of {', '.join(get_args(Device))}")
        self.device: Device = "cpu" if device == "auto" else device
        self.note = ""
        threads = threads or cpu_count()
        if device == "auto":
            missing = why_no_cuda()
            if not missing:
                try:
                    self._session = _open(graph, "cuda", threads)
                except (DeviceError, BundleError) as error:  # a card without cuDNN, or with its memory taken
                    missing = str(error)
                else:
                    self.device = "cuda"
                    return
            self.note = f"running on the CPU: {missing}"
        self._session = _open(graph, self.device, threads)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The graph's first output for these inputs. Raises ``BundleError`` if the graph does not take them."""
        try:
            output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        except Exception as error:  # onnxruntime raises its own unrelated classes
            given = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise BundleError(
                f"a graph that fails on {given} ({error})", "one that runs", "copy or export the bundle again"
            ) from error
        return output


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
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(graph: Path, device: Device, threads: int) -> Any:
    """The graph on ``cpu`` or ``cuda``, and nowhere else."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Pools that spin between calls take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError("an onnxruntime without CUDA", "onnxruntime-gpu", "install earshot[cuda]")
        if reason := why_no_cuda():
            raise DeviceError(reason, "an NVIDIA device and its driver", "use --device auto or cpu")
        onnxruntime.preload_dlls()
        # HEURISTIC: an exhaustive search costs a second for every new shape.
        providers.insert(0, ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}))
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise BundleError(
            f"a graph that can't be loaded ({graph.name}: {error})", "an ONNX model", "copy or export the bundle again"
        ) from error
    bound = session.get_providers()[0]
    if device == "cuda" and bound != "CUDAExecutionProvider":
        raise DeviceError(
            f"onnxruntime bound {bound}", "CUDAExecutionProvider", "install earshot[cuda], or use --device cpu"
        )
    return session
