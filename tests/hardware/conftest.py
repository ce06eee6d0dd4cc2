"""Lets the tests of this folder import hardware_fakes; profiles of tests are kept in a folder of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def profiles_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of profiles, empty."""
    folder = tmp_path / "profiles"
    monkeypatch.setenv("MORPHSEARCH_PROFILES", str(folder))
    return folder
