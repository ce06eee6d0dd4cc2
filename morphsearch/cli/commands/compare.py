"""``morphsearch compare``."""

from __future__ import annotations

from pathlib import Path

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.commands.retrain import show_comparison
from morphsearch.cli.running import searched_run


@morph_command(
    "compare",
    examples=[
        ("morphsearch compare runs/a", "architecture, FLOPs, parameters, accuracy and its spread over seeds"),
        ("morphsearch compare runs/a --json", "the same for programs"),
    ],
)
@options.run
@options.config
@options.as_json
def command(run_dir: Path, as_json: bool) -> None:
    """Print the retrained architectures of a run in one table."""
    searched_run(run_dir)
    from morphsearch.loop import retraining

    show_comparison(retraining.compare(run_dir), as_json)
