"""The matrix of a linear fit as blocks of rows: its values are held once, and no step makes a copy of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, lsmr

_ITERATIONS, _TOLERANCE = 60, 1e-4


@dataclass(frozen=True)
class Design:
    """Rows of features, fp32; blocks have the same columns."""

    blocks: tuple[csr_matrix, ...]

    @property
    def rows(self) -> int:
        return sum(block.shape[0] for block in self.blocks)

    def predict(self, weights: np.ndarray) -> np.ndarray:
        """fp64 [rows], of weights [columns]."""
        return np.concatenate([block @ weights for block in self.blocks])

    def solve(self, target: np.ndarray, penalty: float) -> np.ndarray:
        """The weights, fp64 [columns], with the least |predict(weights) - target|^2 + |penalty * weights|^2."""
        shape = (self.rows, self.blocks[0].shape[1])
        matrix = LinearOperator(shape, matvec=self.predict, rmatvec=self._transposed, dtype=np.float64)
        target = target.astype(np.float64)
        return lsmr(matrix, target, damp=penalty, atol=_TOLERANCE, btol=_TOLERANCE, maxiter=_ITERATIONS)[0]

    def _transposed(self, values: np.ndarray) -> np.ndarray:
        total, start = np.zeros(self.blocks[0].shape[1]), 0
        for block in self.blocks:
            total += block.T @ values[start : start + block.shape[0]]
            start += block.shape[0]
        return total


def joined(designs: Sequence[Design]) -> Design:
    """One below the other."""
    return Design(tuple(block for design in designs for block in design.blocks))
