"""What is known of networks before anything is computed, without PyTorch: their sizes; what the compiled path knows of
a layer, its sparse matrices and the schedule of the waves (see native/); and the order of the vertices, in which
neighbours lie close in memory on all levels alike."""

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse.csgraph import reverse_cuthill_mckee

from meshgan.arrays import Integers
from meshgan.errors import UsageError
from meshgan.geometry.hierarchy import Hierarchy, Level
from meshgan.progress import counted

COORDINATES = 3
LARGEST = 2**27  # weights of one network: half a gigabyte, thirty times as many as for 80,000 vertices

LANES = 16  # floats in a row of a field
BLOCK = 320  # rows that one step of a recurrence advances at a time: some more than lie between two neighbours

Numbers = NDArray[Any]
ENTRY = np.dtype([("offset", np.int32), ("value", np.float32)])
RUN = np.dtype([("end", np.int32), ("first", np.int16), ("second", np.int16)])
MOST_ENTRIES = 2**15 - 1  # of a row, by the type of a run's numbers
MOST_ROWS = 2**31 // LANES - 1  # of a field, by the type of an entry's offset
PARTS = ("runs", "entries", "run_start", "entry_start")  # of a sparse matrix
MATRICES = ("clenshaw", "recurrence", "collect", "last")
ALIKE = 64  # rows that are sorted by their numbers of entries; more would take neighbours too far apart
assert BLOCK % ALIKE == 0


@dataclass(frozen=True)
class NetworkSpec:
    """Sizes of the networks; the defaults are the paper's, widths from CoMA.

    `widths` holds the encoder's channels, one per down-sampling, and is mirrored in the decoder; `terms` counts the
    Chebyshev polynomials T₀ … ; `skips` up-samples the decoder's first tensor to every level (BEGAN's skip
    connections); `linear` adds a fixed linear map from code to mesh beside the decoder's convolutions, and its inverse
    beside the encoder's;
    `mapping` is the width of a mapping network, which turns codes that are drawn into codes that are decoded (0: none);
    `detail` lets the convolutions add what the linear map cannot say and nothing else, with chance of its own: noise on
    the vertices of every level;
    `traits` counts numbers of chance that a whole face shares, beside those that say how strong its details are (0: all
    faces have as much of them);
    `mixing` counts blocks of perceptrons that mix patches of the mesh, in place of all convolutions (0: convolutions):
    see `nn.patches`, whose tokens have the last of `widths`;
    `code_activation` "relu" is what CoMA's published code does.
    """

    code: Annotated[int, Field(le=4096)] = 64
    widths: Annotated[tuple[Annotated[int, Field(le=4096)], ...], Field(max_length=16)] = (16, 16, 16, 32)
    terms: Annotated[int, Field(le=64)] = 6
    skips: bool = False
    linear: bool = False
    mapping: Annotated[int, Field(ge=0, le=4096)] = 0
    detail: bool = False
    traits: Annotated[int, Field(ge=0, le=4096)] = 0
    mixing: Annotated[int, Field(ge=0, le=64)] = 0
    code_activation: Literal["none", "relu"] = "none"

    def __post_init__(self) -> None:
        if min(self.code, self.terms, *self.widths) < 1 or not self.widths:
            raise UsageError("a network needs a code, widths and terms of at least 1.")
        if self.detail and (self.skips or not self.linear):
            raise UsageError("network.detail needs network.linear = true and network.skips = false.")
        if self.mixing and (self.skips or self.linear):
            raise UsageError("network.mixing needs network.linear = false and network.skips = false.")
        if self.traits and not self.detail:
            raise UsageError("network.traits are of details: set network.detail = true, or network.traits = 0.")


class Sparse(ctypes.Structure):
    """The struct of the same name in native/layers.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in PARTS)


class Layer(ctypes.Structure):
    """The struct of the same name in native/layers.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("expands", "elu", "narrow", "fine", "coarse", "inputs", "outputs")),
        *((name, ctypes.c_int32) for name in ("terms", "block", "blocks", "lag", "collect_lag")),
        *((name, Sparse) for name in MATRICES),
        *((name, ctypes.c_void_p) for name in ("needed", "ready", "order")),
    )


class Plan:
    """Operators and schedule of one layer, as arrays; `struct` is the view of them that the library reads.

    An expanding layer goes from the coarse side to the fine one through `transfer` (fine, coarse), which is the
    identity if None; a reducing layer keeps the fine vertices `kept` (coarse,). `fits` is False where the numbers are
    larger than the library can hold: then there is nothing else.
    """

    def __init__(
        self, laplacian: sp.csr_array, transfer: sp.csr_array | None = None, kept: Numbers | None = None
    ) -> None:
        fine = laplacian.shape[0]
        forward, backward = sp.csr_array(laplacian), sp.csr_array(laplacian.T)
        spread = _selection(kept, fine) if kept is not None else transfer
        spread = sp.eye_array(fine, format="csr") if spread is None else sp.csr_array(spread)
        collect = sp.csr_array(spread.T)
        matrices = (forward, backward, spread, collect)
        entries = max(int(np.diff(matrix.indptr).max(initial=0)) for matrix in matrices)
        self.fits = entries <= MOST_ENTRIES and fine <= MOST_ROWS
        if not self.fits:
            return
        blocks = max(1, fine // BLOCK)
        ends = np.append(np.arange(1, blocks) * BLOCK, fine)
        block_of = np.searchsorted(ends, np.arange(fine), side="right")
        lag = _reach(laplacian, block_of)
        needed, ready, wait = _schedule(spread.tocoo(), block_of, blocks)
        self.sizes = {
            "expands": int(kept is None),
            "fine": fine,
            "coarse": spread.shape[1],
            "block": BLOCK,
            "blocks": blocks,
            "lag": lag,
            "collect_lag": max(lag, -(-wait // 2)),
        }
        self.arrays: dict[str, Numbers] = {"needed": needed.astype(np.int32), "ready": ready.astype(np.int32)}
        self._store("clenshaw", ends, forward if kept is None else backward, spread)
        self._store("recurrence", ends, backward if kept is None else forward)
        if kept is not None or transfer is not None:
            self._store("collect", ready, collect)
        if kept is not None:
            self._store("last", ready, forward[kept], -collect)
        self._struct: Layer | None = None

    @property
    def struct(self) -> Layer:
        """A new struct that points into the arrays; the channels are still to be filled in."""
        if self._struct is None:
            self._struct = Layer(**self.sizes)
            for name in MATRICES:
                if f"{name}_runs" in self.arrays:
                    pointers = (self.arrays[f"{name}_{part}"].ctypes.data for part in PARTS)
                    setattr(self._struct, name, Sparse(*pointers))
            for name in ("needed", "ready"):
                setattr(self._struct, name, self.arrays[name].ctypes.data)
        return Layer.from_buffer_copy(self._struct)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_struct": None}  # pointers are not for copies

    def _store(self, name: str, ends: Numbers, first: sp.csr_array, second: sp.csr_array | None = None) -> None:
        """Rows of `first` and `second` one after the other, in runs of equal lengths that do not cross blocks."""
        second = sp.csr_array(first.shape) if second is None else second
        lengths = np.stack([np.diff(first.indptr), np.diff(second.indptr)])
        entries = np.empty(lengths.sum(), dtype=ENTRY)
        starts = np.concatenate([[0], np.cumsum(lengths.sum(axis=0))])
        for matrix, row_starts in ((first, starts[:-1]), (second, starts[:-1] + lengths[0])):
            places = np.arange(matrix.nnz) + np.repeat(row_starts - matrix.indptr[:-1], np.diff(matrix.indptr))
            entries["offset"][places] = matrix.indices * LANES
            entries["value"][places] = matrix.data
        changes = np.flatnonzero((lengths[:, 1:] != lengths[:, :-1]).any(axis=0)) + 1
        run_ends = np.union1d(changes, ends[ends > 0])
        runs = np.empty(len(run_ends), dtype=RUN)
        runs["end"] = run_ends
        runs["first"], runs["second"] = lengths[:, run_ends - 1]
        run_start = np.append(0, np.searchsorted(run_ends, ends, side="right"))
        arrays = (runs, entries, run_start.astype(np.int32), starts[np.append(0, ends)].astype(np.int32))
        self.arrays |= {f"{name}_{part}": array for part, array in zip(PARTS, arrays, strict=True)}


def plan_of(
    shape: tuple[int, int, int], laplacian: sp.csr_array, up: sp.csr_array | None = None, kept: Numbers | None = None
) -> Plan:
    """The plan of a layer of this `shape` (terms, inputs, outputs); where it may go either way, the cheaper one."""
    if up is None and kept is None:
        vertices = laplacian.shape[0]
        if not projecting_first_is_cheaper(shape, laplacian.nnz, 0, vertices, vertices):
            kept = np.arange(vertices)
    return Plan(laplacian, up, kept)


def projecting_first_is_cheaper(shape: tuple[int, int, int], entries: int, ups: int, below: int, above: int) -> bool:
    """Whether to multiply by a layer's weights before its sparse products, by the multiplications of either order.

    `shape` is (terms, inputs, outputs), `entries` counts those of the Laplacian, `ups` those of the up-sampling, and
    `below` and `above` the rows that go in and come out.
    """
    terms, inputs, outputs = shape
    products = (terms - 1) * entries
    summed = (ups + products) * inputs + above * terms * inputs * outputs
    return (terms * ups + products) * outputs + below * terms * inputs * outputs < summed


def _selection(kept: Numbers, fine: int) -> sp.csr_array:
    coarse = len(kept)
    return sp.csr_array((np.ones(coarse), (kept, np.arange(coarse))), shape=(fine, coarse))


def _reach(laplacian: sp.csr_array, block_of: Numbers) -> int:
    """The largest number of blocks between neighbours."""
    entries = laplacian.tocoo()
    return int(np.abs(block_of[entries.row] - block_of[entries.col]).max(initial=0))


def _schedule(pairs: sp.coo_array, block_of: Numbers, blocks: int) -> tuple[Numbers, Numbers, int]:
    """When coarse rows are needed and ready, and how many blocks a row has to wait for its last neighbour.

    `needed` (blocks,): all coarse rows below this are neighbours of the blocks so far. `ready` (blocks,): all coarse
    rows below this have no neighbours beyond the blocks so far.
    """
    coarse = pairs.shape[1]
    per_block = np.zeros(blocks, dtype=np.int64)
    np.maximum.at(per_block, block_of[pairs.row], pairs.col + 1)
    needed = np.maximum.accumulate(per_block)
    first = np.full(coarse, blocks - 1)
    last = np.zeros(coarse, dtype=np.int64)
    np.minimum.at(first, pairs.col, block_of[pairs.row])
    np.maximum.at(last, pairs.col, block_of[pairs.row])
    complete = np.maximum.accumulate(last)
    ready = np.searchsorted(complete, np.arange(blocks), side="right")
    return needed, ready, int((complete - first).max(initial=0))


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


def ordered_levels(hierarchy: Hierarchy, spec: NetworkSpec) -> list[OrderedLevel]:
    """The levels with a coarser one below them, one for each width, finest first.

    Raises `UsageError` for another number of levels, and for a network that no machine of today trains.
    """
    dense = spec.code * coarsest_size(hierarchy, spec)
    linear = spec.code * hierarchy.levels[0].laplacian.shape[0] * COORDINATES if spec.linear else 0
    convolutions = sum(spec.terms * a * b for a, b in pairwise((COORDINATES, *spec.widths)))
    check_sizes(hierarchy, spec, dense + linear + convolutions)
    return ordered(hierarchy)


def check_sizes(hierarchy: Hierarchy, spec: NetworkSpec, weights: int) -> None:
    """Raise `UsageError` for another number of levels than of widths, and for more weights than one network has."""
    if len(hierarchy.levels) != len(spec.widths) + 1:
        levels = counted(len(hierarchy.levels) - 1, "coarser level")
        raise UsageError(
            f"{counted(len(spec.widths), 'width')} and {levels} do not match; "
            f"set hierarchy.counts = {quarters(hierarchy.levels[0].laplacian.shape[0], len(spec.widths))}."
        )
    if weights > LARGEST:
        raise UsageError(f"a network of {weights:,} weights is too large; choose a smaller one.")


def quarters(vertices: int, levels: int) -> list[int]:
    """The vertices of coarser levels, each of a quarter of those before."""
    return [max(1, round(vertices / 4**level)) for level in range(1, levels + 1)]


def coarsest_size(hierarchy: Hierarchy, spec: NetworkSpec) -> int:
    """Numbers in a field on the coarsest level."""
    return hierarchy.levels[-1].laplacian.shape[0] * spec.widths[-1]


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
