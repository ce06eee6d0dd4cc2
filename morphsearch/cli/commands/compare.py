"""``morphsearch compare``."""

from __future__ import annotations

from pathlib import Path

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.commands.profile import BackendName
from morphsearch.cli.commands.retrain import show_comparison
from morphsearch.cli.running import searched_run
from morphsearch.errors import UsageError


@morph_command(
    "compare",
    examples=[
        ("morphsearch compare runs/a", "costs, accuracy and its spread over seeds, and latency on this device"),
        ("morphsearch compare runs/a --backend onnxruntime", "latency in another runtime"),
        ("morphsearch compare runs/a --no-latency --json", "without measuring, for programs"),
    ],
)
@options.run
@click.option(
    "--latency/--no-latency", default=True, show_default=True, help="Measure the latency of every architecture here."
)
@click.option(
    "--backend",
    type=BackendName("latency_backends"),
    show_default="that of the run's hardware profile, or eager",
    help="What runs the networks; see `morphsearch plugins`.",
)
@options.allow_code
@options.config
@options.as_json
def command(run_dir: Path, latency: bool, backend: str | None, allow_code: bool, as_json: bool) -> None:
    """Print the retrained architectures of a run in one table."""
    if backend is not None and not latency:
        raise UsageError(
            f"--backend {backend} with --no-latency",
            "a backend is for measuring latency",
            "leave one of them out",
        )
    searched_run(run_dir)
    from morphsearch.loop import retraining

    found = retraining.compare(run_dir)
    if latency:
        from morphsearch.loop.measuring import measure_latency
        from morphsearch.loop.rundir import RunDirectory

        found = measure_latency(found, RunDirectory.open(run_dir), backend=backend, allow_code=allow_code)
    show_comparison(found, as_json)
