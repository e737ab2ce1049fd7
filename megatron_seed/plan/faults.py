"""How often to save, and what failures leave of the time: Young (1974), Daly (2006)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Reliability:
    """What failures and saves cost; seconds."""

    mtbf_s: float
    """Mean time between failures of the whole job."""
    pause_s: float
    """What one save keeps training from doing."""
    write_s: float
    """From a save's beginning until it is on disk; training goes on meanwhile, but a failure finds the one before."""
    restart_s: float
    """From a failure to the first new step."""


def job_mtbf_s(mtbf_node_hours: float, nodes: int) -> float:
    """One failed node ends the job; failures of nodes are independent and without memory."""
    return mtbf_node_hours * 3600.0 / nodes


def young_interval_s(reliability: Reliability) -> float:
    """Training between two saves that costs least, to first order."""
    return math.sqrt(2.0 * reliability.pause_s * reliability.mtbf_s)


def daly_interval_s(reliability: Reliability) -> float:
    """The same to higher order (Daly, 2006, equation 37), which holds where failures come often."""
    pause, mtbf = reliability.pause_s, reliability.mtbf_s
    if pause >= 2.0 * mtbf:
        return mtbf
    ratio = math.sqrt(pause / (2.0 * mtbf))
    return math.sqrt(2.0 * pause * mtbf) * (1.0 + ratio / 3.0 + ratio**2 / 9.0) - pause


def goodput(interval_s: float, reliability: Reliability) -> float:
    """Share of the time that is training which is not lost again, when a save begins every `interval_s` of training.

    Daly's expected time of an interval, failures during restarts counted: M e^(R/M) (e^((interval + pause)/M) - 1).
    A save that is not yet on disk when a failure comes is worth nothing: each failure costs `write_s` more work.
    One that is asked for while the one before is still being written waits for it, and training with it.
    """
    mtbf = reliability.mtbf_s
    pause = reliability.pause_s + max(0.0, reliability.write_s - interval_s)
    again = reliability.restart_s + reliability.write_s
    exponent = (interval_s + pause) / mtbf
    if exponent + again / mtbf > 700.0:  # beyond a float's range, and long past zero
        return 0.0
    return interval_s / (mtbf * math.exp(again / mtbf) * math.expm1(exponent))
