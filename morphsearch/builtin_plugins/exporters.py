"""Built-in exporters."""

from __future__ import annotations

from typing import Any

from morphsearch.hookspecs import hookimpl
from morphsearch.types import ExporterRecord


def _python() -> Any:
    from morphsearch.exporting.python import PythonExporter

    return PythonExporter()


def _onnx() -> Any:
    from morphsearch.exporting.onnx import OnnxExporter

    return OnnxExporter()


def _pt2() -> Any:
    from morphsearch.exporting.pt2 import Pt2Exporter

    return Pt2Exporter()


def _widths() -> Any:
    from morphsearch.exporting.widths import WidthsExporter

    return WidthsExporter()


@hookimpl
def morphsearch_exporters() -> list[ExporterRecord]:
    """``python``, ``onnx``, ``pt2`` and ``widths``."""
    return [
        ExporterRecord("python", "A readable nn.Module in one file that needs only torch", _python),
        ExporterRecord("onnx", "For ONNX Runtime and other engines (evaluation mode)", _onnx),
        ExporterRecord("pt2", "A program for torch.export.load (evaluation mode)", _pt2),
        ExporterRecord("widths", "The width of every group, as JSON", _widths),
    ]
