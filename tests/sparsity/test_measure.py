"""Sizes: what files really weigh, and the ratios that Gaussian weights are known to give."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
import torch
from sparsity_fakes import everything, small
from torch import nn

from morphsearch.files import write_tensors
from morphsearch.sparsity import Schedule, Sparsifier, SparsityReport, sizes


@pytest.fixture(scope="module")
def gaussian() -> nn.Linear:
    layer = nn.Linear(500, 400, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(400, 500, generator=torch.Generator().manual_seed(0)))
    return layer


@pytest.mark.parametrize(("target", "ratio"), [(0.5, 1.75), (0.75, 3.16), (0.8, 3.85), (0.9, 7.09), (0.95, 13.2)])
def test_gaussian_weights_compress_as_known(gaussian: nn.Linear, target: float, ratio: float) -> None:
    """The figures are those of zlib at level 6, dense by pruned, on float32."""
    layer = nn.Linear(500, 400, bias=False)
    layer.load_state_dict(gaussian.state_dict())
    report = Sparsifier(layer, schedule=Schedule.constant(target)).report()
    assert report.before is not None
    assert report.before.gzip / report.after.gzip == pytest.approx(ratio, rel=0.03)
    assert report.before.zip / report.after.zip == pytest.approx(ratio, rel=0.03)
    assert report.before.file == report.after.file
    assert report.after.nonzeros == round(layer.weight.numel() * (1 - target))


def test_sizes_are_those_of_real_files(tmp_path: Path) -> None:
    model = everything()
    Sparsifier(model, schedule=Schedule.constant(0.7))
    found = sizes(model)
    path = tmp_path / "weights.safetensors"
    write_tensors(path, model.state_dict())
    data = path.read_bytes()
    assert found.file == len(data)
    assert found.gzip == len(gzip.compress(data, 6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.write(path, "weights.safetensors")
    assert found.zip == (tmp_path / "a.zip").stat().st_size
    assert found.parameters == sum(one.numel() for one in model.parameters())


def test_columns_add_up_and_the_report_survives_json() -> None:
    model = everything()
    report = Sparsifier(model, schedule=Schedule.constant(0.7)).report()
    assert [row.name for row in report.rows] == [name for name, _ in model.named_parameters()]
    assert sum(row.weights for row in report.rows) == report.after.parameters
    assert sum(row.nonzeros for row in report.rows) == report.after.nonzeros
    assert report.network == pytest.approx(1 - report.after.nonzeros / report.after.parameters)
    assert all((row.asked is None) == (row.kept is not None) for row in report.rows)
    assert SparsityReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_measuring_can_be_left_out() -> None:
    report = Sparsifier(small(), schedule=Schedule.constant(0.7), measure=False).report()
    assert report.before is None
    assert SparsityReport.from_dict(report.to_dict()) == report
