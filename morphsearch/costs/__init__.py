"""What a network costs, as a function of the widths of its groups."""

from morphsearch.costs.base import LayerwiseCost
from morphsearch.costs.batch import batch_size
from morphsearch.costs.flops import FlopsCost, elements_of, flops_of, weights_of
from morphsearch.costs.params import ParamsCost
from morphsearch.costs.peak import Part, PeakCost
from morphsearch.costs.polynomial import Polynomial, PolynomialCost
from morphsearch.costs.pricing import Cost, bind, cost, get, vector
from morphsearch.costs.table import PolynomialTable

__all__ = [
    "Cost",
    "FlopsCost",
    "LayerwiseCost",
    "ParamsCost",
    "Part",
    "PeakCost",
    "Polynomial",
    "PolynomialCost",
    "PolynomialTable",
    "batch_size",
    "bind",
    "cost",
    "elements_of",
    "flops_of",
    "get",
    "vector",
    "weights_of",
]
