"""Weight gradients accumulated in fp32 inside the matrix product.

megatron-core takes this from apex's CUDA extension, which is on no package index. Where it is not installed, this
module stands in for it with torch's own `addmm`, which on CUDA accumulates bf16 products into an fp32 output.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import torch

_APEX = "fused_weight_gradient_mlp_cuda"


def install() -> None:
    """Let megatron-core find apex's extension or, in its place, this one; whether it uses it is the model's config."""
    if _APEX in sys.modules or importlib.util.find_spec(_APEX) is not None:
        return
    module = types.ModuleType(_APEX)
    module.wgrad_gemm_accum_fp32 = accumulate
    module.wgrad_gemm_accum_fp16 = accumulate
    sys.modules[_APEX] = module
    layers = sys.modules.get("megatron.core.tensor_parallel.layers")
    if layers is not None:  # imported before: it looked for the extension then
        layers.fused_weight_gradient_mlp_cuda = module
        layers._grad_accum_fusion_available = True


def accumulate(inputs: torch.Tensor, grad: torch.Tensor, main_grad: torch.Tensor) -> None:
    """main_grad += grad^T inputs. inputs: [..., in]; grad: [..., out]; main_grad: [out, in], fp32 or as the inputs."""
    inputs = inputs.reshape(-1, inputs.shape[-1])
    grad = grad.reshape(-1, grad.shape[-1])
    if inputs.dtype == main_grad.dtype:
        main_grad.addmm_(grad.t(), inputs)
    elif main_grad.is_cuda:
        torch.addmm(main_grad, grad.t(), inputs, out_dtype=main_grad.dtype, out=main_grad)
    else:
        main_grad.add_(grad.t() @ inputs)
