"""Loss and gradient of the cases in FOLDER/cases.pt with the vocabulary split over the ranks, to FOLDER/rankN.pt."""

import sys
from pathlib import Path

import torch

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with process_groups(LayoutConfig(tensor_parallel=2), seed=0) as groups:
        from megatron_seed.model.cross_entropy import vocab_parallel_cross_entropy

        results = []
        for case in torch.load(folder / "cases.pt"):
            mine = case["logits"].chunk(2, -1)[groups.tensor_rank].clone().requires_grad_()
            loss = vocab_parallel_cross_entropy(mine * 1.0, case["labels"], case["real"])
            (loss * case["weights"]).sum().backward()
            results.append({"loss": loss.detach(), "gradient": mine.grad})
        torch.save(results, folder / f"rank{groups.rank}.pt")
