"""``morphsearch report``."""

from __future__ import annotations

from pathlib import Path

import click

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.output import emit
from morphsearch.cli.running import existing_run


@morph_command(
    "report",
    examples=[
        ("morphsearch report runs/a", "a search, what was retrained and sparsified of it, as runs/a/report.html"),
        ("morphsearch report runs/a runs/b --output both.html", "several runs on one page, and in one plot"),
        ("morphsearch report runs/a --json", "the same as data; no page is written without --output"),
    ],
)
@options.runs
@options.output("report.html in the run, or, for several, here")
@options.allow_code
@options.config
@options.as_json
def command(run_dirs: tuple[Path, ...], output: Path | None, allow_code: bool, as_json: bool) -> None:
    """Write runs as one HTML page: verdict, tables, plots, widths.

    The page needs no network and nothing beside it. What is damaged or unfinished is shown as such. An earlier report
    is replaced, any other file is not.
    """
    # Two ways to write one folder are one run.
    runs = list({path.resolve(): existing_run(path) for path in run_dirs}.values())
    from morphsearch.report import page
    from morphsearch.report.gather import gather

    target = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    writes = output is not None or not as_json
    if writes:
        page.check_target(target)
    records = [gather(run, allow_code=allow_code) for run in runs]
    for record in records:
        for fault in [fault for one in (record, *record.sparsified) for fault in one.faults]:
            click.echo(f"warning: {record.path}: {fault.arrived}", err=True)
    if writes:
        page.write(records, target)
    if as_json:
        emit({"output": str(target) if writes else None, "runs": [record.to_dict() for record in records]})
    else:
        click.echo(str(target))
