"""Numbers -> JSON, Markdown, HTML."""

from detection.report.comparison import write_comparison
from detection.report.write import headline, write_report

__all__ = ["headline", "write_comparison", "write_report"]
