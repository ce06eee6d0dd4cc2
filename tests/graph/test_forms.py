"""Forms of code, one by one: each is exact, or frozen with a reason. None is wrong without a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from morphsearch.errors import GraphError
from morphsearch.graph import record
from morphsearch.loop.verification import random_keep
from tests.graph import proofs
from tests.graph.forms import FORMS, network

INPUTS = torch.zeros(2, 3, 8, 8)
# Forms in which something stays: one that is lost is seen here, and one that is won is taken off.
FROZEN = frozenset(
    (
        "pixel pad_ch einsum_ gate0 select0 perm_t "
        "loopsum loopshape split1 const_vec const_list const_shape first_half_relu_idx mask_mul avgpool_ch interp_ch "
        "gather_ scatter_ index_add_ partial_conv weight_slice weight_mul_const "
        "weight_softmax bn_func outer stack_rev param_slice arange_idx ghost softmax_gate_idx "
    ).split()
)
EMPTIED = ("list_pool", "octave")  # a pool of no channels at all is an error of PyTorch's own


@pytest.mark.parametrize("name", [name for name in FORMS if name not in EMPTIED])
def test_form(name: str) -> None:
    torch.manual_seed(0)
    graph = record(proofs.in_double(network(name)), INPUTS)
    mixes = proofs.mixing(graph)
    assert (proofs.free_share(graph) < 1) == (name in FROZEN)
    for seed in (0, 1):
        proofs.shrinks_exactly(graph, INPUTS, seed, skip=mixes)
    proofs.widens_exactly(graph, INPUTS, skip=mixes)
    if mixes:
        shrunk = graph.shrink(random_keep(graph, np.random.default_rng(2)))
        assert shrunk(INPUTS.double()).shape == (2, 2, 8, 8)


@pytest.mark.parametrize(("name", "left"), [("list_pool", range(3)), ("octave", range(9))])
def test_a_slice_that_is_pooled_may_not_lose_all_its_channels(name: str, left: range) -> None:
    graph = record(network(name), INPUTS)
    with pytest.raises(GraphError, match="cannot follow these widths"):
        graph.shrink({"1.conv": left})
    assert graph.shrink({"1.conv": range(2, 12)})(INPUTS).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("width", range(1, 6))
def test_a_written_number_of_sets_that_divides_the_new_width_too_is_replaced(width: int) -> None:
    """Three sets of two channels are six channels, which six sets would take as well."""
    graph = record(proofs.in_double(network("groupnorm_of_six")), INPUTS)
    shrunk = proofs.keeps_exactly(graph, INPUTS, {"1.conv": list(range(width))})
    assert record(shrunk, INPUTS, decisions=graph.decisions).groups["1.conv"].channels == 2


ACTIVATIONS = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish PReLU ReLU ReLU6 RReLU SELU SiLU"
    " Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"
).split()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_followed(name: str, inplace: bool) -> None:
    """Which of them PyTorch calls element-wise differs between its versions."""
    make = getattr(torch.nn, name)
    if inplace and "inplace" not in make.__init__.__code__.co_varnames:
        pytest.skip("it has no such form")
    act = make(inplace=True) if inplace else make()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), act, torch.nn.Conv2d(8, 4, 1)).eval()
    graph = record(net.double(), INPUTS.double())
    assert proofs.free_share(graph) == 1
    proofs.shrinks_exactly(graph, INPUTS.double(), 0, skip=proofs.mixing(graph))
