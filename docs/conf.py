"""Sphinx settings."""

from __future__ import annotations

from importlib.metadata import version as _version

project = "morphsearch"
author = "the morphsearch authors"
project_copyright = "the morphsearch authors, Apache-2.0"
version = release = _version("morphsearch")

extensions = ["myst_parser"]
exclude_patterns = ["_build", "_*.py"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "morphsearch"
html_static_path: list[str] = []
