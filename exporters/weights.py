"""A tower's weights out of its graph: which tensor is which parameter, and back to numbers.

An exporter of ONNX renames what it folds (a matrix lies transposed under ``val_264``, two equal biases become one), so
that no name can be relied on. When a bundle is written, its tensors are compared with the tower's by value, and what
was found is kept in ``towers.json``, with the towers' configurations. Thus a bundle can be trained further.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from exporters.errors import SourceError

#: The file of a bundle that says what its graphs were made of.
TOWERS = "towers.json"
#: Behind the name of a tensor that holds a parameter the other way round.
_TURNED = "^T"


#: Where a parameter is: the name of a tensor, or of what an exporter leaves out, the one number and the shape.
Where: TypeAlias = str | dict[str, Any]


def find_weights(graph: Path, state: Mapping[str, Tensor]) -> dict[str, Where]:
    """Name in ``state`` -> where these numbers are in the graph. Raises ``SourceError`` where they aren't.

    Biases of nothing but zeros are left out by exporters, and need none.
    """
    known = {_key(values): name for name, values in _tensors(graph).items()}
    found: dict[str, Where] = {}
    missing = []
    for name, value in state.items():
        values = value.detach().numpy()
        if _key(values) in known:
            found[name] = known[_key(values)]
        elif values.ndim == 2 and _key(values.T) in known:
            found[name] = known[_key(values.T)] + _TURNED
        elif values.size and (values == values.flat[0]).all():
            found[name] = {"value": values.flat[0].item(), "shape": list(values.shape)}
        else:
            missing.append(name)
    if missing:
        raise SourceError(f"{graph.name} without {', '.join(missing)}", "every parameter of its tower", "report it")
    return found


def read_weights(graph: Path, names: Mapping[str, Where]) -> dict[str, Tensor]:
    """What ``find_weights`` found, as float32 or int8 tensors. Raises ``SourceError``."""
    tensors = _tensors(graph)
    state = {}
    for name, where in names.items():
        if not isinstance(where, str):
            state[name] = torch.full(where["shape"], float(where["value"]))
            continue
        values = tensors.get(where.removesuffix(_TURNED))
        if values is None:
            raise SourceError(f"{graph} without {where}", "the graph that its towers.json tells of", "export it again")
        state[name] = torch.from_numpy(np.array(values.T if where.endswith(_TURNED) else values))
    return state


def _tensors(graph: Path) -> dict[str, NDArray[np.generic]]:
    """The constants of a graph under the names by which nodes read them, widened where ``store`` packed them."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(graph)).graph.initializer}
    wide = {name: values for name, values in stored.items() if not name.endswith((".steps", ".scale", ".half"))}
    for name, values in stored.items():
        if name.endswith(".half"):
            wide[name.removesuffix(".half")] = values.astype(np.float32)
        elif name.endswith(".steps"):
            called = name.removesuffix(".steps")
            wide[called] = values.astype(np.float32) * stored[f"{called}.scale"]
    return wide


def _key(values: NDArray[np.generic]) -> tuple[str, tuple[int, ...], bytes]:
    plain = np.ascontiguousarray(values + values.dtype.type(0))  # int8 steps have no negative zero
    return values.dtype.str, values.shape, hashlib.sha256(plain.tobytes()).digest()
