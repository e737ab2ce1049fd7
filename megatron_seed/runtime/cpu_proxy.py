"""megatron-core on a machine without CUDA, its source untouched.

megatron-core names CUDA literally: `device="cuda"`, `torch.cuda.current_device()`, `tensor.cuda()`. Each of its modules
finds `torch` in its own globals; here that one name is bound to a proxy whose CUDA calls have CPU meanings, in
`megatron.core.*` modules only. Two methods of tensors, `.cuda()` and `.type()`, are replaced for everyone, in ways
that matter to megatron-core alone. (A TorchFunctionMode cannot do this: it is off inside an autograd backward.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import logging
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

_PREFIX = "megatron.core"
_FACTORIES = [
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "randn",
    "rand",
    "randint",
    "as_tensor",
    "linspace",
]


class _Stream:
    """A CUDA stream where everything is already synchronous."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, *args: Any) -> None: ...
    def wait_event(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, *args: Any) -> _Event:
        return _Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *args: Any) -> bool:
        return False


class _Event:
    """A CUDA event that has always happened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> None: ...
    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


class _Proxy(types.ModuleType):
    """A module in front of another: names it does not have come from the real one."""

    def __init__(self, real: types.ModuleType, names: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(names, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


def install() -> bool:
    """Make megatron-core run on the CPU in this process, unless CUDA is there. True if the proxy is in place."""
    if torch.cuda.is_available():
        return False
    if any(isinstance(finder, _ImportHook) for finder in sys.meta_path):
        return True
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # where it was imported before us and compiles
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # asserted with tensor parallelism
    hook = _ImportHook(_torch_on_cpu())
    sys.meta_path.insert(0, hook)
    for name, module in list(sys.modules.items()):
        if name == _PREFIX or name.startswith(_PREFIX + "."):
            hook.bind(module)
    _patch_tensor_methods()
    _patch_rng_tracker()
    _patch_collectives_of_one()
    return True


class _ImportHook(importlib.abc.MetaPathFinder):
    """Binds the proxy in each megatron-core module as it is imported."""

    def __init__(self, proxy: types.ModuleType) -> None:
        self.proxy = proxy

    def bind(self, module: types.ModuleType) -> None:
        if module.__dict__.get("torch") is torch:
            module.torch = self.proxy

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not name.startswith(_PREFIX):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                spec.loader.exec_module = self._then_bind(spec.loader.exec_module)
                return spec
        return None

    def _then_bind(self, execute: Callable[[types.ModuleType], None]) -> Callable[[types.ModuleType], None]:
        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            self.bind(module)

        return exec_module


def _torch_on_cpu() -> types.ModuleType:
    cpu = torch.device("cpu")
    rng = {
        "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
        "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
    }
    nothing = lambda *args, **kwargs: None  # noqa: E731
    cuda = _Proxy(
        torch.cuda,
        {
            **rng,
            "random": _Proxy(torch.cuda.random, dict(rng)),
            "current_device": lambda: cpu,
            "set_device": nothing,
            "device_count": lambda: 1,
            "synchronize": nothing,
            "empty_cache": nothing,
            "current_stream": lambda *args, **kwargs: _Stream(),
            "default_stream": lambda *args, **kwargs: _Stream(),
            "stream": lambda *args: contextlib.nullcontext(),
            "Stream": _Stream,
            "Event": _Event,
            "nvtx": _Proxy(torch.cuda.nvtx, {"range_push": nothing, "range_pop": nothing}),
        },
    )
    factories = {name: _on_cpu(getattr(torch, name), cpu) for name in _FACTORIES}
    return _Proxy(torch, {**factories, "cuda": cuda, "distributed": _Proxy(torch.distributed, {"barrier": _barrier})})


def _on_cpu(factory: Callable[..., torch.Tensor], cpu: torch.device) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = cpu
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


def _barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Any:
    return torch.distributed.barrier(group=group, async_op=async_op)


def _patch_tensor_methods() -> None:
    """`.cuda()` stays where it is; megatron-core, which compares `.type()` with CUDA names, is told those."""
    original = torch.Tensor.type
    cuda_names = {f"torch.{kind}Tensor": f"torch.cuda.{kind}Tensor" for kind in ("Float", "Half", "BFloat16")}

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        asks = not args and not kwargs and sys._getframe(1).f_globals.get("__name__", "").startswith(_PREFIX + ".")
        return cuda_names.get(result, result) if asks else result

    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.Tensor.type = type_


def _patch_rng_tracker() -> None:
    """Its state setter queues a CUDA call that would never run."""
    from megatron.core.tensor_parallel import random as tracker

    def set_state(state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
        torch.set_rng_state(state)

    tracker._set_cuda_rng_state = set_state
    logging.getLogger(tracker.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


def _patch_collectives_of_one() -> None:
    """Alone in its group, the distributed optimizer gathers buffers onto themselves, and gloo copies each time."""
    from megatron.core.distributed import param_and_grad_buffer as buffers

    for name in ("dist_all_gather_func", "dist_reduce_scatter_func"):
        setattr(buffers, name, _unless_in_place(getattr(buffers, name)))


def _unless_in_place(collective: Callable[..., Any]) -> Callable[..., Any]:
    def run(output: torch.Tensor, input_: torch.Tensor, *args: Any, group: Any = None, **kwargs: Any) -> Any:
        alone = torch.distributed.get_world_size(group) == 1
        if alone and output.data_ptr() == input_.data_ptr():
            return None
        return collective(output, input_, *args, group=group, **kwargs)

    return run
