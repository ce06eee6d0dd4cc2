"""The network that is sparsified: a seed, or what a search found, with fresh or trained weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from morphsearch.costs import cost
from morphsearch.data import DataSplits, check_model_input
from morphsearch.data import load as load_data
from morphsearch.errors import InputError, MorphError, UsageError, nearest
from morphsearch.files import load_into, prefixed, read_tensors, require_values
from morphsearch.graph import record
from morphsearch.loop.architecture import Architecture, describe_inputs
from morphsearch.loop.found import architectures
from morphsearch.loop.inherited import other_network
from morphsearch.models import build_seed
from morphsearch.sparsity.config import FRESH, SparsifyConfig

WORDS = (FRESH, "inherited", "retrained")


@dataclass
class Source:
    """A network that is ready to be trained; `spec` builds its seed, `weights` is the file it starts from, if any."""

    model: nn.Module
    spec: str | None
    architecture: Architecture | None
    weights: Path | None


def architecture_of(model: str) -> Architecture | None:
    """The architecture that `model` names, None where it is the spec of a seed.

    Raises:
        InputError: a file or run without one.
    """
    path = Path(model)
    if path.suffix == ".json":
        return Architecture.load(path)
    if not path.is_dir():
        return None
    return Architecture.load(architectures(path)[-1])


def data_of(config: SparsifyConfig, architecture: Architecture | None) -> DataSplits:
    """The data that a configuration names, in the shape that the network takes."""
    image = config.input or (architecture.input_shape if architecture is not None else None)
    image = image if image is not None and len(image) == 4 else None
    return load_data(
        config.data,
        seed=config.seed if config.data_seed is None else config.data_seed,
        val_fraction=config.val_fraction,
        image_size=(image[2], image[3]) if image else None,
        channels=image[1] if image and image[1] in (1, 3) else None,
        allow_code=config.allow_code,
    )


def source_of(config: SparsifyConfig, data: DataSplits, architecture: Architecture | None) -> Source:
    """Build the network, its fresh weights drawn by the configuration's seed, and load what it starts from.

    Raises:
        InputError: weights that are not there or do not fit. UsageError: weights that the model has no place for.
    """
    weights = weights_of(config.weights, architecture, config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if architecture is not None:
            model, spec = architecture.build(allow_code=config.allow_code), architecture.seed_spec
        else:
            shape = config.input or (1, *data.shape)
            check_model_input(data, shape)
            seed = build_seed(
                config.model, num_classes=data.num_classes, input_shape=shape[1:], allow_code=config.allow_code
            )
            model, spec = seed.model, seed.spec
    if weights is not None:
        load_weights(model, weights)
    heir = architecture if config.weights == "inherited" else None
    if heir is not None and other_network(heir, allow_code=config.allow_code) is not None:
        raise InputError(
            f"the inherited weights of architecture {heir.name} do not compute at its widths what they did in "
            "the search",
            "the code takes channels by their place, and which units were kept decides how many are in each part",
            "take --weights retrained (morphsearch retrain), or fresh",
        )
    return Source(model, spec, architecture, weights)


def seed_as_it_is(source: Source, shape: Sequence[int]) -> Architecture | None:
    """A seed as an architecture of its own widths, `shape` being that of its input; None where no file can name it, or
    it cannot be recorded."""
    if source.spec is None:
        return None
    example = torch.zeros(tuple(shape))
    try:
        with torch.random.fork_rng():  # what trains draws the same numbers, recorded or not
            graph = record(source.model, example, check=False)
        costs = {name: cost(graph, name) for name in ("flops", "params")}
    except MorphError:
        return None
    told = {name: {"total": one.total, "unit": one.unit} for name, one in costs.items()}
    return Architecture("seed", source.spec, describe_inputs(example), graph.widths, graph.widths, told)


def weights_of(word: str, architecture: Architecture | None, seed: int = 0) -> Path | None:
    """The file that ``--weights`` means; None for fresh ones."""
    if word == FRESH:
        return None
    if word not in WORDS:
        close = nearest(word, WORDS)
        path = Path(word)
        if path.is_file():
            return path
        raise InputError(
            f"weights {word!r}",
            f"weights are {', '.join(WORDS)}, or a safetensors file that is there",
            f"did you mean {close[0]}?" if close else "check the path",
        )
    if architecture is None or architecture.path is None:
        raise UsageError(
            f"weights {word!r} of a seed",
            "inherited and retrained weights belong to an architecture in a run",
            "name a run or its architecture.json, or a safetensors file as --weights",
        )
    if word == "inherited":
        return architecture.path.with_name("weights.safetensors")
    if architecture.path.parent.parent.name != "iterations":
        raise UsageError(
            f"weights 'retrained' of {architecture.path}",
            "architectures are retrained in the run of the search that found them",
            "name that run, or a safetensors file as --weights",
        )
    run = architecture.path.parent.parent.parent
    folders = {path.parent.name: path for path in run.glob(f"retrained/{architecture.name}-seed*/weights.safetensors")}
    if not folders:
        raise InputError(
            f"architecture {architecture.name} of {run} was not retrained",
            "retrained weights are what `morphsearch retrain` leaves behind",
            f"retrain it first (morphsearch retrain {run}), or take --weights inherited or fresh",
        )
    return folders.get(f"{architecture.name}-seed{seed}") or folders[sorted(folders, key=_number)[0]]


def untrained(word: str, architecture: Architecture | None) -> list[str]:
    """A note where inherited weights are those of the seed, since the search trained no network that it kept."""
    path = architecture.path if architecture is not None else None
    found = path is not None and path.parent.parent.name == "iterations"  # and not the copy beside sparse weights
    if word != "inherited" or architecture is None or not found or architecture.record.get("steps") != 0:
        return []
    strategy = architecture.strategy or "its strategy"
    return [
        f"The search did not train the inherited weights ({strategy} keeps no trained network): they are the seed's, "
        "cut to these widths. `morphsearch retrain` trains the architecture, and --weights retrained takes the outcome."
    ]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into `model`, which must have just these tensors.

    Raises:
        InputError: missing, damaged, or of another network.
    """
    tensors = read_tensors(path)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not in the network" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(
            f"the weights in {path} do not fit the network: {'; '.join(problems[:3])}{more}",
            "weights belong to a network with the same layers and widths",
            prefixed(own, tensors) or "name the architecture that they were trained for",
        )
    require_values(own, tensors, str(path))
    load_into(model, tensors)


def recorded_data(model: str) -> dict[str, Any]:
    """What the search in a folder (or that an architecture file lies in) used: data and the seed of its splits.

    Empty for a seed, or where nothing is recorded.
    """
    path = Path(model)
    folders = [path, *path.parents] if path.is_dir() or path.suffix == ".json" else []
    record = next((folder / "run.json" for folder in folders[:4] if (folder / "run.json").is_file()), None)
    if record is None:
        return {}
    try:
        asked = json.loads(record.read_text(encoding="utf-8"))
        config = asked.get("config") or asked.get("sparsify") or {}
        found = {
            "data": config.get("data"),
            "data_seed": config.get("seed"),
            "val_fraction": config.get("val_fraction"),
        }
    except (OSError, ValueError, AttributeError):
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _number(name: str) -> int:
    digits = name.rpartition("-seed")[2]
    return int(digits) if digits.isdigit() else 0
