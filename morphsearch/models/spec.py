"""Seed specs: the text that names a network, and the network that it names.

======================================  =====================================================
``resnet20?shortcut=A``                 a built-in or registered seed
``torchvision:resnet18?num_classes=10`` a scheme: a library of models
``package.module:factory?depth=3``      a function or class of an installed package
``file.py:factory``                     the same, of a file
======================================  =====================================================
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from morphsearch import foreign, plugins
from morphsearch.errors import InputError, MorphError, UnknownName, UsageError, nearest
from morphsearch.types import ModelRecord

Value = int | float | bool | str

SMALL_IMAGE = 64
"""Images up to this many pixels a side take a seed's CIFAR stem, unless the spec says otherwise."""

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class SeedSpec:
    """A parsed spec. `kind` is ``name``, ``source``, ``module`` or ``file``; `name` is the seed or the scheme."""

    kind: str
    name: str
    target: str = ""
    arguments: Mapping[str, Value] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether building it runs code that neither morphsearch nor a plugin brings."""
        return self.kind in ("module", "file")

    @property
    def place(self) -> str:
        """The spec without its arguments."""
        return f"{self.name}:{self.target}" if self.target else self.name

    def __str__(self) -> str:
        query = "&".join(f"{key}={format_value(value)}" for key, value in self.arguments.items())
        return f"{self.place}?{query}" if query else self.place


@dataclass(frozen=True)
class Seed:
    """A network and what it was built from. `spec` is complete: building it again gives the same network.

    `input_shape` is that of one image, ``(c, h, w)``; None where neither the caller nor the registered seed says it.
    """

    spec: str
    model: nn.Module
    input_shape: tuple[int, ...] | None


def parse_value(text: str) -> Value:
    """``true``/``false``, a whole number, a finite number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def format_value(value: Value) -> str:
    """The text that :func:`parse_value` reads as `value`."""
    if isinstance(value, bool):
        return str(value).lower()
    return urllib.parse.quote(value, safe="/:,.-_") if isinstance(value, str) else repr(value)


def parse_spec(spec: str) -> SeedSpec:
    """Take a spec apart; imports nothing of the user's.

    Raises:
        UsageError: the text is no spec.
        UnknownName: no such seed or scheme; the message has the nearest names.
    """
    place, question, query = spec.partition("?")
    if not place or (question and not query):
        raise UsageError(
            f"seed {spec!r} does not parse",
            "a seed reads NAME, SCHEME:NAME, package.module:factory or file.py:factory, then ?key=value&key=value",
            "write for example resnet20 or mobilenet_v1?alpha=0.25",
        )
    arguments = _parse_query(spec, query)
    records = plugins.registry("models")
    left, colon, right = place.partition(":")
    if not colon:
        if place not in records or _is_source(records[place]):
            raise _unknown_seed(place, records)
        return SeedSpec("name", place, arguments=arguments)
    if left in records and _is_source(records[left]):
        if not right:
            raise UsageError(f"seed {spec!r} names no model", f"{left}: is followed by a name", f"write {left}:NAME")
        return SeedSpec("source", left, right, arguments)
    left, _, right = place.rpartition(":")
    if foreign.is_file(left):
        return SeedSpec("file", left, right, arguments)
    schemes = [f"{name}:" for name, record in records.items() if _is_source(record)]
    if "." not in left and nearest(f"{left}:", schemes) and not _module_exists(left):
        raise UnknownName.of("model scheme", f"{left}:", schemes)
    return SeedSpec("module", left, right, arguments)


def build_seed(
    spec: str,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    allow_code: bool = False,
    extra: Mapping[str, Value] | None = None,
) -> Seed:
    """Build the network that `spec` names, with fresh weights.

    Arguments in the spec win. Where it leaves them out and the factory takes them, it is given `num_classes`, the
    colour channels of `input_shape` and, for images of up to 64 x 64 pixels, ``stem="cifar"``. What was passed ends
    up in :attr:`Seed.spec`.

    Args:
        spec: see the table above.
        num_classes: outputs that the data needs.
        input_shape: one image, ``(c, h, w)``.
        allow_code: leave to run a ``package.module:factory`` or ``file.py:factory``.
        extra: more arguments for the factory; they win over those in the spec.

    Raises:
        UsageError: the spec does not parse, an argument is not known to the factory, or `allow_code` is missing.
        UnknownName: no such seed, scheme or model.
        InputError: the factory cannot be found, raises, or returns no ``nn.Module``; or images are too small for it.
        PluginError: a plugin's factory raises.
    """
    parsed = parse_spec(spec)
    arguments: dict[str, Value] = {**parsed.arguments, **(extra or {})}
    shape = tuple(input_shape) if input_shape is not None else None
    factory, signature, record = _find(parsed, allow_code)
    if signature is not None:
        _check_arguments(parsed, signature, arguments)
    arguments = _fill(parsed, arguments, signature, num_classes, shape)
    complete = SeedSpec(parsed.kind, parsed.name, parsed.target, arguments)
    if shape is None and record is not None and record.input_shape is not None:
        shape = record.input_shape
        if isinstance(channels := arguments.get("in_channels", arguments.get("in_chans")), int):
            shape = (channels, *shape[1:])
    model = _call(complete, factory)
    _check_size(complete, model, shape)
    return Seed(str(complete), model, shape)


def _parse_query(spec: str, query: str) -> dict[str, Value]:
    arguments: dict[str, Value] = {}
    for part in query.split("&") if query else ():
        key, equals, text = part.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"{part!r} in seed {spec!r} does not parse",
                "arguments of a seed read key=value, joined by &",
                "write for example resnet20?shortcut=A&num_classes=100",
            )
        if key in arguments:
            raise UsageError(f"{key!r} stands twice in seed {spec!r}", "an argument has one value", "leave one out")
        arguments[key] = parse_value(urllib.parse.unquote(text))
    return arguments


def _find(
    parsed: SeedSpec, allow_code: bool
) -> tuple[Callable[..., Any], inspect.Signature | None, ModelRecord | None]:
    """What to call, its signature where that says anything, and its record where it has one."""
    if parsed.runs_code:
        factory = foreign.find_function(parsed.place, what="model", allow_code=allow_code)
        if isinstance(factory, nn.Module):
            raise InputError(
                f"{parsed.place} is a network, not a factory",
                "a factory is a function (or class) that makes a fresh network each time it is called",
                f"write def make(): return ... in {parsed.name} and name that",
            )
        return factory, _signature(factory), None
    record = plugins.record("models", parsed.name)
    assert isinstance(record, ModelRecord), "plugins.registry gives records of its kind only"
    factory = record.factory
    signature = _signature(_builtin(parsed.name) if record.origin == plugins.BUILTIN else factory)
    if parsed.kind == "source" and signature is not None:
        target = next(iter(signature.parameters.values()), None)
        if target is not None and target.kind in (target.POSITIONAL_ONLY, target.POSITIONAL_OR_KEYWORD):
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    positional = (parsed.target,) if parsed.kind == "source" else ()

    def call(**arguments: Value) -> Any:
        return plugins.create("models", parsed.name, *positional, **arguments)

    return call, signature, record


def _builtin(name: str) -> Callable[..., Any] | None:
    """The function behind a built-in record; the record's own factory imports it late and hides its signature."""
    from morphsearch.models import digits, mobilenet_v1, resnet, sources, vgg

    functions: dict[str, Callable[..., Any]] = {
        "digits_net": digits.digits_net,
        "mobilenet_v1": mobilenet_v1.mobilenet_v1,
        "resnet20": resnet.resnet20,
        "resnet56": resnet.resnet56,
        "resnet18": resnet.resnet18,
        "resnet50": resnet.resnet50,
        "vgg16_bn": vgg.vgg16_bn,
        "torchvision": sources.torchvision_source,
        "timm": sources.timm_source,
    }
    return functions.get(name)


def _signature(factory: Callable[..., Any] | None) -> inspect.Signature | None:
    try:
        return inspect.signature(factory) if factory is not None else None
    except (TypeError, ValueError):  # some callables of C have none
        return None


def _takes(signature: inspect.Signature | None, name: str) -> bool:
    parameter = signature.parameters.get(name) if signature is not None else None
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _takes_anything(signature: inspect.Signature | None) -> bool:
    return signature is None or any(item.kind is item.VAR_KEYWORD for item in signature.parameters.values())


def _check_arguments(parsed: SeedSpec, signature: inspect.Signature, arguments: Mapping[str, Value]) -> None:
    names = [name for name in signature.parameters if _takes(signature, name)]
    if not _takes_anything(signature):
        for key in arguments:
            if key not in names:
                close = nearest(key, names)
                raise UsageError(
                    f"{parsed.place} has no argument {key!r}",
                    f"its arguments: {', '.join(names)}" if names else "it has no arguments",
                    f"did you mean {' or '.join(close)}?" if close else f"leave out {key}",
                )


def _fill(
    parsed: SeedSpec,
    arguments: dict[str, Value],
    signature: inspect.Signature | None,
    num_classes: int | None,
    shape: tuple[int, ...] | None,
) -> dict[str, Value]:
    """Add what the data says and the spec leaves out. A user's own factory gets only what it names in its signature."""
    filled = dict(arguments)
    if num_classes is not None:
        given = arguments.get("num_classes")
        if isinstance(given, int) and not isinstance(given, bool) and given < num_classes:
            raise UsageError(
                f"num_classes={given} in seed {str(parsed)!r}",
                f"the data has {num_classes} classes, and the network needs an output for each",
                "leave out num_classes, or write the number that the data has",
            )
        if _takes(signature, "num_classes") or (not parsed.runs_code and _takes_anything(signature)):
            filled.setdefault("num_classes", num_classes)
    if shape is not None and len(shape) == 3:
        for name in ("in_channels", "in_chans"):
            if _takes(signature, name) and signature is not None:
                default = signature.parameters[name].default
                # None: the library's own default, which is 3 throughout timm.
                if shape[0] != (3 if default is None else default):
                    filled.setdefault(name, shape[0])
        if (
            parsed.kind == "name"
            and _takes(signature, "stem")
            and signature is not None
            and signature.parameters["stem"].default == "imagenet"
            and max(shape[1:]) <= SMALL_IMAGE
        ):
            filled.setdefault("stem", "cifar")
    return filled


def _call(spec: SeedSpec, factory: Callable[..., Any]) -> nn.Module:
    try:
        with foreign.neighbours(spec.place if spec.runs_code else ""):
            model = factory(**spec.arguments)
    except MorphError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the factory of seed {str(spec)!r} raised {foreign.describe(error, spec.name if spec.runs_code else '')}",
            "a factory returns a network, given the arguments in the spec",
            _repair(spec, error),
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the factory of seed {str(spec)!r} returned {_article(type(model).__name__)}",
            "a factory returns a torch.nn.Module",
            "return the network itself" if spec.runs_code else "choose another seed",
        )
    return model


def _repair(spec: SeedSpec, error: BaseException) -> str:
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unexpected:
        return f"leave out {unexpected[1]}, which {spec.place} does not know"
    if isinstance(error, TypeError) and "required" in str(error):
        return f"give the argument in the spec: {spec.place}?name=value"
    return "repair the factory, or change the arguments in the spec" if spec.runs_code else "change the arguments"


def _check_size(spec: SeedSpec, model: nn.Module, shape: tuple[int, ...] | None) -> None:
    least = getattr(model, "min_input_size", None)
    if isinstance(least, int) and shape is not None and len(shape) == 3 and min(shape[1:]) < least:
        raise InputError(
            f"images of {shape[1]} x {shape[2]} pixels for seed {str(spec)!r}",
            f"{spec.place} takes images of at least {least} x {least}",
            f"enlarge the images (--input 1,{shape[0]},{least},{least}), or choose another seed",
        )


def _unknown_seed(name: str, records: Mapping[str, Any]) -> UnknownName:
    seeds = [f"{key}:NAME" if _is_source(record) else key for key, record in records.items()]
    error = UnknownName.of("seed", name, seeds, remedy="name your own network: file.py:factory")
    if "/" in name or os.sep in name:
        arrived = f"{name} is neither a seed nor a run" if os.path.lexists(name) else f"{name} does not exist"
        rule = f"a network is a seed ({', '.join(seeds)}), one of your own, or what a run keeps"
        return UnknownName(arrived, rule, "check the path, or name your own network: file.py:factory")
    if name.endswith(".py"):
        return UnknownName(f"seed {name!r} names no factory", "a file is followed by a function", f"write {name}:make")
    return error


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_source(record: Any) -> bool:
    return bool(getattr(record, "source", False))


def _article(noun: str) -> str:
    return noun if noun == "NoneType" else f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
