"""Trains megatron-core's own GPT model the way Megatron-LM does, saves it in Megatron-LM's form, and goes on.

`OUT DISTRIBUTED_OPTIMIZER`: writes OUT/iter_0000003 with its tracker, OUT/batches.npz (a row of tokens per sequence, a
batch per step) and OUT/losses.json: of the steps after the checkpoint, and of the first of them over real rows of the
vocabulary alone.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from small_llama import ARGS, BATCH, LENGTH, RATE, VOCABULARY

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups, read_launch

out, distributed_optimizer = Path(sys.argv[1]), sys.argv[2] == "True"
tensor_parallel = read_launch().world_size
BEFORE, AFTER = 3, 3
padded = -(-VOCABULARY // (128 * tensor_parallel)) * 128 * tensor_parallel


def build() -> tuple:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=ARGS["num_layers"],
        hidden_size=ARGS["hidden_size"],
        ffn_hidden_size=ARGS["ffn_hidden_size"],
        num_attention_heads=ARGS["num_attention_heads"],
        num_query_groups=ARGS["num_query_groups"],
        kv_channels=ARGS["kv_channels"],
        normalization="RMSNorm",
        layernorm_epsilon=ARGS["norm_epsilon"],
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=tensor_parallel,
        use_cpu_initialization=True,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        gradient_accumulation_fusion=False,
    )
    torch.manual_seed(5)
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=padded,
        max_sequence_length=LENGTH,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_base=ARGS["rotary_base"],
    )
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=distributed_optimizer, overlap_grad_reduce=False
    )
    wrapped = DistributedDataParallel(config=config, ddp_config=ddp, module=model)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=RATE,
            weight_decay=0.1,
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_eps=1e-8,
            clip_grad=1.0,
            use_distributed_optimizer=distributed_optimizer,
        ),
        [wrapped],
    )
    for group in optimizer.param_groups:  # as Megatron-LM's scheduler does at every step
        group["weight_decay"] = 0.1 * group["wd_mult"]
    return wrapped, optimizer


def step(model: torch.nn.Module, optimizer: object, rows: torch.Tensor) -> float:
    from megatron.core.distributed import finalize_model_grads

    model.zero_grad_buffer()
    optimizer.zero_grad()
    loss = model(rows[:, :-1], positions(rows), None, labels=rows[:, 1:]).mean()
    loss.backward()
    finalize_model_grads([model])
    optimizer.step()
    return loss.item()


def positions(rows: torch.Tensor) -> torch.Tensor:
    return torch.arange(LENGTH).expand(len(rows), -1)


@torch.no_grad()
def loss_of_real_rows(model: torch.nn.Module, rows: torch.Tensor) -> float:
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    logits = gather_from_tensor_model_parallel_region(model(rows[:, :-1], positions(rows), None))
    return F.cross_entropy(logits[..., :VOCABULARY].flatten(0, 1), rows[:, 1:].flatten()).item()


def save(model: torch.nn.Module, optimizer: object) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing.mapping import ShardedObject
    from megatron.core.transformer.enums import AttnBackend

    args = {**ARGS, "padded_vocab_size": padded, "consumed_train_samples": BEFORE * BATCH, "seq_length": LENGTH,
            "attention_backend": AttnBackend.auto, "params_dtype": torch.float32}  # fmt: skip
    content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    if distributed_optimizer:
        content |= {"distrib_optim_sharding_type": "fully_reshardable"}
    state = {"args": Namespace(**args), "checkpoint_version": 3.0, "iteration": BEFORE}
    state["model"] = model.module.sharded_state_dict(metadata=dict(content))
    state["optimizer"] = optimizer.sharded_state_dict(state, metadata=dict(content))
    state["opt_param_scheduler"] = {"max_lr": RATE, "num_steps": BEFORE * BATCH}
    tensor_rank = parallel_state.get_tensor_model_parallel_rank()
    generators = [{"np_rng_state": np.random.get_state(), "torch_rng_state": torch.get_rng_state()}]
    state["rng_state"] = ShardedObject("rng_state", generators, (1, tensor_parallel), (0, tensor_rank))
    state["num_floating_point_operations_so_far"] = 1e9
    folder = out / f"iter_{BEFORE:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    dist_checkpointing.save(state, str(folder), content_metadata=content)
    (out / "latest_checkpointed_iteration.txt").write_text(str(BEFORE))


if __name__ == "__main__":
    with process_groups(LayoutConfig(tensor_parallel=tensor_parallel), seed=1):
        generator = np.random.default_rng(0)
        batches = generator.integers(0, VOCABULARY, (BEFORE + AFTER, BATCH, LENGTH + 1))
        batches[:, :, 1::2] = (batches[:, :, :-1:2] * 3 + 1) % VOCABULARY
        model, optimizer = build()
        for rows in torch.from_numpy(batches[:BEFORE]):
            step(model, optimizer, rows)
        save(model, optimizer)
        real = loss_of_real_rows(model, torch.from_numpy(batches[BEFORE]))
        losses = [step(model, optimizer, rows) for rows in torch.from_numpy(batches[BEFORE:])]
        np.savez(out / "batches.npz", batches=batches[BEFORE:])
        (out / "losses.json").write_text(json.dumps({"losses": losses, "real": real}))
