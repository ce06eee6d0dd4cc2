"""Plugins made on the spot: real distributions in a folder on ``sys.path``, found through real entry points."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from morphsearch import plugins

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _fresh_plugins() -> Iterator[None]:
    plugins.reset()
    yield
    plugins.reset()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(distribution, source, version="1.0", entry_point=None)``: a distribution of one module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def install(distribution: str, source: str, *, version: str = "1.0", entry_point: str | None = None) -> None:
        module = distribution.replace("-", "_")
        modules.append(module)
        header = (
            "import morphsearch.hookspecs\nfrom morphsearch.types import *\nhookimpl = morphsearch.hookspecs.hookimpl\n"
        )
        (tmp_path / f"{module}.py").write_text(header + textwrap.dedent(source))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[morphsearch]\n{entry_point or f'{distribution} = {module}'}\n")
        plugins.reset()

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``write_module(name, source)``: a module that can be imported and belongs to no distribution."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def write(name: str, source: str) -> None:
        modules.append(name)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        plugins.reset()

    yield write
    for module in modules:
        sys.modules.pop(module, None)
