"""A study's result as JSON, Markdown and HTML."""

from tools.studies.pages.write import summary_table, write_pages

__all__ = ["summary_table", "write_pages"]
