"""Data specs: ``digits``, ``imagefolder:PATH``, ``cifar10:PATH``, ``npz:PATH``, and ``package.module:function``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from morphsearch import foreign, plugins
from morphsearch.data.adapt import as_splits
from morphsearch.data.base import DataOptions, DataSplits
from morphsearch.errors import InputError, MorphError, PluginError, UnknownName, UsageError


def load(
    spec: str,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    workers: int | None = None,
    memory_limit_bytes: int | None = None,
    allow_code: bool = False,
) -> DataSplits:
    """Load the data that `spec` names; the other arguments are those of :class:`DataOptions`.

    A ``package.module:function`` (or ``file.py:function``) is called without arguments, or with the options where it
    takes one, and returns :class:`DataSplits` or what :func:`as_splits` takes: ``(train, val)``, ``(train, val,
    test)`` or a dict with those keys. `allow_code` is the leave to run it.

    Raises:
        UsageError: the spec does not parse, an option is out of range, or `allow_code` is missing.
        UnknownName: no such data source; the message has the nearest names.
        InputError: the data cannot be used.
        PluginError: a plugin's source raised, or returned something else.
    """
    limit = {} if memory_limit_bytes is None else {"memory_limit_bytes": memory_limit_bytes}
    options = DataOptions(seed, val_fraction, image_size, channels, workers, **limit)
    records = plugins.registry("data")
    name, colon, argument = spec.partition(":")
    if name in records:
        splits = plugins.create("data", name, argument or None, options)
        if not isinstance(splits, DataSplits):
            raise PluginError(
                f"the data source {name!r} of {records[name].origin} returned {type(splits).__name__}",
                "a data source returns morphsearch.data.DataSplits",
                f"report it to the authors of {records[name].origin}",
            )
        return _told(splits, options)
    place, _, function = spec.rpartition(":")
    if function.isidentifier() and ("." in place or foreign.is_file(place)) and "/" not in function:
        return _told(_call(spec, options, allow_code), options)
    sources = [key if key == "digits" else f"{key}:PATH" for key in records]
    if spec and Path(spec).expanduser().exists():
        raise UsageError(
            f"data {spec!r} is a path",
            f"data reads SOURCE:PATH: {', '.join(sources)}",
            f"write imagefolder:{spec}" if Path(spec).expanduser().is_dir() else f"write npz:{spec}",
        )
    raise UnknownName.of(
        "data source", name if colon else spec, records, remedy="or name a function of yours: package.module:function"
    )


def _told(splits: DataSplits, options: DataOptions) -> DataSplits:
    """The splits, with a note where a fraction was asked for that nothing is carved by."""
    part = splits.record.get("parts", {}).get("val", {})
    if options.val_fraction != DataOptions.val_fraction and part.get("given"):
        note = f"The data has a validation part of its own: val_fraction={options.val_fraction:g} has no effect."
        splits.notes = [*splits.notes, note]
    return splits


def _call(spec: str, options: DataOptions, allow_code: bool) -> DataSplits:
    function = foreign.find_function(spec, what="data", allow_code=allow_code)
    try:
        with foreign.neighbours(spec):
            found = function(options) if _takes_options(function) else function()
    except MorphError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the data function {spec} raised {foreign.describe(error, spec.rpartition(':')[0])}",
            "it returns the data, called without arguments or with the options",
            "repair the function",
        ) from error
    splits = _adapt(spec, found, options)
    splits.name = spec
    splits.record = {**splits.record, "source": "function", "name": spec}
    return splits


def _takes_options(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) for item in parameters)


def _adapt(spec: str, found: Any, options: DataOptions) -> DataSplits:
    if isinstance(found, DataSplits):
        return found
    if isinstance(found, dict) and "train" in found and set(found) <= {"train", "val", "test"}:
        return as_splits(found["train"], found.get("val"), found.get("test"), options=options)
    if isinstance(found, tuple | list) and len(found) in (2, 3) and not _is_pair(found):
        return as_splits(*found, options=options)
    if found is None or isinstance(found, dict):
        arrived = "None" if found is None else f"a dict with the keys {', '.join(map(str, found))}"
        raise InputError(
            f"the data function {spec} returned {arrived}",
            "it returns (train, val), (train, val, test), a dict with those keys, or DataSplits",
            "return the data",
        )
    return as_splits(found, options=options)


def _is_pair(found: Any) -> bool:
    """Whether it is images and labels, rather than two parts."""
    return len(found) == 2 and all(hasattr(item, "dtype") and hasattr(item, "shape") for item in found)
