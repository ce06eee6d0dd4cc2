"""``morphsearch resume``."""

from __future__ import annotations

from pathlib import Path

from morphsearch.cli import options
from morphsearch.cli.command import command as morph_command
from morphsearch.cli.commands import sparsify
from morphsearch.cli.commands.search import show_result
from morphsearch.cli.running import existing_run, listening, resume_command, resuming_with


@morph_command(
    "resume",
    examples=[
        ("morphsearch resume runs/a", "goes on where it stopped, and ends as it would have"),
        ("morphsearch resume runs/a --allow-code", "when its network came from a factory of yours"),
    ],
)
@options.run
@options.allow_code
@options.config
@options.quiet
@options.as_json
def command(run_dir: Path, allow_code: bool, quiet: bool, as_json: bool) -> None:
    """Go on with an interrupted search or sparsification."""
    existing_run(run_dir)
    from morphsearch.loop import run
    from morphsearch.sparsity import run as sparsity

    going_on = resume_command(run_dir, allow_code=allow_code)
    if sparsity.is_sparsification(run_dir):
        with listening(quiet=quiet) as listener, resuming_with(going_on, run_dir):
            sparse = sparsity.resume(run_dir, listener=listener, allow_code=allow_code)
        sparsify.show_result(sparse, as_json)
        return
    with listening(quiet=quiet) as listener, resuming_with(going_on, run_dir):
        result = run.resume(run_dir, listener=listener, allow_code=allow_code)
    show_result(result, as_json, allow_code=allow_code)
