"""What every exporter must do; subclass :class:`ExporterConformance` in a test module to check yours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from morphsearch.graph import record
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.models import build_seed
from morphsearch.strategies.widths import scale
from morphsearch.types import Exporter


class ExporterConformance:
    """Cases for an exporter::

    class TestCsv(ExporterConformance):
        def exporter(self):
            return CsvExporter()
    """

    def exporter(self) -> Exporter:
        """A new one, the one under test."""
        raise NotImplementedError("return a new exporter")

    @pytest.fixture
    def architecture(self) -> Architecture:
        """The network for digits at half its widths."""
        from morphsearch.costs import cost

        seed = build_seed("digits_net", num_classes=10, input_shape=(1, 8, 8))
        example = torch.zeros(1, 1, 8, 8)
        graph = record(seed.model, example)
        widths = scale(graph, 0.5)
        params = cost(graph, "params", widths)
        return Architecture(
            name="001",
            seed_spec=seed.spec,
            inputs=describe_inputs(example),
            widths=widths,
            seed_widths=dict(graph.widths),
            costs={"params": {"total": params.total, "unit": params.unit}},
            floors={name: group.floor for name, group in graph.groups.items()},
            decisions=graph.decisions,
        )

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        """A file that is not there yet, in a folder that is empty."""
        return tmp_path / f"net{self.exporter().suffix}"

    def test_its_suffix_is_one(self) -> None:
        """Files are named by it where the user names none."""
        assert self.exporter().suffix.startswith("."), "a suffix begins with a dot"

    def test_it_writes_the_file_and_nothing_else(self, architecture: Architecture, target: Path) -> None:
        """Whole, and without traces of how it was written."""
        self.exporter().export(architecture, target)
        assert target.stat().st_size > 0
        assert list(target.parent.iterdir()) == [target]

    def test_what_it_says_is_lines(self, architecture: Architecture, target: Path) -> None:
        """Or nothing."""
        notes = self.exporter().export(architecture, target)
        assert notes is None or all(isinstance(note, str) and note for note in notes)

    def test_an_earlier_export_is_replaced(self, architecture: Architecture, target: Path) -> None:
        """As a whole."""
        target.write_bytes(b"x" * 1_000_000)
        self.exporter().export(architecture, target)
        assert not target.read_bytes().endswith(b"xxxx")

    def test_it_takes_weights(self, architecture: Architecture, target: Path) -> None:
        """Tensors by name; a format without weights may pass them over."""
        weights = architecture.build().state_dict()
        self.exporter().export(architecture, target, weights=weights)
        assert target.exists()
