"""``morphsearch new-plugin``: what it writes is a plugin, whose tests pass, and what it will not write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from morphsearch import plugins, scaffolding
from morphsearch.cli import main
from morphsearch.cli.commands import new_plugin

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["new-plugin", *map(str, arguments)])


def python(*arguments: str, path: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Python with these folders on its path, beside this checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "MORPHSEARCH_STRICT": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin of each kind."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in new_plugin.KINDS:
        result = run(f"my-{kind}", "--kind", kind, "--output", folder / kind)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def site(written: Path) -> Path:
    """All of them, installed; no network is needed, the build backend is installed."""
    target = written / "site"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    sources = [str(written / kind) for kind in new_plugin.KINDS]
    python("-m", "pip", "install", *offline, "--target", str(target), *sources, path=[], folder=written)
    return target


def test_the_kinds_are_those_of_the_templates_and_of_the_registry() -> None:
    assert tuple(scaffolding.KINDS) == new_plugin.KINDS
    assert {entry.registry for entry in scaffolding.KINDS.values()} == set(plugins.KINDS)


def test_every_kind_is_found_through_its_entry_point(site: Path, written: Path) -> None:
    listed = json.loads(python("-m", "morphsearch.cli", "plugins", "--json", path=[site], folder=written).stdout)
    for kind, entry in scaffolding.KINDS.items():
        row = {"kind": entry.registry, "name": f"my-{kind}", "origin": f"my-{kind} 0.1.0", "status": "ok"}
        assert {**row, "summary": entry.summary} in listed, kind


@pytest.mark.parametrize("kind", new_plugin.KINDS)
def test_its_own_tests_pass(site: Path, written: Path, kind: str) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error"]
    done = python("-m", "pytest", *options, "tests", path=[site], folder=written / kind)
    assert " passed" in done.stdout
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) >= 4


def test_what_is_written_is_clean(written: Path) -> None:
    for kind in new_plugin.KINDS:
        python("-m", "ruff", "check", "--no-cache", ".", path=[], folder=written / kind)
        python("-m", "ruff", "format", "--no-cache", "--check", ".", path=[], folder=written / kind)


@pytest.mark.slow
def test_what_is_written_has_sound_types(written: Path) -> None:
    packages = [f"{kind}/my_{kind.replace('-', '_')}" for kind in new_plugin.KINDS]
    strict = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", "--cache-dir", str(written / ".mypy")]
    python("-m", "mypy", *strict, *packages, path=[], folder=written)


@pytest.mark.parametrize("kind", new_plugin.KINDS)
@pytest.mark.parametrize("name", ["a", "x" * 40, "strategy-2", "morphsearch-layerwise", "net_work"])
def test_it_is_clean_under_any_name(tmp_path: Path, kind: str, name: str) -> None:
    if name == "x" * 40 or kind in ("cost-model", "operation"):
        assert run(name, "--kind", kind, "--output", tmp_path / "p").exit_code == 0
        python("-m", "ruff", "check", "--no-cache", "p", path=[], folder=tmp_path)
        python("-m", "ruff", "format", "--no-cache", "--check", "p", path=[], folder=tmp_path)


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("morphsearch-energy")
    assert [line for line in result.stdout.splitlines() if not Path(line).is_file()] == []
    assert "morphsearch-energy/morphsearch_energy/cost.py" in result.stdout
    assert "pip install -e morphsearch-energy" in result.stderr
    project = tomllib.loads(Path("morphsearch-energy/pyproject.toml").read_text())["project"]
    assert project["name"] == "morphsearch-energy"
    assert project["entry-points"] == {"morphsearch": {"energy": "morphsearch_energy"}}
    assert 'NAME = "energy"' in Path("morphsearch-energy/morphsearch_energy/__init__.py").read_text()
    found = json.loads(run("other", "--json").stdout)
    assert found["folder"] == "other"
    assert "tests/test_other.py" in found["files"]


def test_the_hook_is_about_twenty_lines(written: Path) -> None:
    for kind in new_plugin.KINDS:
        lines = (written / kind / f"my_{kind.replace('-', '_')}" / "__init__.py").read_text().splitlines()
        assert sum(bool(line.strip()) for line in lines) <= 25, kind


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["Energy"], ["small letters", "take energy"]),
        (["MyCost 2"], ["take my-cost-2"]),
        (["2fast"], ["letter first", "take fast"]),
        (["a--b"], ["take a-b"]),
        (["énergie"], ["take "]),
        (["../up"], ["take up"]),
        (["a" * 41], ["40"]),
        (["---"], ["--help"]),
        ([""], ["my-plugin"]),
        (["class"], ["Python", "morphsearch-class"]),
        (["json"], ["Python", "morphsearch-json"]),
        (["torch"], ["installed", "morphsearch-torch"]),
        (["morphsearch"], ["morphsearch itself"]),
        (["flops"], ["built in"]),
        (["morphsearch-gamma-l1", "--kind", "strategy"], ["built in"]),
        (["energy", "--kind", "cost_model"], ["cost-model"]),
        (["energy", "--kind", "strategies"], ["did you mean strategy"]),
        ([], ["NAME is missing"]),
    ],
)
def test_a_name_that_will_not_do_is_refused_with_one_that_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    result = run("energy", "--output", taken)
    assert result.exit_code == 2
    assert "mine.txt" in result.stderr
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]
    assert run("energy", "--output", taken / "mine.txt").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert run("energy", "--output", tmp_path / "empty").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "taken"], "no temporary folder is left"


def test_a_folder_that_cannot_be_written_is_no_defect(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("energy", "--output", tmp_path / "file" / "energy")
    assert result.exit_code == 5
    assert "cannot write" in result.stderr


def test_it_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom morphsearch.cli import main\n"
        "try:\n    main(['new-plugin', 'energy'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    python("-c", script, path=[], folder=tmp_path)
