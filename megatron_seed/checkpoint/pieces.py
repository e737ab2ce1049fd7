"""The tensors that this rank holds of a checkpoint, each as a box of a global tensor.

Names and places come from megatron-core. Optimizer state has one form whatever optimizer holds it: tensors of the
parameters' own shapes (`optimizer.state.param`, `.exp_avg`, `.exp_avg_sq`), which megatron-core calls
`fully_reshardable`. The distributed optimizer keeps a range of a flattened parameter on each rank; cut into boxes, a
range is written by the rank that has it. megatron-core itself would first gather all of it on every replica.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, MegatronOptimizer

from megatron_seed.errors import SeedError
from megatron_seed.optim import build as optim

Shape = tuple[int, ...]
OPTIMIZER_PREFIX = "optimizer."
_STATE = OPTIMIZER_PREFIX + "state."
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """A box of a global tensor, as the run has it now."""

    key: str
    shape: Shape
    """Of the global tensor."""
    offsets: Shape
    tensor: torch.Tensor
    """Of the box's own shape; a view of what trains."""
    spare: bool = False
    """Held by another model-parallel rank too, which writes it."""
    shared: bool = False
    """Every replica has it, and one of them writes it."""

    @property
    def size_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


@dataclass(frozen=True)
class ExtraState:
    """What a module keeps beside its parameters."""

    key: str
    module: torch.nn.Module
    value: Any
    spare: bool
    """Another rank writes it."""


@dataclass(frozen=True)
class Holding:
    """What one rank has of a checkpoint."""

    pieces: Sequence[Piece]
    extra_states: Sequence[ExtraState]


@torch.no_grad()
def holding(models: Sequence[Any], optimizer: MegatronOptimizer | None = None) -> Holding:
    """Everything this rank has of parameters, optimizer state and modules' extra state; nothing is copied."""
    pieces: list[Piece] = []
    extra_states: list[ExtraState] = []
    places: dict[int, list[ShardedTensor]] = {}
    for model in map(unwrap, models):
        for name, value in model.sharded_state_dict(metadata={"singleton_local_shards": False}).items():
            if isinstance(value, ShardedObject):
                module = model.get_submodule(name.removesuffix("_extra_state").removesuffix("."))
                extra_states.append(ExtraState(value.unique_key, module, value.data, any(_copy_number(value))))
                continue
            places[id(value.data)] = parts = _parts(value)
            pieces += [_piece(part, part.key, part.data) for part in parts]
    for part in optim.parts(optimizer) if optimizer is not None else ():
        pieces += _optimizer_pieces(part, places)
    return Holding(pieces, extra_states)


def unwrap(model: Any) -> Any:
    """Names in a checkpoint are the model's own, without the data-parallel wrapper's `module.`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def share_of(pieces: Sequence[Piece], rank: int, replicas: int) -> list[Piece]:
    """Those that `rank` of so many replicas writes. All replicas hold the same shared ones and cut them alike."""
    mine = [piece for piece in pieces if not piece.spare and not piece.shared]
    shared = [piece for piece in pieces if not piece.spare and piece.shared]
    loads = [(0, replica) for replica in range(replicas)]
    for piece in sorted(shared, key=lambda piece: (-piece.size_bytes, piece.key, piece.offsets)):
        load, replica = loads[0]
        heapq.heapreplace(loads, (load + piece.size_bytes, replica))
        if replica == rank:
            mine.append(piece)
    return mine


def optimizer_step(part: MegatronOptimizer) -> int:
    """Updates done so far. Fused optimizers keep the number in their groups, torch's with each parameter."""
    inner = part.optimizer
    steps = {int(state["step"]) for state in inner.state.values() if "step" in state}
    steps |= {int(group["step"]) for group in inner.param_groups if group.get("step") is not None}
    if len(steps) > 1:
        raise SeedError(f"parameters have seen different numbers of updates: {sorted(steps)}")
    return steps.pop() if steps else 0


def set_optimizer_step(part: MegatronOptimizer, step: int) -> None:
    kept_with_parameters = False
    for state in part.optimizer.state.values():
        if "step" in state:
            state["step"].fill_(step)
            kept_with_parameters = True
    for group in part.optimizer.param_groups if not kept_with_parameters else ():
        group["step"] = step


def _parts(value: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """Where a parameter lies; gate and up rows of linear_fc1 lie in two places."""
    return list(nested_values(value.build())) if isinstance(value, ShardedTensorFactory) else [value]


def _piece(place: ShardedTensor, key: str, tensor: torch.Tensor, shared: bool = True) -> Piece:
    box = (1,) * place.prepend_axis_num + tuple(place.local_shape)
    return Piece(
        key, tuple(place.global_shape), tuple(place.global_offset), tensor.detach().view(box), _is_spare(place), shared
    )


def _is_spare(place: ShardedTensor) -> bool:
    """Only replicas of data parallelism are copies that this rank may have to write."""
    return any(_copy_number(place)[:2])


def _copy_number(place: ShardedTensor | ShardedObject) -> tuple[int, ...]:
    """megatron-core numbers the copies of a tensor by pipeline, tensor and data-parallel rank."""
    number = place.replica_id
    return (0, 0, number) if isinstance(number, int) else tuple(number)


def _optimizer_pieces(part: MegatronOptimizer, places: dict[int, list[ShardedTensor]]) -> Iterator[Piece]:
    prepare_state(part)
    for parameter, start, main in _main_parameters(part):
        state = part.optimizer.state[main]
        tensors = {"param": main, **{name: state[name] for name in _MOMENTS}}
        for place in places[id(parameter)]:
            # Gate and up rows are views of one parameter; a place begins so many elements into it.
            begins = place.data.storage_offset() - parameter.storage_offset()
            first, stop = max(start, begins), min(start + main.numel(), begins + place.data.numel())
            if first >= stop:
                continue
            for name, tensor in tensors.items():
                values = tensor.detach().view(-1)[first - start : stop - start]
                key = f"{_STATE}{name}.{place.key}"
                if isinstance(part, DistributedOptimizer):
                    yield from _boxed(place, key, values, first - begins)
                else:
                    yield _piece(place, key, values)


def prepare_state(part: MegatronOptimizer) -> None:
    """Fused optimizers make their moments at the first update only."""
    if any(not part.optimizer.state.get(main) for _, _, main in _main_parameters(part)):
        part.init_state_fn(part.optimizer, part.config)


def _main_parameters(part: MegatronOptimizer) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Each of the model's parameters, where in it this rank's fp32 values begin, and those."""
    if isinstance(part, DistributedOptimizer):
        for buffer in part.gbuf_ranges:
            for buckets in buffer.values():
                for bucket in buckets:
                    for parameter, ranges in bucket["param_map"].items():
                        group, place = part.model_param_group_index_map[parameter]
                        yield parameter, ranges["param"].start, part.optimizer.param_groups[group]["params"][place]
    elif isinstance(part, Float16OptimizerWithFloat16Params):
        for models, mains in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
            yield from ((parameter, 0, main) for parameter, main in zip(models, mains, strict=True))
        yield from ((parameter, 0, parameter) for group in part.fp32_from_fp32_groups for parameter in group)
    else:
        yield from ((parameter, 0, parameter) for group in part.optimizer.param_groups for parameter in group["params"])


def _boxed(place: ShardedTensor, key: str, values: torch.Tensor, first: int) -> Iterator[Piece]:
    """A range of a flattened part, as boxes."""
    lead = place.prepend_axis_num
    for offsets, sizes, begin in boxes(tuple(place.local_shape), first, first + values.numel()):
        at = tuple(base + own for base, own in zip(place.global_offset, (0,) * lead + offsets, strict=True))
        box = (1,) * lead + sizes
        values_here = values[begin - first : begin - first + math.prod(sizes)]
        yield Piece(key, tuple(place.global_shape), at, values_here.view(box), _is_spare(place))


def boxes(shape: Shape, first: int, stop: int) -> Iterator[tuple[Shape, Shape, int]]:
    """Elements [first, stop) of a flattened tensor as boxes: offsets, sizes, and the element each begins with."""
    if first >= stop:
        return
    if len(shape) == 1:
        yield (first,), (stop - first,), first
        return
    row = math.prod(shape[1:])
    # A first row that begins in its middle, whole rows, and a last row that ends in its middle.
    whole, end = -(-first // row), stop // row
    if whole > end:  # within one row
        yield from _within(shape, end, first, stop)
        return
    yield from _within(shape, whole - 1, first, whole * row)
    if whole < end:
        rest = (0,) * (len(shape) - 1)
        yield (whole, *rest), (end - whole, *shape[1:]), whole * row
    yield from _within(shape, end, end * row, stop)


def _within(shape: Shape, index: int, first: int, stop: int) -> Iterator[tuple[Shape, Shape, int]]:
    base = index * math.prod(shape[1:])
    for offsets, sizes, begin in boxes(shape[1:], first - base, stop - base):
        yield (index, *offsets), (1, *sizes), base + begin
