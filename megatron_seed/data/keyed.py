"""Permutations that depend on a key alone: the same on every machine and with every version of every library."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_permutation(size: int, key: str) -> np.ndarray:
    """A permutation of range(size), [size] int64."""
    start = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return np.argsort(_splitmix64(np.arange(size, dtype=np.uint64) + np.uint64(start)), kind="stable")


def _splitmix64(values: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: a bijection on 64 bits."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
