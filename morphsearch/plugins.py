"""Finds plugins, keeps their failures apart and checks what they register. Imports no torch.

Built-ins (:mod:`morphsearch.builtin_plugins`) come first and through the same hooks, then the entry points of the
group ``morphsearch``, then the modules named in ``MORPHSEARCH_PLUGINS``, then what :func:`register` is given. The first
record of a name wins. A plugin that fails costs one :class:`PluginWarning` and nothing else; ``MORPHSEARCH_STRICT=1``
makes that a :class:`~morphsearch.errors.PluginError`. ``MORPHSEARCH_DISABLE_PLUGINS`` names entry points or
distributions to leave out (``all``: every one).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import threading
import types as python_types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy

from morphsearch import hookspecs
from morphsearch._kinds import EVENTS, KINDS, Kind, PluginWarning, Problem, Row, fault
from morphsearch.errors import MorphError, PluginError, UnknownName, nearest
from morphsearch.types import Record

__all__ = [
    "BUILTIN",
    "EVENTS",
    "KINDS",
    "Kind",
    "PluginWarning",
    "Problem",
    "Row",
    "create",
    "fire",
    "listing",
    "manager",
    "problems",
    "record",
    "register",
    "registry",
    "reset",
    "unregister",
]

PROJECT = "morphsearch"
BUILTIN = "morphsearch"


# Built-ins by module name, not by import: they stand in the top layer, this module near the bottom.
_BUILTIN_MODULES = (
    *("cost_models", "strategies", "models", "data", "exporters", "executors", "latency_backends", "commands"),
)


@dataclass(frozen=True)
class _Source:
    """A registered plugin: its object, its name and where it came from; `remedy` is what helps when it is broken."""

    plugin: object
    name: str
    origin: str
    remedy: str

    def problem(self, reason: str, remedy: str = "", *, kind: str = "plugin", name: str = "") -> Problem:
        return Problem(self.name, self.origin, reason, remedy or self.remedy, kind, name)


@dataclass
class _State:
    manager: pluggy.PluginManager
    sources: list[_Source] = field(default_factory=list)
    registries: dict[str, Mapping[str, Record]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    disabled: list[tuple[str, str]] = field(default_factory=list)


_lock = threading.RLock()
_state: _State | None = None
_loading = False


def manager() -> pluggy.PluginManager:
    """The pluggy manager with every plugin registered; loads them on the first call.

    Raises:
        PluginError: a plugin cannot be loaded and ``MORPHSEARCH_STRICT`` is set.
    """
    return _loaded().manager


def registry(kind: str) -> Mapping[str, Record]:
    """The records of one kind by name, built-ins first; `kind` is a key of :data:`KINDS`.

    Raises:
        UsageError: no such kind.
        PluginError: a plugin failed and ``MORPHSEARCH_STRICT`` is set.
    """
    if kind not in KINDS:
        raise UnknownName.of("kind of plugin", kind, KINDS)
    with _lock:
        state = _loaded()
        if kind not in state.registries:
            records: dict[str, Record] = {}
            problems: list[Problem] = []
            for source in state.sources:
                for record in _records(state, source, kind, problems):
                    _add(records, record, source, kind, problems)
            if not (problems and _strict()):
                state.registries[kind] = python_types.MappingProxyType(records)
            _report(state, problems)
        return state.registries[kind]


def record(kind: str, name: str, others: Sequence[str] = ()) -> Record:
    """The record of that name; `others` are what could have been meant besides, for the message.

    Raises:
        UnknownName: no plugin registered it; the message has the nearest names.
    """
    known = registry(kind)
    if name not in known:
        broken = sorted({problem.plugin for problem in _loaded().problems})
        remedy = (
            f"a plugin that failed to load may have it: {', '.join(broken)} (see: morphsearch plugins)"
            if broken
            else ""
        )
        raise UnknownName.of(KINDS[kind].noun, name, [*others, *known], remedy=remedy)
    return known[name]


def create(kind: str, name: str, *args: Any, **options: Any) -> Any:
    """Call the factory of a record; what a plugin's factory raises becomes a :class:`PluginError` that names it.

    Raises:
        UnknownName: no plugin registered the name.
        PluginError: the plugin's factory failed, or made something else (a built-in's exceptions, and every MorphError,
            pass unchanged).
    """
    found = record(kind, name)
    try:
        made = found.factory(*args, **options)
    except MorphError:
        raise
    except Exception as error:
        if found.origin == BUILTIN:
            raise
        raise PluginError(
            f"the {KINDS[kind].noun} {name!r} of {found.origin} failed: {_describe(error)}",
            "a factory returns what its record promises",
            f"report it to the authors of {found.origin}, or choose another {KINDS[kind].noun}",
        ) from error
    missing = [method for method in KINDS[kind].methods if not callable(getattr(made, method, None))]
    if missing:
        raise PluginError(
            f"the factory of the {KINDS[kind].noun} {name!r} of {found.origin} returned {made!r}",
            f"what it returns has {' and '.join(f'{method}()' for method in missing)}",
            f"return the {KINDS[kind].noun} itself, or report it to the authors of {found.origin}",
        )
    return made


def answered(holds: object, kind: str, name: str, what: str, rule: str) -> None:
    """Raise PluginError unless what a plugin answered `holds`; a built-in, or an object of the user's own, raises too.

    Args:
        kind, name: of the record. what: it answered, such as "prepare() returned None". rule: what is due.

    Raises:
        PluginError: as said; it names the plugin.
    """
    if holds:
        return
    known = registry(kind).get(name)
    of, authors = (f" of {known.origin}", f"the authors of {known.origin}") if known else ("", "its authors")
    noun = KINDS[kind].noun
    raise PluginError(f"the {noun} {name!r}{of}: {what}", rule, f"report it to {authors}, or choose another {noun}")


def fire(event: str, **arguments: Any) -> None:
    """Call every implementation of an event hook; one that raises is reported and the others are called all the same.

    Raises:
        TypeError: the arguments are not those that the hook declares.
        PluginError: an implementation raised and ``MORPHSEARCH_STRICT`` is set.
    """
    if event not in EVENTS:
        raise UnknownName.of("event", event, EVENTS)
    inspect.signature(getattr(hookspecs, event)).bind(**arguments)
    state = _loaded()
    problems = []
    for source in list(state.sources):
        for impl in _implementations(state, event, source):
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:
                problems.append(source.problem(f"{event} raised {_describe(error)}", kind="events", name=event))
    _report(state, problems)


def register(plugin: object, name: str = "") -> None:
    """Add a plugin to this process: a module, its import name, or any object with hook methods. Twice does no harm.

    Raises:
        PluginError: it cannot be imported, implements no hook or a misspelt one. (Its author is at hand, so this raises
            whether or not ``MORPHSEARCH_STRICT`` is set.)
    """
    with _lock:
        state = _loaded()
        if isinstance(plugin, str):
            name = name or plugin
            source = _Source(None, name, name, "check the name of the module and what it imports")
            try:
                plugin = importlib.import_module(plugin)
            except (Exception, SystemExit) as error:
                raise source.problem(f"cannot be imported: {_describe(error)}").error() from error
        if state.manager.is_registered(plugin):
            return
        name = name or getattr(plugin, "__name__", type(plugin).__qualname__)
        problems = _register(state, _Source(plugin, name, f"{name} (this process)", "repair the plugin"))
        if problems:
            _remove(state, plugin)
            raise problems[0].error()


def unregister(plugin: object) -> None:
    """Take out what :func:`register` was given; nothing happens when it is not there."""
    with _lock:
        _remove(_loaded(), plugin)


def listing() -> list[Row]:
    """Every record, event implementation, disabled plugin and problem, as ``morphsearch plugins`` shows them."""
    state = _loaded()
    rows = [Row(kind, item.name, item.summary, item.origin) for kind in KINDS for item in registry(kind).values()]
    for event in EVENTS:
        for source in state.sources:
            rows += [Row("events", event, source.name, source.origin) for _ in _implementations(state, event, source)]
    rows += [Row("plugin", name, "", origin, "disabled") for name, origin in state.disabled]
    seen = dict.fromkeys(state.problems)
    rows += [Row(item.kind, item.name or item.plugin, "", item.origin, f"broken: {item.reason}") for item in seen]
    return rows


def problems() -> list[Problem]:
    """What went wrong with plugins so far in this process."""
    return list(dict.fromkeys(_loaded().problems))


def reset() -> None:
    """Forget every plugin; the next call loads them anew. For tests and long-lived processes."""
    global _state
    with _lock:
        _state = None


def _loaded() -> _State:
    global _state, _loading
    with _lock:
        if _state is not None:
            return _state
        if _loading:
            raise PluginError(
                "a plugin looked plugins up while it was being imported",
                "plugins are looked up once all of them are loaded",
                "move the look-up into the factory of a record",
            )
        state = _State(pluggy.PluginManager(PROJECT))
        _loading = True
        try:
            problems = _load(state)
        finally:
            _loading = False
        if not (problems and _strict()):
            _state = state
        _report(state, problems)
        return state


def _load(state: _State) -> list[Problem]:
    state.manager.add_hookspecs(hookspecs)
    for name in _BUILTIN_MODULES:
        module = importlib.import_module(f"morphsearch.builtin_plugins.{name}")
        found = _register(state, _Source(module, f"builtin-{name}", BUILTIN, "this is a defect of morphsearch"))
        if found:
            raise found[0].error()
    return [*_load_entry_points(state), *_load_environment(state)]


def _load_entry_points(state: _State) -> Iterator[Problem]:
    # Imported late: it is slow, and nothing else here needs it.
    from importlib.metadata import entry_points

    disabled = {_normalised(name) for name in _listed("MORPHSEARCH_DISABLE_PLUGINS")}
    found = [(_distribution(point), point) for point in entry_points(group=PROJECT)]
    for (distribution, version), point in sorted(found, key=lambda item: (item[0][0].lower(), item[1].name)):
        origin = f"{distribution} {version}".strip()
        if disabled & {"all", _normalised(point.name), _normalised(distribution)}:
            state.disabled.append((point.name, origin))
            continue
        remedy = (
            f"repair or upgrade {distribution}, uninstall it (pip uninstall {distribution}), "
            f"or set MORPHSEARCH_DISABLE_PLUGINS={point.name}"
        )
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit() must not end morphsearch
            reason = f"entry point '{point.name} = {point.value}' cannot be imported: {_describe(error)}"
            yield Problem(point.name, origin, reason, remedy)
        else:
            yield from _register(state, _Source(plugin, point.name, origin, remedy))


def _load_environment(state: _State) -> Iterator[Problem]:
    for name in _listed("MORPHSEARCH_PLUGINS"):
        origin = f"{name} (MORPHSEARCH_PLUGINS)"
        remedy = "check the spelling and PYTHONPATH, or take the name out of MORPHSEARCH_PLUGINS"
        try:
            plugin = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            yield Problem(name, origin, f"cannot be imported: {_describe(error)}", remedy)
        else:
            yield from _register(state, _Source(plugin, name, origin, remedy))


def _register(state: _State, source: _Source) -> list[Problem]:
    """Register a plugin and list what is wrong with it; sound hooks of a plugin with a misspelt one still count."""
    plugin, pm = source.plugin, state.manager
    if pm.is_registered(plugin):
        return []
    name = source.name
    while pm.has_plugin(name):
        name += "'"  # two distributions may use one entry-point name
    try:
        pm.register(plugin, name)
    except Exception as error:
        # pluggy refuses arguments that the hook does not have, having registered the hooks that it saw before.
        if pm.is_registered(plugin):
            pm.unregister(plugin)
        reason = " ".join(str(error).split()) or _describe(error)
        return [source.problem(f"cannot be registered: {reason}")]
    state.sources.append(source)
    state.registries.clear()
    known = [kind.hook for kind in KINDS.values()] + list(EVENTS)
    problems = []
    for caller in pm.get_hookcallers(plugin) or []:
        optional = all(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is plugin)
        if not caller.has_spec() and not optional:
            close = nearest(caller.name, known)
            meant = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(known)}"
            problems.append(source.problem(f"there is no hook {caller.name}", meant, name=caller.name))
    for hook in known:
        function = getattr(plugin, hook, None)
        if callable(function) and pm.parse_hookimpl_opts(plugin, hook) is None:
            problems.append(source.problem(f"{hook} is not marked", "put @morphsearch.hookimpl above it", name=hook))
        if any(impl.wrapper or impl.hookwrapper for impl in _implementations(state, hook, source)):
            problems.append(source.problem(f"{hook} is a wrapper", "return records; hooks have no wrappers", name=hook))
    if not (pm.get_hookcallers(plugin) or problems):
        problems.append(source.problem("implements no hook", "mark its hooks with @morphsearch.hookimpl"))
    return problems


def _remove(state: _State, plugin: object) -> None:
    if state.manager.is_registered(plugin):
        state.manager.unregister(plugin)
    state.sources[:] = [source for source in state.sources if source.plugin is not plugin]
    state.registries.clear()


def _implementations(state: _State, hook: str, source: _Source) -> list[pluggy.HookImpl]:
    caller = getattr(state.manager.hook, hook)
    return [impl for impl in caller.get_hookimpls() if impl.plugin is source.plugin]


def _records(state: _State, source: _Source, kind: str, problems: list[Problem]) -> Iterator[Record]:
    """The sound records of one plugin, origin filled in; called apart from the others, to keep failures apart."""
    hook, expected = KINDS[kind].hook, KINDS[kind].record
    for impl in _implementations(state, hook, source):
        if impl.wrapper or impl.hookwrapper:
            continue
        try:
            returned = impl.function()
            if isinstance(returned, Record | str | Mapping) or not isinstance(returned, Iterable):
                reason = f"{hook} returned {type(returned).__name__} instead of a list of {expected.__name__}"
                problems.append(
                    source.problem(reason, f"return a list of {expected.__name__}, empty if need be", kind=kind)
                )
                continue
            items = list(returned)
        except Exception as error:
            problems.append(source.problem(f"{hook} raised {_describe(error)}", kind=kind, name=hook))
            continue
        for item in items:
            wrong = fault(item, expected)
            if wrong:
                name = str(getattr(item, "name", hook))
                problems.append(source.problem(f"{hook} returned {wrong}", f"repair {hook}", kind=kind, name=name))
            else:
                yield dataclasses.replace(item, origin=source.origin)


def _add(records: dict[str, Record], new: Record, source: _Source, kind: str, problems: list[Problem]) -> None:
    if new.name not in records:
        records[new.name] = new
        return
    first = records[new.name].origin
    first = "built in" if first == BUILTIN else f"registered by {first}"
    reason = f"the {KINDS[kind].noun} {new.name!r} of {source.origin} is left out, since that name is {first} already"
    problems.append(source.problem(reason, "give it another name or disable one of the two", kind=kind, name=new.name))


def _report(state: _State, problems: list[Problem]) -> None:
    """Warn of each problem once, after the state is whole, since a warning may have been made an error."""
    if problems and _strict():
        raise problems[0].error()
    new = [problem for problem in dict.fromkeys(problems) if problem not in state.problems]
    state.problems += new
    for problem in new:
        # An explicit place keeps it to one line: no line of ours is printed under it.
        warnings.warn_explicit(str(problem), PluginWarning, PROJECT, 1)


def _strict() -> bool:
    return os.environ.get("MORPHSEARCH_STRICT", "").strip().lower() not in ("", "0", "false", "no", "off")


def _listed(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(point: Any) -> tuple[str, str]:
    """Name and version of what brought an entry point; damaged metadata must not stop us."""
    try:
        return str(point.dist.name), str(point.dist.version)
    except Exception:
        return "unknown distribution", ""


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
