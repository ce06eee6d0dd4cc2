"""Which files an export may write over: none but those of an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

from morphsearch.errors import UsageError

MARK = "as a plain module of torch."
"""In the first lines of exported source."""
_HEAD = 4096
_OTHERS = (".py", ".json", ".jsonl", ".safetensors", ".toml", ".html")


def refuse_taken(target: Path, format: str, suffix: str) -> None:
    """Refuse to write an export in the place of something else: code of the user's, a record of a run, weights.

    Args:
        target: where the export would go. format, suffix: its own.

    Raises:
        UsageError: as said.
    """
    if format == "python" and target.suffix == ".safetensors":
        raise UsageError(
            f"{target} is a name for weights",
            "the weights of exported source go beside it, under the same name with .safetensors",
            f"write for example --output {target.with_suffix('.py')}",
        )
    if target.is_file() and target.stat().st_size and not _ours(target, format, suffix):
        raise UsageError(
            f"{target} is there already, and is no export of this format",
            "nothing is overwritten but an earlier export",
            "choose another --output, or move that file away",
        )


def _ours(target: Path, format: str, suffix: str) -> bool:
    """Whether it may be an earlier export; what a plugin writes can be told by its suffix alone."""
    if format == "python":
        return MARK in _start(target)
    if format == "widths":
        try:
            data = json.loads(target.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return False
        return isinstance(data, dict) and {"seed", "widths", "costs"} == data.keys()
    return target.suffix == suffix or target.suffix not in _OTHERS


def _start(target: Path) -> str:
    with open(target, encoding="utf-8", errors="replace") as stream:
        return stream.read(_HEAD)
