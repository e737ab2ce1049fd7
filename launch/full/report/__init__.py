"""What came of `quickstart --full`, as one HTML page that follows the sections of the report."""

from launch.full.report.page import write_report

__all__ = ["write_report"]
