"""Writes the reference pages that are made from the code: of the command line from its help, of the hooks from theirs.

Usage: python docs/_drift.py [--check]

With ``--check`` nothing is written; what differs is shown and the exit code is 1.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The reference shows morphsearch itself, whatever is installed beside it.
os.environ["MORPHSEARCH_DISABLE_PLUGINS"] = "all"
os.environ.pop("MORPHSEARCH_PLUGINS", None)

# Of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).parents[1]))

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 100
NOTE = "<!-- Made by docs/_drift.py; do not edit. -->"


def hooks() -> dict[str, Callable[..., Any]]:
    """Every hook by name, in the order of the file."""
    from morphsearch import hookspecs

    return {name: item for name, item in vars(hookspecs).items() if hasattr(item, "morphsearch_spec")}


def example(hook: Callable[..., Any]) -> str:
    """The plugin in the docstring of a hook, as the source of a module."""
    text = inspect.getdoc(hook) or ""
    _, marker, block = text.partition("Example::\n")
    if not marker:
        raise SystemExit(f"the docstring of {hook.__name__} has no 'Example::'")
    return textwrap.dedent(block).strip() + "\n"


def hooks_page() -> str:
    """``reference/hooks.md``."""
    from morphsearch import hookspecs

    parts = [NOTE, "# Hooks", _markdown((inspect.getdoc(hookspecs) or "").split("\n\n", 1)[1])]
    parts.append("Each example below is a whole plugin; the tests register every one of them and use what it brings.")
    for name, hook in hooks().items():
        text = (inspect.getdoc(hook) or "").partition("Example::\n")[0].strip()
        parts += [f"## {name}", f"```python\n{_signature(hook)}\n```", _markdown(text)]
        parts.append(f"```python\n{example(hook)}```")
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """``reference/cli.md``."""
    import click

    main = importlib.import_module("morphsearch.cli").main
    intro = "What `--help` prints, for every command. Exit codes and shell completion are at the end of the first."
    parts = [NOTE, "# Command line", intro]

    def add(command: click.Command, name: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
        with context:
            lines = [line.rstrip() for line in click.unstyle(command.get_help(context)).splitlines()]
            parts.append(f"## {context.command_path}\n\n```text\n" + "\n".join(lines).strip("\n") + "\n```")
            if isinstance(command, click.Group):
                for child in command.list_commands(context):
                    found = command.get_command(context, child)
                    if found is not None:
                        add(found, child, context)

    add(main, "morphsearch", None)
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {"hooks.md": hooks_page, "cli.md": cli_page}


def differences() -> list[str]:
    """What is in the pages and not in the code, or the other way round, as unified diffs."""
    found = []
    for name, make in PAGES.items():
        path = REFERENCE / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = difflib.unified_diff(
            old.splitlines(), make().splitlines(), f"docs/reference/{name}", "the code", lineterm="", n=1
        )
        diff = "\n".join(lines)
        if diff:
            found.append(diff)
    return found


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        found = differences()
        if found:
            print("\n".join(found))
            print("\nthe reference is not what the code says: run `make drift`", file=sys.stderr)
        return int(bool(found))
    REFERENCE.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
    return 0


def _signature(hook: Callable[..., Any]) -> str:
    return f"{hook.__name__}{inspect.signature(hook)}".replace("'", "")


def _markdown(text: str) -> str:
    """Docstrings are light reStructuredText; Markdown wants single backquotes, and roles are just names here."""
    import re

    text = re.sub(r":(?:class|func|mod|meth|attr):`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
    head, marker, arguments = text.partition("Args:\n")
    if not marker:
        return head.strip()
    rows = [f"- `{name.strip()}`: {what.strip()}" for name, _, what in map(_parted, _entries(arguments))]
    return head.strip() + "\n\n" + "\n".join(rows)


def _entries(block: str) -> list[str]:
    return [" ".join(entry.split()) for entry in textwrap.dedent(block).strip().split("\n") if entry.strip()]


def _parted(entry: str) -> tuple[str, str, str]:
    return entry.partition(":")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
