"""Logits of the documents in FOLDER/documents.pt, packed into a row that two ranks share, to FOLDER/rankN.pt."""

import sys
from pathlib import Path

import torch

from megatron_seed.config.schema import LayoutConfig, ModelConfig
from megatron_seed.model.context import take_pieces
from megatron_seed.runtime.groups import process_groups

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    saved = torch.load(folder / "documents.pt")
    layout = LayoutConfig(context_parallel=2)
    with process_groups(layout, seed=0) as groups:
        from megatron_seed.model.build import build_model
        from megatron_seed.train.step import _packed

        model = build_model(ModelConfig(**saved["config"]), layout, seed=1)[0].eval()
        tokens = torch.cat(saved["documents"])[None]
        lengths = torch.tensor([0, *map(len, saved["documents"])])
        positions = torch.arange(tokens.shape[1])[None]
        mine = [take_pieces(whole, groups.context_rank, groups.context_size, 1) for whole in (tokens, positions)]
        with torch.no_grad():
            logits = model(*mine, None, packed_seq_params=_packed(lengths.cumsum(0).int()))
        torch.save(logits[0], folder / f"rank{groups.rank}.pt")
