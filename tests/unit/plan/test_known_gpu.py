"""GPUs by the names their drivers give them."""

import pytest

from megatron_seed.plan.hardware import GPUS, known_gpu


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090", None),
        (None, None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str | None, key: str | None) -> None:
    assert known_gpu(name) == (GPUS[key] if key else None)
