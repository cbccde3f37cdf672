"""An order of the vertices in which neighbours lie close in memory, on all levels alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee

from meshgan.arrays import Integers
from meshgan.geometry.hierarchy import Hierarchy, Level
from meshgan.nn.plan import BLOCK

ALIKE = 64  # rows that are sorted by their numbers of entries; more would take neighbours too far apart
assert BLOCK % ALIKE == 0


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
    order = reverse_cuthill_mckee(finest, symmetric_mode=False).astype(np.int64)
    orders = []
    for level in hierarchy.levels[:-1]:
        assert level.up is not None
        orders.append(_alike_in_runs(order, level))
        weight = level.up.sum(axis=0)
        places = (level.up.T @ _inverse(orders[-1])) / np.where(weight > 0, weight, 1)
        order = np.argsort(places, kind="stable")
    return [*orders, np.arange(len(order))]


def _alike_in_runs(order: Integers, level: Level) -> Integers:
    """In parts of `ALIKE` rows, those with equally many entries together: loops of a length that is easy to predict."""
    assert level.up is not None
    neighbours, parents = (np.diff(sp.csr_array(matrix).indptr)[order] for matrix in (level.laplacian, level.up))
    return order[np.lexsort((parents, neighbours, np.arange(len(order)) // ALIKE))]


def _inverse(order: NDArray[Any]) -> Integers:
    return np.argsort(order)
