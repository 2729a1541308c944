"""Ways to the same answers, measured in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Ways = Mapping[str, Callable[[Any], object]]


def in_turns(ways: Ways, inputs: Any, rounds: int, warm_ups: int = 1) -> dict[str, float]:
    """Median seconds of each way, one call of each a round, after ``warm_ups`` that don't count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_ups + rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(inputs)
            if number >= warm_ups:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}
