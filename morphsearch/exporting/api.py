"""``ms.export``: an architecture or a network as a file that needs nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from morphsearch import plugins
from morphsearch.arguments import named_arguments, shown
from morphsearch.errors import InputError, MorphError, PluginError, UsageError
from morphsearch.exporting.formats import format_of
from morphsearch.exporting.source import Source, Weights
from morphsearch.exporting.taken import refuse_taken
from morphsearch.files import read_tensors
from morphsearch.loop.architecture import FILE, Architecture
from morphsearch.loop.found import architectures
from morphsearch.loop.inherited import other_network
from morphsearch.sparsity.run import is_sparsification
from morphsearch.sparsity.runner import WEIGHTS
from morphsearch.sparsity.source import untrained, weights_of

BY_PLACE = (
    "The code takes channels by their place, and which units were kept decides how many are in each part: this is the "
    "network that the search trained; one that is built from the widths has other parts, as retraining does."
)


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its format, and what the user should know about it."""

    path: Path
    format: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"path": str(self.path), "format": self.format, "notes": self.notes}


@named_arguments
def export(
    what: Architecture | nn.Module | str | Path,
    *,
    format: str | None = None,
    path: str | Path | None = None,
    weights: Weights | str | Path | None = None,
    example_inputs: Any = None,
    input_shape: Sequence[int] | None = None,
    allow_code: bool = False,
) -> Exported:
    """Write an architecture, or a network with its weights, in a format of its own.

    Args:
        what: an architecture, the path of an ``architecture.json`` or of a run (its last architecture is taken; the
            network of a sparsification), or a network.
        format: "python", "onnx", "pt2", "widths", or the name that a plugin registered; default: the one whose files
            end as `path` does, else "python".
        path: the file; default: named after the seed and the architecture, in this folder.
        weights: "fresh", "inherited" or "retrained" (of an architecture in a run), a safetensors file, or tensors by
            name; default: fresh ones for an architecture, its own for a network and a sparsification.
        example_inputs: for a network, or for an architecture without a spec whose network is `what`; not beside an
            architecture, which has its own.
        input_shape: of the input that the file is made for and checked on; default: that of the recording.
        allow_code: leave to build a seed that names a factory of somebody's own.

    Raises:
        UnknownName: no such format, with the nearest. UsageError: arguments that do not fit, or `path` is there and no
            earlier export.
        InputError: files or weights that cannot be used, or an export that does not compute the same.
    """
    format = format if format is not None else format_of(None if path is None else Path(path))
    plugins.record("exporters", format)
    source, own = _source(what, example_inputs, weights)
    if input_shape is not None:
        source = source.with_shape(tuple(int(size) for size in input_shape))
    told: list[str] = []
    if isinstance(weights, str | Path):
        told = untrained(str(weights), source)
        place = weights_of(str(weights), source if source.path is not None else None)
        tensors: Weights | None = None if place is None else read_tensors(place)
        own = None
        if weights == "inherited" and source.model is None:
            source.model = other_network(source, allow_code=allow_code)
            told += [] if source.model is None else [BY_PLACE]
    else:
        tensors = weights
    exporter = plugins.create("exporters", format)
    suffix = str(getattr(exporter, "suffix", "")) or f".{format}"
    target = Path(path) if path is not None else Path(f"{stem(source)}{suffix}")
    if target.is_dir():
        target = target / f"{stem(source)}{suffix}"
    if target.name == FILE:
        raise UsageError(f"{target} is the name of an architecture", "exports are other files", f"write net{suffix}")
    refuse_taken(target, format, suffix)
    try:
        notes = exporter.export(
            source, target, weights=own if tensors is None else dict(tensors), allow_code=allow_code
        )
    except (MorphError, KeyboardInterrupt):
        raise
    except Exception as error:
        origin = plugins.record("exporters", format).origin
        if origin == plugins.BUILTIN:
            raise
        raise PluginError(
            f"the exporter {format!r} of {origin} failed: {type(error).__name__}: {error}",
            "an exporter writes an architecture to a path",
            "report it to the plugin's author",
        ) from error
    lines = notes is None or (isinstance(notes, Sequence) and not isinstance(notes, str))
    due = "export() writes its file, and returns lines for the user, or None"
    plugins.answered(target.exists(), "exporters", format, f"export() wrote no {target.name}", due)
    plugins.answered(lines, "exporters", format, f"export() returned {shown(notes)}", due)
    return Exported(target, format, [*told, *(str(note) for note in notes or ())])


def _source(what: Any, example_inputs: Any, weights: Any) -> tuple[Source, Mapping[str, Any] | None]:
    """What exporters get, and the weights that come with it."""
    if isinstance(what, Source):
        return what, None
    if isinstance(what, Architecture | str | Path) and example_inputs is not None:
        raise UsageError(
            "example inputs beside an architecture",
            "an architecture says what its network was recorded with",
            "leave them out; input_shape=(1, 3, 64, 64) exports for another height and width",
        )
    if isinstance(what, Architecture):
        return Source.of(what), None
    if isinstance(what, str | Path):
        source = Source.of(find(Path(what)))
        return source, read_tensors(Path(what) / WEIGHTS) if weights is None and _sparse(what, source) else None
    if not isinstance(what, nn.Module):
        raise UsageError(
            f"a {type(what).__name__} cannot be exported",
            "it is an architecture, the path of one or of a run, or a network",
            'write ms.export("runs/a") or ms.export(network, example_inputs=...)',
        )
    if example_inputs is None:
        raise UsageError(
            "a network is exported without example inputs",
            "its source is written by running it once",
            "add example_inputs=torch.zeros(1, 3, 224, 224), or what it takes",
        )
    name = type(what).__name__.lower()
    return Source.given(what, example_inputs, name), what.state_dict()


def _sparse(folder: str | Path, source: Source) -> bool:
    """Whether the architecture of a run is that of a sparsification, with weights beside it."""
    beside = source.path is not None and source.path.parent == Path(folder)
    if not beside or not (Path(folder) / "run.json").is_file() or not is_sparsification(folder):
        return False
    if (Path(folder) / WEIGHTS).is_file():
        return True
    raise InputError(
        f"{folder} has no weights yet",
        "a sparsification writes them when it ends",
        f"let it end: morphsearch resume {folder}; or export the network as it began: --weights fresh",
    )


def stem(architecture: Architecture) -> str:
    """A file name without suffix, such as ``resnet20_001``, that Python can import."""
    place = (architecture.seed_spec or "").partition("?")[0]
    factory = place.rpartition(":")[2]
    words = [word for word in (Path(factory).stem, architecture.name) if word]
    name = re.sub(r"\W+", "_", "_".join(dict.fromkeys(words)), flags=re.ASCII).strip("_")
    return name if name[:1].isalpha() else f"net_{name}"


def find(path: Path, iteration: int | None = None) -> Architecture:
    """The architecture in a file; of a run the last, or that of `iteration`.

    Raises:
        InputError: there is none. UsageError: no such iteration.
    """
    if not path.is_dir():
        if iteration is not None:
            raise UsageError(f"{path} and an iteration", "a file holds one architecture", "leave the iteration out")
        return Architecture.load(path)
    found = architectures(path)
    if iteration is None:
        return Architecture.load(found[-1])
    numbered = {int(one.parent.name): one for one in found if one.parent.name.isdigit()}
    if iteration not in numbered:
        raise UsageError(
            f"iteration {iteration} does not exist in {path}",
            f"this run has {', '.join(map(str, numbered)) or 'none'}",
            f"choose one of these, or leave it out for {max(numbered)}" if numbered else "leave the iteration out",
        )
    return Architecture.load(numbered[iteration])
