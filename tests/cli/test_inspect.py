"""`inspect`: the layer tree, the groups, totals that add up; and what bad networks get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from morphsearch.cli import main

NETS = """
import torch
from torch import nn


def good(width: int = 6):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 1), nn.Flatten())


def raises():
    raise RuntimeError("no such luck")


def text():
    return "a network"


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).view(5, 7, 11)


def shape(width: int = 6):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Linear(5, 5))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def test_the_tree_has_every_layer_and_its_columns_add_up() -> None:
    result = run("inspect", "digits_net", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for metric in ("params", "flops"):
        assert sum(layer["costs"][metric] for layer in found["layers"]) == found["totals"][metric]
    stem = next(layer for layer in found["layers"] if layer["path"] == "stem.conv")
    assert (stem["input"], stem["output"], stem["channels"]) == ([1, 1, 8, 8], [1, 24, 8, 8], [24, 24])
    frozen = [group for group in found["groups"] if group["frozen"]]
    assert [group["name"] for group in frozen] == ["classifier"]
    assert found["changed"] is False


def test_the_table_shows_shapes_totals_groups_and_why_some_are_frozen() -> None:
    text = run("inspect", "digits_net").stdout
    found = json.loads(run("inspect", "digits_net", "--json").stdout)
    for part in (
        "1x8x8",
        "Conv2d",
        f"{found['totals']['params']:,}",
        f"{found['totals']['flops']:,}",
        "FLOPs",
        "parameters",
        "groups of widths",
        "it is the network's output",
        "5 of 6 groups can change their width",
    ):
        assert part in text
    assert all(len(line) < 240 for line in text.splitlines())


def test_depth_adds_up_what_is_below() -> None:
    lines = run("inspect", "digits_net", "--layers", "--depth", "1").stdout.splitlines()
    assert "stem.conv" not in "\n".join(lines)
    found = json.loads(run("inspect", "digits_net", "--json").stdout)
    down = sum(layer["costs"]["params"] for layer in found["layers"] if layer["path"].startswith("down."))
    assert any(line.startswith("down ") and f"{down:,}" in line for line in lines)


def test_groups_alone_and_layers_alone() -> None:
    assert "Conv2d" not in run("inspect", "digits_net", "--groups").stdout
    assert "groups of widths" not in run("inspect", "digits_net", "--layers").stdout
    assert run("inspect", "digits_net", "--groups", "--layers").exit_code == 2
    groups = json.loads(run("inspect", "digits_net", "--groups", "--json").stdout)
    layers = json.loads(run("inspect", "digits_net", "--layers", "--json").stdout)
    assert (groups.keys() - layers.keys(), layers.keys() - groups.keys()) == ({"groups"}, {"layers"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--depth", "1", "--groups"),
        ("--depth", "1", "--json"),
        ("--explain", "stem.conv", "--groups"),
        ("--explain", "stem.conv", "--depth", "1"),
        ("--hardware", "v100"),
    ],
)
def test_options_that_cannot_mean_anything_are_refused(arguments: tuple[str, ...]) -> None:
    result = run("inspect", "digits_net", *arguments)
    assert result.exit_code == 2
    assert arguments[0].strip("-") in result.stderr
    assert "try:" in result.stderr


def test_explain_says_why_layers_change_together() -> None:
    result = run("inspect", "digits_net", "--explain", "residual1.conv2.conv")
    assert result.exit_code == 0, result.output
    assert "stem.conv" in result.stdout
    data = json.loads(run("inspect", "digits_net", "--explain", "residual1.conv2.conv", "--json").stdout)
    assert data == {"layer": "residual1.conv2.conv", "explanation": result.stdout.removesuffix("\n")}
    wrong = run("inspect", "digits_net", "--explain", "residual1.conv9.conv")
    assert wrong.exit_code == 2
    assert "did you mean residual1.conv" in wrong.stderr


def test_a_factory_in_a_file_named_by_the_user_runs(nets: Path) -> None:
    result = run("inspect", f"{nets}:good?width=5", "--input", "1,3,8,8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layers"][0]["channels"] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["{nets}:godo", "--input", "1,3,8,8"], 5, ["good"]),
        (["{nets}:raises", "--input", "1,3,8,8"], 5, ["no such luck"]),
        (["{nets}:text", "--input", "1,3,8,8"], 5, ["str"]),
        (["{nets}:Fails", "--input", "1,3,8,8"], 5, ["[5, 7, 11]"]),
        (["{nets}:shape", "--input", "1,3,8,8"], 5, ["error:"]),
        (["{nets}:good"], 2, ["--input"]),
        (["{nets}:good", "--input", "1,4,8,8"], 5, ["channels"]),
        (["{nets}:good?widht=3", "--input", "1,3,8,8"], 2, ["width"]),
        (["{nets}.py:good", "--input", "1,3,8,8"], 5, ["nets.py.py"]),
        (["no_such_package.module:make", "--input", "1,3,8,8"], 5, ["no_such_package"]),
        (["resnet20?widht=3"], 2, ["widht"]),
        (["resnet20?"], 2, ["resnet20?"]),
        (["torchvison:resnet18"], 2, ["torchvision"]),
        (["nowhere/architecture.json"], 5, ["nowhere"]),
    ],
)
def test_bad_networks_get_a_message_and_no_traceback(
    nets: Path, arguments: list[str], code: int, parts: list[str]
) -> None:
    result = run("inspect", *(argument.replace("{nets}", str(nets)) for argument in arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert "defect" not in result.stderr
    for part in parts:
        assert part in result.stderr
    assert not result.stdout


def test_a_network_without_convolutions_is_still_described(nets: Path) -> None:
    result = run("inspect", f"{nets}:plain", "--input", "1,3,8,8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["totals"]["params"] == 3 * 8 * 8 * 4 + 4


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_a_network_prints_stays_out_of_the_json(nets: Path, command: str) -> None:
    loud = nets.with_name("loud.py")
    loud.write_text(
        "from torch import nn\n"
        "class Loud(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        print('building')\n"
        "        self.layer = nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n"
        "        print('running')\n"
        "        return self.layer(x)\n"
    )
    result = run(command, f"{loud}:Loud", "--input", "1,3,8,8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert "building" in result.stderr
    assert "running" in result.stderr


@pytest.mark.parametrize("shape", ["99999999,1,9999,9999", "1,1,99999,99999"])
def test_an_input_that_no_memory_holds_is_refused(shape: str) -> None:
    result = run("inspect", "digits_net", "--input", shape)
    assert result.exit_code == 5, result.output
    assert "--input" in result.stderr
    assert "defect" not in result.stderr
