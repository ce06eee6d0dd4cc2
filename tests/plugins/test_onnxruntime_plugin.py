"""The plugin for ONNX Runtime is built, installed and found through its entry points, and its own tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "morphsearch-onnxruntime"


def test_its_own_tests_pass(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    # From a copy, since a build leaves its traces beside the sources; no network is needed.
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))
    tests = str(source / "tests")
    for arguments in (
        ["pip", "install", *offline, "--target", str(site), str(source)],
        ["pytest", "-q", "-p", "no:cacheprovider", "-n0", "--rootdir", tests, "-c", os.devnull, tests],
    ):
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
