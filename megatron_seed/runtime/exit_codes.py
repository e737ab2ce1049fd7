"""What the exit code of a training process says.

Beside these: 0 done, 1 an error of Python's with its traceback, 130 Ctrl-C. None of them is used by Python (1, 120), by
shells (126, 127, and 128 + n for signal n) or by `timeout` (124, 125, 137); the meanings are those of sysexits.h.
Under torchrun every failure comes out as 1: torchrun's own report then names the code.
"""

from __future__ import annotations

WRONG_INPUT = 2
"""A SeedError: something that the user can put right."""
LOST_PEER = 69
"""Another process of the job died, so this one could not go on (EX_UNAVAILABLE)."""
HUNG = 70
"""The job stood still and was ended (EX_SOFTWARE)."""
STOPPED_EARLY = 75
"""A signal or the wall clock ended the run before its last step, saved: start it again to go on (EX_TEMPFAIL)."""
