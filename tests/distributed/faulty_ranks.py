"""Train with faults of rank 1 that no program would make: `faulty_ranks.py KIND:CALL... RECIPE ...`.

CALL counts the computations of gradients, from 1. Kinds: `forward` and `backward` spoil one of them, `silent` flips a
bit of a parameter before it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from megatron_seed.runtime.groups import read_launch


@contextmanager
def forward(parameter: torch.nn.Parameter) -> Iterator[None]:
    kept = parameter.data.clone()
    parameter.data.view(-1)[0] = float("nan")
    yield
    parameter.data.copy_(kept)


@contextmanager
def backward(parameter: torch.nn.Parameter) -> Iterator[None]:
    handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
    yield
    handle.remove()


@contextmanager
def silent(parameter: torch.nn.Parameter) -> Iterator[None]:
    parameter.data.view(torch.int32).view(-1)[3] ^= 1
    yield


FAULTS = {"forward": forward, "backward": backward, "silent": silent}


def spoil(plan: dict[int, str]) -> None:
    from megatron_seed.train import guard

    real, calls = guard.compute_gradients, iter(range(1, 10**6))

    def compute(models: Any, *rest: Any) -> Any:
        kind = plan.get(next(calls))
        if kind is None or read_launch().rank != 1:
            return real(models, *rest)
        parameter = dict(models[0].named_parameters())["module.decoder.final_layernorm.weight"]
        with FAULTS[kind](parameter):
            return real(models, *rest)

    guard.compute_gradients = compute


if __name__ == "__main__":
    from megatron_seed.runtime import cpu_proxy

    cpu_proxy.install()
    faults = [argument for argument in sys.argv[1:] if argument.partition(":")[0] in FAULTS]
    spoil({int(call): kind for kind, call in (fault.split(":") for fault in faults)})
    from megatron_seed.train.__main__ import main

    sys.exit(main([argument for argument in sys.argv[1:] if argument not in faults]))
