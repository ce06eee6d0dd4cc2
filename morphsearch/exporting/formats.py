"""Which format is meant by the name of the file that is asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path

from morphsearch import plugins
from morphsearch.errors import MorphError, UsageError

USUAL = "python"
WEIGHTS = ".safetensors"  # which every format may have beside it, and none is


def format_of(path: Path | None) -> str:
    """The format whose files end as `path` does; the usual one where that is a folder or says nothing.

    Raises:
        UsageError: no format's files end like that.
    """
    if path is None or path.is_dir() or path.suffix in ("", WEIGHTS):
        return USUAL
    known: dict[str, str] = {}
    for name in plugins.registry("exporters"):
        with contextlib.suppress(MorphError):  # a plugin that cannot be loaded is named where it is asked for
            known.setdefault(str(getattr(plugins.create("exporters", name), "suffix", "")), name)
    if path.suffix not in known:
        raise UsageError(
            f"{path}: no format has files that end in {path.suffix}",
            f"formats: {', '.join(f'{name} ({end})' if end else name for end, name in known.items())}",
            f"write for example {path.with_suffix('.onnx')}, or say which format with --format",
        )
    return known[path.suffix]
