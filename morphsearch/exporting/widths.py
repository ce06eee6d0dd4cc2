"""Built-in exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morphsearch.files import write_json


class WidthsExporter:
    """The width of every group and the costs, as plain JSON for other tools."""

    suffix = ".json"

    def export(
        self, architecture: Any, destination: Any, *, weights: Any = None, allow_code: bool = False
    ) -> list[str]:
        """Write `architecture`'s widths to the path `destination`; weights do not go into this format."""
        write_json(
            Path(destination),
            {"seed": architecture.seed_spec, "widths": architecture.widths, "costs": architecture.costs},
        )
        asked = {
            "weights": weights is not None and getattr(architecture, "model", None) is None,  # not just a network's own
            "the shape of the input": bool(getattr(architecture, "export_inputs", None)),
        }
        return [f"{what} did not go into the file: it holds widths alone" for what, given in asked.items() if given]
