"""The report as one HTML file that needs no network: :func:`write` and :func:`render`."""

from morphsearch.report.page.document import check_target, render, write

__all__ = ["check_target", "render", "write"]
