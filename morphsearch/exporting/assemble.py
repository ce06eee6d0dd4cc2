"""The text of an exported file: heading, helpers, classes, loading of weights."""

from __future__ import annotations

import re
from typing import Any

from morphsearch.exporting.capture import Captured
from morphsearch.exporting.layout import fit, paragraph
from morphsearch.exporting.literals import HELPERS, comment, quoted
from morphsearch.exporting.source import inputs_of
from morphsearch.exporting.taken import MARK

LOAD = '''def load_weights(model: nn.Module, path: str) -> nn.Module:
    """Load a safetensors file into the network, strictly, and return it."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    kinds = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    kinds |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    state = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        dtype = getattr(torch, kinds[entry["dtype"]])
        value = torch.empty(entry["shape"], dtype=dtype)
        if value.numel():
            first, last = (start + offset for offset in entry["data_offsets"])
            value = torch.frombuffer(bytearray(data[first:last]), dtype=dtype).reshape(entry["shape"])
        state[name] = value
    model.load_state_dict(state)
    return model'''


def assemble(architecture: Any, captured: Captured, *, weights: str) -> str:
    """The whole file; `weights` names the safetensors file in its docstring."""
    made = captured.source
    library = made.library
    classes = [library.source(position) for position in range(len(library.classes))]
    root = library.classes[-1].name
    classes[-1] = library.source(len(library.classes) - 1, about="The whole network.")
    code = "\n".join(line for lines in classes for line in lines)
    helpers = [text for name, text in HELPERS.items() if f"{name}(" in code]
    load = "\n".join(line for one in LOAD.split("\n") for line in fit(one))
    blocks = [*helpers, *("\n".join(lines) for lines in classes), load]
    body = "\n".join(blocks)
    tuples = [
        f"{name} = namedtuple({quoted(name)}, [{', '.join(quoted(one) for one in fields)}])"
        for name, fields in made.namedtuples.items()
    ]
    imports = [name for name in ("base64", "json", "math", "zlib") if re.search(rf"\b{name}\.", body)]
    collected = [n for n in ("OrderedDict", "namedtuple") if re.search(rf"\b{n}\(", "\n".join([body, *tuples]))]
    head = [*_heading(architecture, captured, root, weights), "", "from __future__ import annotations", ""]
    head += [f"import {name}" for name in imports]
    head += [f"from collections import {', '.join(collected)}"] if collected else []
    head += ["from pathlib import Path"]
    head += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
    head += ["", "import torch"]
    head += ["import torch.nn.functional as F"] if re.search(r"\bF\.", body) else []
    head += ["from torch import Tensor, nn"]
    parts = ["\n".join(head)]
    if tuples:
        parts[0] += "\n\n" + "\n".join(line for one in tuples for line in fit(one))
    return "\n\n\n".join([*parts, *blocks]) + "\n"


def _heading(architecture: Any, captured: Captured, root: str, weights: str) -> list[str]:
    spec = comment(str(architecture.seed_spec or "a network that was handed over"))
    lines = [f'"""Architecture {comment(str(architecture.name))} of {spec}, {MARK}', ""]
    lines += [f"    model = {root}()", f"    load_weights(model, {quoted(comment(weights))})", ""]
    for name, entry in architecture.costs.items():
        lines.append(f"{comment(str(name))}: {entry['total']:,} {comment(str(entry['unit']))}".replace(".0 ", " "))
    shapes = "; ".join("x".join(map(str, entry["shape"])) for entry in inputs_of(architecture))
    lines += ["", *paragraph(f"Input: {shapes}. {_sizes(captured)}")]
    lines += paragraph(_fresh(captured))
    for note in captured.notes:
        lines += paragraph(f"Note: {comment(note)}.")
    widths = [
        f"{comment(name)} {width}" + (f" of {old}" if (old := architecture.seed_widths.get(name)) != width else "")
        for name, width in architecture.widths.items()
    ]
    if widths:
        lines += [
            "",
            "Widths (units of each group, and of the seed's where it differs):",
            *paragraph(", ".join(widths), "    "),
        ]
    return [*lines, '"""']


def _sizes(captured: Captured) -> str:
    if captured.spatial:
        return "Batch, height and width (or length) may be others."
    if captured.batch:
        return "The batch may be another, all other sizes are fixed."
    return "All sizes are fixed."


def _fresh(captured: Captured) -> str:
    return (
        "A new network has fresh weights, drawn as morphsearch draws them for retraining."
        if captured.drawn
        else "A new network has fresh weights by the initialisation of torch's own modules."
    )
