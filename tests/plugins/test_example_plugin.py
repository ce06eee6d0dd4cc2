"""The example plugin is built, installed and found through its entry point, and its own tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "morphsearch-example"


def _run(arguments: list[str], site: Path) -> str:
    """Run Python with `site` on its path, beside this checkout."""
    path = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path))
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plugin is installed into; no network is needed, the build backend is installed."""
    folder = tmp_path_factory.mktemp("example")
    source = folder / "source"
    # From a copy, since a build leaves its traces beside the sources.
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    target = folder / "site"
    _run(["-m", "pip", "install", *offline, "--target", str(target), str(source)], folder)
    return target


def test_it_is_listed_and_priced(site: Path) -> None:
    listed = _run(["-m", "morphsearch.cli", "plugins", "--json"], site)
    assert '"energy"' in listed
    assert "morphsearch-example 0.1.0" in listed


def test_a_budget_can_name_it(site: Path) -> None:
    shown = _run(["-m", "morphsearch.cli", "inspect", "digits_net", "--costs", "flops,energy"], site)
    assert "mJ" in shown


def test_its_own_tests_pass(site: Path) -> None:
    tests = str(PLUGIN / "tests")
    _run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "--rootdir", tests, "-c", os.devnull, tests], site)


def test_it_is_about_twenty_lines() -> None:
    lines = (PLUGIN / "morphsearch_example.py").read_text().split('"""', 2)[2].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 25
