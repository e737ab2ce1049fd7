"""Goes on from where a recipe says, on given batches: `RECIPE BATCHES OUT`; writes the losses and what it says."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from small_llama import RATE

from megatron_seed.config.load import load_recipe
from megatron_seed.runtime.groups import process_groups

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    recipe, batches = load_recipe(sys.argv[1]), torch.from_numpy(np.load(sys.argv[2])["batches"])
    with process_groups(recipe.layout, recipe.seed) as groups:
        from megatron_seed.optim.build import set_learning_rate
        from megatron_seed.train.run import start
        from megatron_seed.train.step import train_step

        run, progress = start(recipe, groups)
        losses = []
        for rows in batches:
            mine = rows[groups.data_rank :: groups.data_size]
            batch = {"tokens": mine[:, :-1], "labels": mine[:, 1:], "loss_mask": torch.ones(mine[:, 1:].shape)}
            set_learning_rate(run.optimizer, RATE)
            losses.append(train_step(run.models, run.optimizer, [batch], groups).loss)
        if groups.is_main:
            Path(sys.argv[3]).write_text(json.dumps({"losses": losses, "progress": progress.model_dump(mode="json")}))
