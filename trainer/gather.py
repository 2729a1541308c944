"""One loss over what several processes have heard, and one gradient from it.

Every process computes the whole loss from everybody's vectors, of which only its own carry a gradient; the sum of all
processes' gradients is then that of one process with the whole batch. A test with two processes shows it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.compose import Contrast, Partners, Told, neighbours


def gathered(contrast: Contrast, accelerator: Accelerator) -> Contrast:
    """The contrast of all processes, in order of rank. Each has as many sounds; texts may differ in number."""
    if accelerator.num_processes == 1:
        return contrast
    device, rank = accelerator.device, accelerator.process_index
    counts = accelerator.gather(torch.tensor([len(contrast.texts)], device=device)).tolist()
    sounds = _with_own(accelerator.gather(contrast.sounds.detach()), contrast.sounds, rank * len(contrast.sounds))
    texts = _with_own(_joined(contrast.texts.detach(), counts, accelerator), contrast.texts, sum(counts[:rank]))
    owner = contrast.owner.to(device) + rank * len(contrast.sounds)
    return Contrast(
        sounds,
        texts,
        _joined(owner, counts, accelerator).cpu(),
        accelerator.gather(contrast.sound_keys.to(device)).cpu(),
        _joined(contrast.text_keys.to(device), counts, accelerator).cpu(),
    )


def partners_of(told: Told, accelerator: Accelerator) -> Partners:
    """The sound after each in the batch of all processes: after a process's last comes the next one's first."""
    found = neighbours(told)
    if accelerator.num_processes == 1:
        return found
    firsts = accelerator.gather(told.samples[:1].contiguous())
    said = gather_object([(found.captions[-1], found.ids[-1])])  # its own first, which came after its last
    after = (accelerator.process_index + 1) % accelerator.num_processes
    captions, content = said[after]
    return Partners(
        torch.cat([found.samples[:-1], firsts[after : after + 1]]),
        [*found.captions[:-1], captions],
        [*found.ids[:-1], content],
    )


def agreed(asked: bool, accelerator: Accelerator) -> bool:
    """Whether any process was asked to end: then all do, after the same step."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)


def sum_gradients(parameters: Iterable[nn.Parameter], shared: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Add up what the processes found, in one exchange; of ``shared`` parameters each found all of it already."""
    if accelerator.num_processes == 1:
        return
    every = [*parameters]
    for parameter in every:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    total = accelerator.reduce(torch.cat([p.grad.reshape(-1) for p in every if p.grad is not None]), "sum")
    for parameter, grad in zip(every, total.split([p.numel() for p in every]), strict=True):
        parameter.grad = grad.reshape(parameter.shape)
    for parameter in shared:
        if parameter.grad is not None:
            parameter.grad /= accelerator.num_processes


def _joined(values: Tensor, counts: list[int], accelerator: Accelerator) -> Tensor:
    """Rows of all processes, of which each has its own number."""
    most = max(counts)
    padding = [0, 0] * (values.ndim - 1) + [0, most - len(values)]
    rows = accelerator.gather(F.pad(values, padding)).split(most)
    return torch.cat([part[:count] for part, count in zip(rows, counts, strict=True)])


def _with_own(everybody: Tensor, own: Tensor, start: int) -> Tensor:
    return torch.cat([everybody[:start], own, everybody[start + len(own) :]])
