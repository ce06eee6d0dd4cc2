"""What modules hold beside parameters, buffers and children: settings, and what their forward code caches.

A detector keeps its anchors for the image size that it saw last; which code runs depends on that. So a recording
remembers what the modules held, and every rewrite of it is checked from there, whatever the network has run on since.

What forward code keeps for later may be as wide as the channels: an encoding of positions for every channel, the state
of a recurrence. A network at other widths cannot go on with that. Such tensors are *stale*: attributes that the code
itself writes, and that come out in other sizes at other widths. In a rewritten network they are what they were when the
network was recorded (nothing, most often), with all that the module's code writes beside them (the image size that they
are for), but for containers without tensors.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from typing import Any

from torch import Tensor, nn

CONTAINERS = frozenset((list, dict, set, OrderedDict, defaultdict, deque))
_PLAIN = (bool, int, float, str, tuple, type(None))
_MISSING = object()
INTERNAL = vars(nn.Module()).keys()  # what every module has
COMPILED = "_compiled_call_impl"  # where Module.compile() keeps what is called instead of this very module
_STOOD_IN = {"forward", COMPILED}  # by whoever watches a module while it runs, and what is not watched

# A module, its attributes, and its containers, those within others too, each with a copy.
Held = tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]
Moved = dict[str, dict[str, Any]]  # attributes by the path of their module, as they were
Kept = dict[str, dict[str, Any]]  # attributes that forward code wrote, and the sizes of the tensors there, if any
Stale = dict[str, frozenset[str]]  # attributes that a network at other widths cannot go on with


def held_by(modules: Iterable[nn.Module]) -> list[Held]:
    """What the modules hold at this moment."""
    found: list[Held] = []
    for module in modules:
        values = dict(vars(module))
        own = [value for key, value in values.items() if type(value) in CONTAINERS and key not in INTERNAL]
        found.append((module, values, [(value, value.copy()) for value in nested(own)] if own else []))
    return found


def nested(containers: Iterable[Any]) -> Iterator[Any]:
    """These containers and those that they hold, each once."""
    pending, seen = list(containers), set[int]()
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            pending += [item for item in _items(one) if type(item) in CONTAINERS]


def _items(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, Mapping) else container


def fill(container: Any, content: Any) -> None:
    """Give a container the content of another."""
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)


def _copied(value: Any, copies: Mapping[int, Any] | None = None) -> Any:
    """A container and those in it anew, with what `copies` says that they held (by identity; all else as it is now)."""
    if type(value) not in CONTAINERS:
        return value
    known = copies or {}
    content = known.get(id(value), value)
    new = content.copy()
    if isinstance(content, Mapping):
        new.update({key: _copied(item, copies) for key, item in content.items()})
    elif not isinstance(content, set):
        fill(new, [_copied(item, copies) for item in content])
    return new


@contextmanager
def as_it_was(modules: Iterable[nn.Module]) -> Iterator[list[Held]]:
    """Put back whatever the modules' forward code wrote into attributes (caches, counters, the training mode)."""
    saved = held_by(modules)
    try:
        yield saved
    finally:
        for module, values, inner in saved:
            now = vars(module)
            if not inner and _unchanged(values, now):
                continue
            for key in now.keys() - values.keys():
                del now[key]
            now.update(values)
            for value, before in inner:
                fill(value, before)


def _unchanged(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """The same objects under the same names, in the order in which they were: most modules write nothing."""
    return len(before) == len(now) and all(map(is_, before, now)) and all(map(is_, before.values(), now.values()))


@dataclass(frozen=True)
class State:
    """What the modules of a network held when it was recorded."""

    paths: Sequence[str]
    held: Sequence[Held]

    def moved(self) -> Moved:
        """What they hold otherwise now, as it was then."""
        found: Moved = {}
        for path, (module, values, inner) in zip(self.paths, self.held, strict=True):
            now = vars(module)
            if not inner and _unchanged(values, now):
                continue
            copies = {id(value): copy for value, copy in inner}
            for key in (now.keys() | values.keys()) - INTERNAL - _STOOD_IN:
                before, after = values.get(key, _MISSING), now.get(key, _MISSING)
                copied = _copied(before, copies) if id(before) in copies else before
                if before is after if copied is before else alike(copied, after):
                    continue
                if isinstance(before, _PLAIN) and type(before) is type(after) and before == after:
                    continue
                found.setdefault(path, {})[key] = copied
        return found

    def written(self) -> Kept:
        """What has changed since, as forward code ran, with the sizes of its tensors."""
        modules = dict(zip(self.paths, self.held, strict=True))
        return {
            path: {key: sizes_in(vars(modules[path][0]).get(key)) for key in keys}
            for path, keys in self.moved().items()
        }

    def before(self, stale: Stale) -> Moved:
        """What these attributes were, where they are otherwise now; containers without tensors in them stay, those with
        some lose them."""
        moved = self.moved()
        now = {path: vars(module) for path, (module, _, _) in zip(self.paths, self.held, strict=True)}
        found: Moved = {}
        for path in stale.keys() & moved.keys():
            for key in stale[path] & moved[path].keys():
                value, present = moved[path][key], now[path].get(key)
                if isinstance(value, Tensor) or (type(present) in CONTAINERS and sizes_in(present) is None):
                    continue
                found.setdefault(path, {})[key] = _without_tensors(value)
        return found

    def of(self, modules: Iterable[tuple[str, nn.Module]], moved: Moved) -> State:
        """The same of other module objects, which hold now what these held: `moved` of it is what has changed since
        the recording."""
        found = dict(modules)
        paths = [path for path in self.paths if path in found]
        held = held_by(found[path] for path in paths)
        for path, (_, values, inner) in zip(paths, held, strict=True):
            for key, value in moved.get(path, {}).items():
                inner[:] = [pair for pair in inner if pair[0] is not values.get(key)]
                if value is _MISSING:
                    values.pop(key, None)
                else:
                    values[key] = value
        return State(paths, held)


def sizes_in(value: Any) -> Any:
    """The sizes of a tensor, or of those in a container; None where there is none."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if type(value) not in CONTAINERS | {tuple}:
        return None
    found = [sizes_in(item) for item in _items(value)]
    return found if any(one is not None for one in found) else None


def _without_tensors(value: Any) -> Any:
    """A container as it is but for tensors, and containers of some."""
    if type(value) not in CONTAINERS or sizes_in(value) is None:
        return value
    new = value.copy()
    if isinstance(value, Mapping):
        fill(new, {key: item for key, item in value.items() if sizes_in(item) is None})
    else:
        fill(new, [item for item in value if sizes_in(item) is None])
    return new


def stale_in(before: Kept, after: Kept) -> Stale:
    """What forward code kept at some widths and keeps in other sizes at others, with what belongs to it."""
    found: Stale = {}
    for path, values in before.items():
        other = after.get(path, {})
        if any(sizes is not None and key in other and other[key] != sizes for key, sizes in values.items()):
            found[path] = frozenset(values)
    return found


def change_places(one: dict[str, Any], other: dict[str, Any], key: str) -> None:
    """Exchange an attribute of two modules; containers stay the same objects, and exchange what they hold."""
    first, second = one.get(key, _MISSING), other.get(key, _MISSING)
    if type(first) is type(second) and type(first) in CONTAINERS:
        content = first.copy()
        fill(first, second)
        fill(second, content)
        return
    for values, value in ((one, second), (other, first)):
        if value is _MISSING:
            values.pop(key, None)
        else:
            values[key] = value


def alike(before: Any, after: Any) -> bool:
    """Two containers hold the same objects, or containers that are alike."""
    if type(before) is not type(after) or type(before) not in CONTAINERS:
        return before is after
    if len(before) != len(after):
        return False
    if isinstance(before, Mapping):
        return before.keys() == after.keys() and all(alike(value, after[key]) for key, value in before.items())
    if isinstance(before, set):
        return bool(before == after)
    return all(alike(one, other) for one, other in zip(before, after, strict=True))


def put_back(modules: Mapping[str, nn.Module], moved: Moved) -> None:
    """Give modules the attributes that those of the recorded network had."""
    for path, attributes in moved.items():
        module = modules.get(path)
        if module is None:
            continue
        for key, value in attributes.items():
            if value is _MISSING:
                vars(module).pop(key, None)
            else:
                vars(module)[key] = _copied(value)
