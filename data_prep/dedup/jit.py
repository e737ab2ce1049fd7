"""numba, without loading what our kernels have no use for; import it before the first of them runs.

Before its first function numba imports every installed package that extends it (awkward, which comes with gigatoken)
and scipy's linear algebra, to see whether there is any: two thirds of the time that a worker takes to start. Linear
algebra in a function of someone else's still finds scipy; `awkward.numba.register()` does what was left out.
"""

import importlib.util
import sys

import numba.core.entrypoints

_BLAS = "scipy.linalg.cython_blas"


def _start_lean() -> None:
    numba.core.entrypoints._already_initialized = True
    if "numba.np.arraymath" in sys.modules or _BLAS in sys.modules:
        return
    sys.modules[_BLAS] = None  # an import of it fails at once
    try:
        from numba.np import arraymath
    finally:
        del sys.modules[_BLAS]
    arraymath._HAVE_BLAS = importlib.util.find_spec("scipy") is not None


_start_lean()
