"""Built-in exporters."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import ExporterRecord


def _widths() -> Any:
    from morphsearch.loop.exporters import WidthsExporter

    return WidthsExporter()


@hookimpl
def morphsearch_exporters() -> list[ExporterRecord]:
    """``widths``."""
    return [ExporterRecord("widths", "The width of every group, as JSON", _widths)]
