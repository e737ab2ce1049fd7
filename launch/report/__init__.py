"""What came of a run from raw code to a Hugging Face model, as one HTML page that needs nothing else."""

from launch.report.page import write_report

__all__ = ["write_report"]
