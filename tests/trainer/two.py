"""What ``test_finetune`` starts: each method's batch and a run, in one process, then in two. Forked: one import."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from tests.trainer import tiny_towers
from trainer.compose import Heard, Told, contrasts, losses_of
from trainer.finetune import finetune
from trainer.gather import agreed, gathered, partners_of, sum_gradients
from trainer.settings import METHODS, Method, Settings, check_method
from trainer.tower_sets import Towers

#: Whose each text is: the processes' parts have different numbers of texts, and two clips are called the same.
OWNED = [(0, "rain"), (0, "pluie"), (1, "a dog barks"), (2, "rain"), (3, "wind"), (3, "loud wind"), (3, "far bell")]


def work(folder: str, place: str) -> None:
    """What each method finds; that all processes end when one is asked to; a whole run, stopped and gone on with."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert agreed(accelerator.is_main_process, accelerator)
    assert not agreed(False, accelerator)
    for method in METHODS:
        learn(check_method(method), accelerator, Path(folder))
    told = Settings(f"{place}/data.jsonl", f"{place}/base", method="concatenate", epochs=2, batch=4, rate=1e-3)
    for stop in (1, None):
        out = Path(folder, f"run-{accelerator.num_processes}")
        report = finetune(told, out, cache=Path(folder, "cache"), stop_after=stop)
        assert report.steps == (stop or 4)
    accelerator.end_training()


def learn(method: Method, accelerator: Accelerator, folder: Path) -> None:
    """Loss and gradients of a batch of four, each process with its part, saved by the first."""
    world, rank = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(7)
    towers = Towers(tiny_towers.own(), composes=method == "composed").eval()
    log_temperature = nn.Parameter(torch.tensor(-2.0))
    chance = torch.Generator().manual_seed(3)
    samples, others = 0.1 * torch.randn(2, 4, 15_600, generator=chance)
    rows = range(4 * rank // world, 4 * (rank + 1) // world)
    owned = [(row - rows[0], text) for row, text in OWNED if row in rows]
    told = Told(
        samples[rows[0] : rows[-1] + 1],
        [text for _, text in owned],
        torch.tensor([row for row, _ in owned]),
        [f"clip {row}" for row in rows],
        ["eng"] * len(owned),
    )
    heard = Heard(others[rows[0] : rows[-1] + 1], [f"other {row}" for row in rows])
    found = contrasts(towers, method, told, heard, partners=partners_of(told, accelerator))
    whole = {name: gathered(one, accelerator) for name, one in found.items()}
    losses = losses_of(whole, log_temperature.exp())
    losses["total"].backward()
    sum_gradients([*towers.parameters(), log_temperature], [log_temperature], accelerator)
    if rank == 0:
        named = [*towers.named_parameters(), ("temperature", log_temperature)]
        grads = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
        spared = sum(one.pairs.spared for one in whole.values())
        result = {"loss": float(losses["total"].detach()), "grads": grads, "spared": spared}
        torch.save(result, folder / f"{method}-{world}.pt")


def main(folder: str, place: str) -> int:
    """0 if all processes ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for world in (1, 2):
        for rank in range(world):
            child = os.fork()
            if child == 0:
                if world > 1:
                    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
                    os.environ |= {key: str(value) for key, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}
                status = 1
                try:
                    work(folder, place)
                    status = 0
                except Exception:
                    traceback.print_exc()
                    raise
                finally:
                    os._exit(status)
            children.append(child)
    failed = 0
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not failed:  # the others would wait for it
            failed = 1
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
