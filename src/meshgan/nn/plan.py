"""What the compiled path knows of a layer: sparse rows as pairs, and the schedule of the waves (see chebyshev.cpp)."""

import ctypes
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

LANES = 16  # floats in a row of a field
BLOCK = 64  # rows that one step of a recurrence advances at a time

Numbers = NDArray[Any]
ENTRY = np.dtype([("offset", np.int32), ("value", np.float32)])


class Sparse(ctypes.Structure):
    """Starts of rows, and pairs of an offset and a value."""

    _fields_ = (("start", ctypes.c_void_p), ("entries", ctypes.c_void_p))


class Layer(ctypes.Structure):
    """The struct of the same name in chebyshev.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("expands", "elu", "narrow", "fine", "coarse", "inputs", "outputs")),
        *((name, ctypes.c_int32) for name in ("terms", "block", "blocks", "lag", "collect_lag")),
        *((name, Sparse) for name in ("laplacian", "transposed", "spread", "collect")),
        *((name, ctypes.c_void_p) for name in ("needed", "ready", "kept", "order")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "weight_gradient", "bias_gradient")),
    )


class Plan:
    """Operators and schedule of one layer, as arrays; `struct` is the view of them that the library reads.

    An expanding layer goes from the coarse side to the fine one through `transfer` (fine, coarse), which is the
    identity if None; a reducing layer keeps the fine vertices `kept` (coarse,).
    """

    def __init__(
        self, laplacian: sp.csr_array, transfer: sp.csr_array | None = None, kept: Numbers | None = None
    ) -> None:
        fine = laplacian.shape[0]
        self.expands = kept is None
        self.arrays: dict[str, Numbers] = {}
        self._store("laplacian", laplacian)
        self._store("transposed", laplacian.T)
        if kept is not None:
            self.arrays["kept"] = kept.astype(np.int32)
            transfer = _selection(kept, fine)
        if transfer is not None:
            self._store("spread", transfer)
            self._store("collect", transfer.T)
        coarse = fine if transfer is None else transfer.shape[1]
        blocks = max(1, fine // BLOCK)
        block_of = np.minimum(np.arange(fine) // BLOCK, blocks - 1)
        pairs = sp.eye_array(fine).tocoo() if transfer is None else transfer.tocoo()
        lag = _reach(laplacian, block_of)
        needed, ready, spread = _schedule(pairs, block_of, blocks)
        self.arrays |= {"needed": needed.astype(np.int32), "ready": ready.astype(np.int32)}
        self.sizes = {
            "expands": int(self.expands),
            "fine": fine,
            "coarse": coarse,
            "block": BLOCK,
            "blocks": blocks,
            "lag": lag,
            "collect_lag": max(lag, -(-spread // 2)),
        }
        self._struct: Layer | None = None

    @property
    def struct(self) -> Layer:
        """A new struct that points into the arrays; channels and parameters are still to be filled in."""
        if self._struct is None:
            self._struct = Layer(**self.sizes)
            for name in ("laplacian", "transposed", "spread", "collect"):
                if f"{name}_start" in self.arrays:
                    pointers = (self.arrays[f"{name}_{part}"].ctypes.data for part in ("start", "entries"))
                    setattr(self._struct, name, Sparse(*pointers))
            for name in ("needed", "ready", "kept"):
                if name in self.arrays:
                    setattr(self._struct, name, self.arrays[name].ctypes.data)
        return Layer.from_buffer_copy(self._struct)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_struct": None}  # pointers are not for copies

    def _store(self, name: str, matrix: Any) -> None:
        rows = sp.csr_array(matrix)
        rows.sort_indices()
        entries = np.empty(rows.nnz, dtype=ENTRY)
        entries["offset"], entries["value"] = rows.indices * LANES, rows.data
        self.arrays |= {f"{name}_start": rows.indptr.astype(np.int32), f"{name}_entries": entries}


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
