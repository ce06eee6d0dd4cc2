"""Which files of a folder are architectures, and what to do where there are none."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from morphsearch.errors import InputError
from morphsearch.loop.architecture import FILE


def architectures(folder: Path) -> list[Path]:
    """The architecture files of a run, in its order, or the one that lies in a folder.

    Raises:
        InputError: there is none; the repair is that of a search, of a sparsification or of a folder that is no run.
    """
    found = [*sorted(folder.glob(f"iterations/*/{FILE}")), *folder.glob(FILE)]
    if found:
        return found
    asked: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged record is for `resume` to name
        asked = dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    if asked.get("kind") == "sparsify":
        repair = (
            "it is a sparsification, whose network has the widths that it began with: name what it was made from, and "
            f"--weights {folder / 'weights.safetensors'}"
        )
    elif (folder / "run.json").exists():
        repair = f"let the search come to its first: morphsearch resume {folder}"
    else:
        repair = f"check the path; `morphsearch runs {folder.parent}` lists the runs there"
    raise InputError(
        f"{folder} holds no architecture", f"a search keeps its architectures in iterations/NNN/{FILE}", repair
    )
