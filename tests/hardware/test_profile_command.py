"""``morphsearch profile``: measuring, listing, showing, verifying; and slips in every argument."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import hardware_fakes as fakes
import pytest
from click.testing import CliRunner, Result

from morphsearch import plugins
from morphsearch.cli import main


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.filterwarnings("ignore::morphsearch.hardware.HardwareWarning")  # of a busy machine
def test_measure_list_show_verify_and_inspect(profiles_folder: Path) -> None:
    done = invoke("profile", "digits_net", "--networks", "6", "--limit", "60", "--quiet", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert Path(told["path"]) == profiles_folder / "cpu-eager-b1-t1.json"
    assert told["settings"]["backend"] == "eager"
    assert told["error"]["networks"] == 6
    rows = json.loads(invoke("profile", "list", "--json").stdout)
    assert rows[0]["hardware"] == "cpu-eager-b1-t1"
    assert {"measured", "roofline"} == {row["kind"] for row in rows}
    shown = invoke("profile", "show", "cpu-eager-b1-t1")
    assert "networks that the fit had not seen" in shown.stdout
    assert "conv" in shown.stdout
    checked = json.loads(
        invoke("profile", "verify", "cpu-eager-b1-t1", "digits_net", "--networks", "3", "--json").stdout
    )
    assert len(checked["rows"]) == 3
    assert all(row["predicted"] > 0 and row["measured"] > 0 for row in checked["rows"])
    inspected = json.loads(invoke("inspect", "digits_net", "--costs", "latency", "--json").stdout)
    assert inspected["units"] == {"latency": "ms"}
    assert sum(layer["costs"]["latency"] for layer in inspected["layers"]) <= inspected["totals"]["latency"] * 1.001


def test_the_command_that_comes_next_finds_the_profile(
    profiles_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("morphsearch.hardware.profile", lambda *arguments, **options: fakes.profile())
    target = tmp_path / "my profiles" / "one.json"
    target.parent.mkdir()
    for arguments in ((), ("--output", str(target))):
        done = invoke("profile", "digits_net", "--quiet", *arguments)
        assert done.exit_code == 0, done.output
        following = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
        assert invoke("profile", "show", shlex.split(following)[-1]).exit_code == 0


def test_a_listing_survives_a_damaged_file(profiles_folder: Path) -> None:
    profiles_folder.mkdir()
    (profiles_folder / "broken.json").write_text("{")
    fakes.profile().save()
    rows = {row["hardware"]: row["kind"] for row in json.loads(invoke("profile", "list", "--json").stdout)}
    assert rows["broken"] == "damaged"
    assert rows["simulated"] == "measured"
    assert invoke("profile", "list").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("profile", "resnet2"), 2, "resnet20"),
        (("profile", "--backend", "eagr"), 2, "did you mean eager"),
        (("profile", "--dtype", "float31"), 2, "float32"),
        (("profile", "--batch", "0"), 2, "--batch"),
        (("profile", "--limit", "soon"), 2, "--limit"),
        (("profile", "--device", "cuda:7"), 5, "cuda:7"),
        (("profile", "show", "nothing"), 2, "morphsearch profile list"),
        (("profile", "show", "absent.json"), 5, "absent.json"),
        (("profile", "verify", "v100", "digits_net"), 2, "roofline"),
        (("inspect", "digits_net", "--costs", "latency", "--hardware", "v1000"), 2, "v100"),
        (("search", "digits_net", "--budget", "latency=50%", "--dry-run"), 5, "morphsearch profile"),
    ],
)
def test_slips_are_named(arguments: tuple[str, ...], code: int, told: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == code, done.output
    assert told in done.stderr


@pytest.mark.skipif("onnxruntime" in plugins.registry("latency_backends"), reason="it is there")
def test_an_absent_onnxruntime_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("profile", "digits_net", "--backend", "onnxruntime", "--quiet")
    assert done.exit_code == 5
    assert "morphsearch-onnxruntime" in done.stderr


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_before_measuring(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = invoke("profile", "digits_net", "--output", str(closed / "p.json"), "--quiet")
    assert done.exit_code == 5
    assert "writable" in done.stderr


def test_a_path_below_a_file_is_found_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = invoke("profile", "digits_net", "--output", str(tmp_path / "file" / "p.json"), "--quiet")
    assert done.exit_code == 5
    assert "cannot write" in done.stderr


def test_an_interruption_keeps_what_was_measured(profiles_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.hardware.measure import Session

    plain, calls = Session.sample, []

    def interrupted(self: Session, chosen: object) -> object:
        calls.append(chosen)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return plain(self, chosen)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "sample", interrupted)
    done = invoke("profile", "digits_net", "--quiet", "--json")
    assert done.exit_code == 130, done.output
    told = json.loads(done.stdout)
    assert told["error"]["networks"] == 8
    assert "interrupted after 8 of 48 networks" in " ".join(told["notes"])
    assert Path(told["path"]).parent == profiles_folder


def test_an_interruption_before_a_fit_saves_nothing(profiles_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from morphsearch.hardware.measure import Session

    def interrupted(self: Session, chosen: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "sample", interrupted)
    assert invoke("profile", "digits_net", "--quiet").exit_code == 130
    assert not list(profiles_folder.glob("*.json"))


def test_a_misspelt_subcommand_is_no_seed() -> None:
    found = invoke("profile", "shw")
    assert found.exit_code == 2
    assert "did you mean show" in found.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["digits_net", "--input", "8,1,8,8"], "--batch 8"),
        (["--input", "1,3,64,128"], "square"),
        (["--input", "1,1,64,64"], "--input 1,3,64,64"),
    ],
)
def test_inputs_that_would_not_be_measured(profiles_folder: Path, arguments: list[str], part: str) -> None:
    done = invoke("profile", *arguments, "--quiet")
    assert done.exit_code == 2
    assert part in done.stderr
    assert not list(profiles_folder.rglob("*.json"))
