"""An order of the vertices in which neighbours lie close in memory, on all levels alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Integers


@dataclass(frozen=True)
class OrderedLevel:
    """Operators between one level and the next, both in their new orders: row r is vertex `order[r]`."""

    order: Integers
    laplacian: sp.csr_array
    kept: Integers
    up: sp.csr_array


def ordered(hierarchy: Hierarchy) -> list[OrderedLevel]:
    """All levels but the coarsest, which keeps its order: codes are wired to its vertices.

    The finest level is ordered by reverse Cuthill and McKee, every other by the mean place of the finer vertices that
    it is interpolated to, so that a sweep over one level is a sweep over its neighbours too.
    """
    orders = _orders(hierarchy)
    levels = []
    for level, order, coarser in zip(hierarchy.levels, orders, orders[1:], strict=False):
        assert level.kept is not None
        assert level.up is not None
        levels.append(
            OrderedLevel(
                order,
                level.laplacian[order][:, order],
                _inverse(order)[level.kept][coarser],
                level.up[order][:, coarser],
            )
        )
    return levels


def _orders(hierarchy: Hierarchy) -> list[Integers]:
    finest = sp.csr_matrix(hierarchy.levels[0].laplacian)
    orders = [reverse_cuthill_mckee(finest, symmetric_mode=False).astype(np.int64)]
    for level in hierarchy.levels[:-1]:
        assert level.up is not None
        weight = level.up.sum(axis=0)
        places = (level.up.T @ _inverse(orders[-1])) / np.where(weight > 0, weight, 1)
        orders.append(np.argsort(places, kind="stable"))
    coarsest = hierarchy.levels[-1].laplacian.shape[0]
    return [*orders[:-1], np.arange(coarsest)]


def _inverse(order: NDArray[Any]) -> Integers:
    return np.argsort(order)
