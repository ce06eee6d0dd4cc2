"""From the name of a plugin to those of its distribution, its module and its class, or to what is wrong with it."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from morphsearch import plugins
from morphsearch.errors import UsageError
from morphsearch.scaffolding.kinds import KINDS

PREFIX = "morphsearch-"
MOST = 40
"""Letters of a name."""

_NAME = re.compile(r"[a-z]([a-z0-9]|[-_](?=[a-z0-9]))*")


@dataclass(frozen=True)
class Names:
    """What is called what.

    Attributes:
        distribution: what pip installs. module: what Python imports. name: what users write, as in ``--strategy NAME``.
        class_name: of what the plugin brings.
    """

    distribution: str
    module: str
    name: str
    class_name: str


def named(name: str, kind: str) -> Names:
    """The names of a plugin whose distribution is called `name`; users do not write ``morphsearch-`` before it.

    Raises:
        UsageError: it is no name of a distribution and a module, or one that is taken.
    """
    if not _NAME.fullmatch(name) or len(name) > MOST:
        close = suggestion(name)
        raise UsageError(
            f"the name {name!r}",
            f"a plugin's name becomes that of a distribution and of a module: up to {MOST} small letters, digits and "
            "single - or _, with a letter first",
            f"take {close}" if close else "take for example my-plugin",
        )
    module, own = name.replace("-", "_"), name.removeprefix(PREFIX)
    if module == plugins.PROJECT or not own:
        raise UsageError(f"the name {name!r}", "it is that of morphsearch itself", f"take for example {PREFIX}energy")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("test", "tests"):
        raise UsageError(
            f"the name {name!r}", f"{module} is a word or a module of Python", f"take for example {PREFIX}{name}"
        )
    if _installed(module):
        raise UsageError(
            f"the name {name!r}",
            f"a module {module} is installed, and two of one name hide each other",
            f"take another name, such as {PREFIX}{own}-2" if name.startswith(PREFIX) else f"take {PREFIX}{name}",
        )
    entry = KINDS[kind]
    known = plugins.registry(entry.registry)
    if own in known:
        noun, origin = plugins.KINDS[entry.registry].noun, known[own].origin
        first = "is built in" if origin == plugins.BUILTIN else f"comes from {origin}"
        raise UsageError(
            f"the name {name!r}", f"the {noun} {own!r} {first}, and the first of a name wins", "take another name"
        )
    words = [word for word in re.split("[-_]", own) if word]
    return Names(name, module, own, "".join(word.capitalize() for word in words) + entry.suffix)


def suggestion(name: str) -> str:
    """The nearest name that could be one, or an empty text."""
    made = re.sub(r"[^a-z0-9_]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
    made = re.sub(r"[-_]{2,}", "-", made).lstrip("-_0123456789")[:MOST].rstrip("-_")
    return made if _NAME.fullmatch(made) else ""


def _installed(module: str) -> bool:
    """Whether Python would import something else; a folder without an ``__init__.py`` does not count."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return False
    return found is not None and found.origin is not None
