"""Loads each checkpoint of FOLDER/imported at several layouts and saves it again to FOLDER/LAYOUT/NAME."""

import shutil
import sys
from pathlib import Path

from megatron_seed.checkpoint.reader import read_model_config
from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import job, laid_out

LAYOUTS = {
    "TP1": LayoutConfig(),
    "TP2xPP2": LayoutConfig(tensor_parallel=2, pipeline_parallel=2),
    "PP2xVPP2": LayoutConfig(pipeline_parallel=2, virtual_pipeline=2),
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with job() as launch:
        for name, layout in LAYOUTS.items():
            with laid_out(launch, layout, seed=0) as groups:
                from megatron.core import dist_checkpointing

                from megatron_seed.checkpoint.load import load_checkpoint
                from megatron_seed.model.build import build_model

                for source in sorted((folder / "imported").iterdir()):
                    chunks = build_model(read_model_config(source), layout, "fp32", seed=1)
                    load_checkpoint(source, chunks)
                    target = folder / name / source.name
                    if groups.is_main:
                        target.mkdir(parents=True)
                        shutil.copy(source / "model.yaml", target)
                        shutil.copy(source / "state.json", target)
                    groups.from_main(None)
                    state = {f"model{number}": chunk.sharded_state_dict() for number, chunk in enumerate(chunks)}
                    dist_checkpointing.save(state, str(target), validate_access_integrity=False)
