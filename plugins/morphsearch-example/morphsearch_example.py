"""A plugin for morphsearch: the energy of one image as a cost, so that ``--budget energy=50%`` works.

Figures for 45 nm at 0.9 V, from M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
figure 1.1.9: a 32-bit floating-point multiplication takes 3.7 pJ and an addition 0.9 pJ, an access to 64 bits of DRAM
1.3 to 2.6 nJ, of which the lower figure is taken. Every layer is assumed to read its weights and its input and to write
its output once, in 32 bits, in DRAM; functions between the layers are taken to be fused into them.
"""

from __future__ import annotations

import morphsearch
from morphsearch.types import CostModelRecord

MILLIJOULES_PER_MAC = (3.7 + 0.9) * 1e-9
MILLIJOULES_PER_BYTE = 1300 / 8 * 1e-9
BYTES = 4


def energy():
    """Make the cost model; imports late, so that listing plugins stays quick."""
    from morphsearch.costs import LayerwiseCost, batch_size, elements_of, flops_of, weights_of

    class Energy(LayerwiseCost):
        name, unit, per_image = "energy", "mJ", True

        def price(self, op, graph):
            macs = flops_of(op)
            if macs is None:
                return None
            elements = elements_of(op) + batch_size(graph) * weights_of(op)
            return MILLIJOULES_PER_MAC * macs + MILLIJOULES_PER_BYTE * BYTES * elements

    return Energy()


@morphsearch.hookimpl
def morphsearch_cost_models():
    """Called by morphsearch when a cost is first named."""
    return [CostModelRecord("energy", "Energy of one image: arithmetic and DRAM traffic (Horowitz 2014)", energy)]
