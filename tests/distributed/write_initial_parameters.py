"""Initial parameters of FOLDER/model.json at TP2 x PP2 for a SEED, each rank's to a file of its own."""

import sys
from pathlib import Path

import torch

from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.runtime.groups import process_groups

if __name__ == "__main__":
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    config = ModelConfig.model_validate_json((folder / "model.json").read_text())
    layout = LayoutConfig(tensor_parallel=2, pipeline_parallel=2)
    with process_groups(layout, seed=seed) as groups:
        from megatron_seed.model.build import build_model
        from megatron_seed.model.initialise import named_global_parameters

        (chunk,) = build_model(config, layout, "fp32", seed=seed)
        parameters = {name: parameter.detach() for name, parameter in named_global_parameters(chunk)}
        torch.save(parameters, folder / f"tensor{groups.tensor_rank}-pipeline{groups.pipeline_rank}.pt")
