"""What a corpus holds and what was dropped: as numbers, in a terminal, and as one HTML page that needs nothing else."""

from data_prep.report.numbers import corpus_report
from data_prep.report.terminal import render

__all__ = ["corpus_report", "render"]
