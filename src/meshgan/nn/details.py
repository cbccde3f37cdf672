"""What judges details, the small part of faces that a linear map leaves: energies by wavelength, traits, faults.

Details are fields (B, V, 3) in network units, of faces of one template, with vertices in its order.
"""

from math import comb

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor, nn

from meshgan.arrays import Faces, Floats, Integers, Singles
from meshgan.geometry.decomposition import principal_axes
from meshgan.geometry.laplacian import BandFilter, mass
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import distances
from meshgan.nn.plan import COORDINATES
from meshgan.nn.sampling import SparseOperator
from meshgan.nn.validity import Validity

FLOOR = 1e-3  # of the mean deviation, or energy of a band: where real faces never differ, what is seen stays finite
LONGEST = 9  # harmonics in the first band
BANDS = 10  # of harmonics
DEGREE = 6  # of the filters of what the harmonics leave
REGIONS = 40
SIGMA = 0.65  # mean edges, on the default template 2 mm: of waves of 16 mm it leaves 73 %, of 8 mm 29 %, of 5.5 mm 7 %
FINE = 0.3  # mean edges, for waves that only small triangles hold: of 5.5 mm it leaves 56 %, of 4 mm 33 %, of 3 mm 14 %
CUT = 2.5
ROWS = 500  # of distances at a time
BLOCK = 64  # faces measured at a time
TINY = 1e-6  # beside roots of areas, of vertices without one
FEW = 12  # vertices of a part by which nothing can be told of how it moves
STIFF = 0.05  # of the energy of a part's details: what an affine map of the part may leave
CLEAR = 3.0  # deviations of its details that a vertex stays away from a stiff part


class Details(nn.Module):
    """What details of generated faces are compared with: those of real ones, as `training.loop.start` measures them."""

    deviations: Tensor  # (V, 3) of real details
    freedom: Tensor  # (V, 1) the share of their details that vertices may have: `freedom`
    spectrum: "Spectrum"
    traits: "Traits | None"
    validity: Validity | None

    def __init__(self, mesh: Mesh, real: Tensor, scale: Singles, traits: int = 0) -> None:
        """Of details (N, V, 3) of real faces of one template, `scale` (V, 3) mm per network unit."""
        super().__init__()
        self.register_buffer("freedom", torch.from_numpy(freedom(mesh, real.numpy() * scale)))
        free = real * self.freedom
        deviations = free.square().mean(dim=0).sqrt()
        self.register_buffer("deviations", deviations.clamp_min(FLOOR * deviations.square().mean().sqrt()))
        self.spectrum = Spectrum.of(mesh, free, scale)
        self.traits = self.validity = None
        if traits:
            self.traits = Traits(traits, scale)
            self.traits.measure(free)


class Spectrum(nn.Module):
    """How strong details are by wavelength, (B, V, 3) → (B, E), each relative to real faces' mean; differentiable.

    The longest manifold harmonics of the template are gathered in bands, each a fixed ratio wide. What they leave goes
    through Bernstein filters (n over i) Qⁱ Pⁿ⁻ⁱ, i = 0 … n, P the mean around a vertex under a Gaussian of `SIGMA`
    edges, Q = 1 − P: n + 1 bands that add up to what goes in, the same wavelengths all over the mesh. Powers of the
    Laplacian do not serve (its largest eigenvalues are those of a few tiny triangles, and beside them all others look
    alike), nor means of neighbours (what is short among small triangles is long among large ones). These are measured
    by region, `REGIONS` patches and the border, and along the template's normals apart from across them: noise may have
    the right energy in all and still be loud where real details are quiet, or dent what real ones shift. Beside the
    last of these bands, in which 8 mm drown what is shorter, (1 − P)² with a Gaussian of
    `FINE` edges is measured where triangles are small enough for it. `scale` (V, 3) are mm per network unit.
    """

    harmonics: Tensor  # (K, V), orthonormal
    scale: Tensor  # (V, 3) mm per network unit
    filters: Tensor  # (n + 1, n + 1), by powers of P
    areas: SparseOperator  # (R, V) of the vertices of each region, elsewhere 0
    held: SparseOperator  # (F, V) those of regions with small triangles
    normals: Tensor  # (3, V, 1) of the template
    roots: Tensor  # (V,) of areas
    real: Tensor  # (E,)
    shares: Tensor  # (E,) what each counts, 1 in all: half harmonics, half the rest

    def __init__(self, mesh: Mesh, scale: Singles) -> None:
        super().__init__()
        bands = BandFilter.of(mesh)
        inverse = np.argsort(bands.order)
        self.register_buffer("harmonics", torch.from_numpy(np.ascontiguousarray(bands.harmonics[:, inverse])))
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("roots", torch.from_numpy(bands.roots[inverse]))
        count = len(bands.harmonics)
        ends = np.unique(np.geomspace(min(LONGEST, count), count, BANDS).round().astype(int)).tolist()
        self.sizes = np.diff([0, *ends]).tolist()
        known = len(bands.harmonics) == np.count_nonzero(bands.roots)
        self.smoothing = None if known else SparseOperator(gaussian_mean(mesh))
        narrow = gaussian_mean(mesh, FINE)
        self.narrow = None if known else SparseOperator(narrow)
        self.register_buffer("filters", torch.from_numpy(bernstein(DEGREE)), persistent=False)
        places = regions(mesh)
        inside = (places == np.unique(places)[:, None]) * np.square(bands.roots[inverse]).astype(np.float32)
        small = inside[:, narrow.diagonal() < 1].any(axis=1)
        self.areas, self.held = (SparseOperator(sp.csr_array(rows)) for rows in (inside, inside[small]))
        self.register_buffer("normals", torch.from_numpy(mesh.vertex_normals.T[..., None].astype(np.float32)))
        parts = (len(self.sizes), 0 if known else 2 * ((DEGREE + 1) * len(inside) + int(small.sum())))
        self.register_buffer("shares", torch.cat([torch.full((n,), 0.5 / n) for n in parts if n]) * (2 if known else 1))
        self.register_buffer("real", torch.ones(sum(parts)))

    @classmethod
    def of(cls, mesh: Mesh, real: Tensor, scale: Singles) -> "Spectrum":
        """Relative to the means of real fields (N, V, 3)."""
        spectrum = cls(mesh, scale)
        spectrum.measure(real)
        return spectrum

    def forward(self, details: Tensor) -> Tensor:
        columns = (details * self.scale).permute(1, 2, 0).flatten(1)  # (V, 3 B), faces last: long rows
        codes = self.harmonics @ (columns * self.roots[:, None])
        squares = codes.square().unflatten(1, (COORDINATES, -1)).sum(dim=1)
        energies = [torch.stack([band.sum(dim=0) for band in squares.split(self.sizes)])]
        if self.smoothing is not None and self.narrow is not None:
            rest = columns - self.harmonics.T @ codes / self.roots[:, None].clamp_min(TINY)
            powers = [rest]
            for _ in range(DEGREE):
                powers.append(self.smoothing(powers[-1]))
            waves = (self.filters @ torch.stack(powers).flatten(1)).view(len(powers), *rest.shape)
            energies.append(self._by_region(self.areas, waves))
            fine = rest - self.narrow(rest)
            energies.append(self._by_region(self.held, (fine - self.narrow(fine))[None]))
        return torch.cat(energies).T / self.real

    def _by_region(self, areas: SparseOperator, waves: Tensor) -> Tensor:
        """Squares of fields (n, V, 3 B) by region (R, V): of each along normals, then across them (2 n R, B)."""
        (x, y, z), (to_x, to_y, to_z) = waves.unflatten(2, (COORDINATES, -1)).unbind(dim=2), self.normals
        along = torch.addcmul(torch.addcmul(x * to_x, y, to_y), z, to_z).square()
        whole = torch.addcmul(torch.addcmul(x.square(), y, y), z, z)
        one, both = areas(torch.cat([along, whole], dim=2).transpose(0, 1)).chunk(2, dim=2)
        return torch.stack([one, (both - one).clamp_min(0.0)]).permute(2, 0, 1, 3).flatten(0, 2)

    @torch.no_grad()
    def measure(self, details: Tensor) -> None:
        """Take what is relative to real faces from their details (N, V, 3)."""
        self.real.fill_(1.0)
        self.real.copy_(torch.cat([self(part) for part in details.split(BLOCK)]).mean(dim=0))
        rest, fine = self.real[len(self.sizes) :].split(
            [len(self.real) - len(self.sizes) - 2 * self.held.shape[0], 2 * self.held.shape[0]]
        )
        for by_region in (rest.view(-1, self.areas.shape[0]), fine.view(2, -1)):
            by_region.clamp_min_(FLOOR * by_region.mean(dim=1, keepdim=True))
        self.real.clamp_min_(FLOOR**2 * self.real.mean() + torch.finfo(self.real.dtype).tiny)


class Traits(nn.Module):
    """What details (B, V, 3) have in common all over a face: coordinates (B, K) on their principal components in mm,
    each relative to its deviation. Details are in network units, `scale` (V, 3) are mm per network unit.
    """

    axes: Tensor  # (K, 3 V), orthonormal
    deviations: Tensor  # (K,) mm, summed over all vertices
    scale: Tensor  # (V, 3)

    def __init__(self, count: int, scale: Singles) -> None:
        super().__init__()
        self.register_buffer("axes", torch.zeros(count, scale.size))
        self.register_buffer("deviations", torch.ones(count))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, details: Tensor) -> Tensor:
        return (details * self.scale).flatten(1) @ self.axes.T / self.deviations

    def missed(self, details: Tensor, rebuilt: Tensor) -> Tensor:
        """What share of what `details` have of the components `rebuilt` ones (B, V, 3) miss, in mm²."""
        said = (self(details) * self.deviations) @ self.axes
        missed: Tensor = (said - (rebuilt * self.scale).flatten(1)).square().sum() / said.square().sum().clamp_min(TINY)
        return missed

    @torch.no_grad()
    def measure(self, details: Tensor) -> None:
        """Take components from details (N, V, 3) of real faces; where they have fewer, the last say nothing."""
        flat = (details * self.scale).flatten(1).numpy()
        variances, axes = principal_axes(flat - flat.mean(axis=0), len(self.axes))
        self.axes[: len(axes)] = torch.from_numpy(axes).float()
        self.deviations[: len(axes)] = torch.from_numpy(np.sqrt(variances)).float()


def score(drawn: Tensor, again: Tensor, real: Tensor, shares: Tensor) -> Tensor:
    """How far what is drawn twice for each of some faces, (B, E) both, is from being distributed as `real` (B, E) is.

    The energy score of Gneiting and Raftery 2007, of each number by itself, and of all of a face together:
    mean |x − r| − |x − x'| / 2, which no other distribution of x makes as small as that of r. Numbers count by
    `shares` (E,), 1 in all.
    """
    pairs = ((drawn, real), (again, real), (drawn, again))
    one, other, between = ((shares * (a - b).abs()).sum(dim=1) for a, b in pairs)
    alone = (one + other - between).mean()
    one, other, between = (((shares * (a - b).square()).sum(dim=1) + TINY**2).sqrt() for a, b in pairs)
    return (alone + (one + other - between).mean()) / 2


def freedom(mesh: Mesh, details: Faces) -> Singles:
    """What share (V, 1) of their details vertices may have, as real ones (N, V, 3) in mm show it: 1 all over a face.

    Parts of a head that are stiff, as eyeballs and teeth are, have none: what real ones leave to details is an affine
    map of each, and drawn vertex by vertex it would be dents. Nor do details reach such a part: a lid lies on its
    eyeball. So they fade where `CLEAR` deviations are more than there is between. The largest part is never stiff.
    """
    stiff = np.zeros(len(mesh.vertices), dtype=bool)
    sizes = np.bincount(mesh.components)
    for label in np.flatnonzero((sizes > FEW) & (sizes < sizes.max())):
        part = mesh.components == label
        basis = np.linalg.qr(np.column_stack([mesh.vertices[part], np.ones(part.sum())]))[0]
        own = details[:, part].astype(np.float64)
        left = own - basis @ (basis.T @ own)
        stiff[part] = np.square(left).sum() < STIFF * np.square(own).sum()
    free = np.ones(len(stiff))
    if stiff.any():
        gap = distances(mesh.vertices, Mesh(mesh.vertices, mesh.triangles[stiff[mesh.triangles[:, 0]]]))
        deviations = np.sqrt(np.square(details).sum(axis=2).mean(axis=0))
        free = np.where(stiff, 0.0, np.minimum(gap / np.maximum(CLEAR * deviations, TINY), 1.0))
    return free[:, None].astype(np.float32)


def bernstein(degree: int) -> Singles:
    """(n + 1, n + 1): the filter (n over i) (1 − P)ⁱ Pⁿ⁻ⁱ in row i, as a sum of powers of P; they add up to P⁰.

    So n means serve all filters, which one after the other take n (n + 1) / 2. In single precision, signs that cancel
    cost an energy of details 1e-5 of it.
    """
    filters = np.zeros((degree + 1, degree + 1), dtype=np.float32)
    for i in range(degree + 1):
        for j in range(i + 1):
            filters[i, degree - i + j] = comb(degree, i) * comb(i, j) * (-1) ** j
    return filters


def regions(mesh: Mesh) -> Integers:
    """A number for each vertex (V,): 0 on the border and beside it, else that of the nearest of some spread vertices.

    Each of these lies farthest from those before (Gonzalez 1985), by edges of its own surroundings, so that there are
    more where triangles are small, as at lids: what these few vertices do, others would make up for. Where there is no
    border, numbers begin with 1.
    """
    places = np.ones(len(mesh.vertices), dtype=np.int64)
    border = np.isin(mesh.edges, mesh.boundary_vertices).any(axis=1)
    places[mesh.edges[border]] = 0
    inside = places > 0
    points, sizes = mesh.vertices[inside], around(mesh)[inside]
    if len(points):
        chosen, distances = [0], np.linalg.norm(points - points[0], axis=1)
        while len(chosen) < min(REGIONS, len(points)):
            chosen.append(int(np.argmax(distances / sizes)))
            distances = np.minimum(distances, np.linalg.norm(points - points[chosen[-1]], axis=1))
        places[inside] = 1 + cKDTree(points[chosen]).query(points)[1]
    return places


def around(mesh: Mesh) -> Floats:
    """Mean lengths (V,) in mm of the edges at a vertex and at its neighbours; where there are none, of all edges."""
    i, j = mesh.edges[mesh.edges[:, 0] != mesh.edges[:, 1]].T
    lengths, count = np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1), len(mesh.vertices)
    beside = sp.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(count, count))
    sums = np.bincount(np.r_[i, j], np.r_[lengths, lengths], count)
    degrees = np.bincount(np.r_[i, j], minlength=count)
    whole, edges = sums + beside @ sums, degrees + beside @ degrees
    known = (edges > 0) & (whole > 0)
    return np.where(known, whole / np.maximum(edges, 1), max(float(lengths.mean()) if len(lengths) else 1.0, TINY))


def gaussian_mean(mesh: Mesh, width: float = SIGMA) -> sp.csr_array:
    """(V, V): means around vertices under a Gaussian of `width` edges by distance along them, cut off at `CUT` of it.

    Vertices count by their area; one without any is its own mean.
    """
    i, j = mesh.edges[mesh.edges[:, 0] != mesh.edges[:, 1]].T
    lengths = np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)
    count, sigma = len(mesh.vertices), width * float(lengths.mean())
    graph = sp.csr_array((lengths, (i, j)), shape=(count, count))
    areas, parts = mass(mesh), []
    for start in range(0, count, ROWS):
        rows = np.arange(start, min(start + ROWS, count))
        distances = dijkstra(graph, directed=False, indices=rows, limit=CUT * sigma)
        weights = np.exp(-np.square(distances / sigma) / 2) * areas  # of infinity: 0
        weights[np.arange(len(rows)), rows] += np.where(weights.sum(axis=1) > 0, 0.0, 1.0)
        parts.append(sp.csr_array(weights / weights.sum(axis=1, keepdims=True)))
    return sp.csr_array(sp.vstack(parts))
