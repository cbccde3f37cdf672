"""How far generated faces are from surfaces that could exist: a penalty on folds and crossings, for generators.

What energies and critics of details weigh is how strong and how alike details are; a fold or a crossing is some tenths
of a millimetre in both. What counts as a fault is what the metric of that name counts (`geometry.surface`).
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from meshgan.arrays import Booleans, Faces, Integers, Singles
from meshgan.geometry.mesh import Mesh
from meshgan.geometry.surface import EXCUSED, faults, intersecting, neighbours

BLUNT = 0.3  # cosine between normals of neighbours from which on they are no fold in the making
STEP = 3.0  # how much a crossing weighs beside a fold
BACK = 0.3  # mm that triangles are moved to see whether they come apart
REACH = 1.25  # edges: triangles that lie farther apart in the template do not cross each other


class Validity(nn.Module):
    """Faults of faces (B, V, 3) in network units: how sharply neighbours are folded, how many pass through others.

    Both are sums over a face, means over faces. Folds are Σ max(0, c − ⟨n₁, n₂⟩) over pairs of neighbours, c what a
    hundredth of real faces have less than, at most `BLUNT`. Crossings are counted, and have the gradient of a step that
    draws both triangles back along their normals. Only pairs count that cross in `smooth` faces, without details, and
    in hardly any real one: at lips and lids, say.
    """

    mean: Tensor  # (V, 3) mm
    scale: Tensor  # (V, 3) mm per network unit
    triangles: Tensor  # (F, 3)
    neighbours: Tensor  # (P, 2) triangles that share an edge
    least: Tensor  # (P,) cosines
    candidates: Tensor  # (Q, 2) triangles without a common corner
    side: Tensor  # (Q,) 1 where they come apart as they go back, as lips do; -1 where they do as they go forth

    def __init__(self, mesh: Mesh, mean: Singles, scale: Singles, real: Faces, smooth: Faces) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))
        sound = faults(real, mesh).mean(axis=0) < EXCUSED
        prone = sound & intersecting(smooth, mesh.triangles).any(axis=0)
        self.register_buffer("triangles", torch.from_numpy(mesh.triangles.astype(np.int64)))
        self.register_buffer("neighbours", torch.from_numpy(neighbours(mesh)))
        self.register_buffer("candidates", torch.from_numpy(_close(mesh, prone)))
        cosines = torch.cat([self._cosines(part)[1] for part in torch.from_numpy(real).split(50)])
        whole = torch.from_numpy(mesh.vertices.astype(np.float32))[None]
        template = self._cosines(whole)[1][0]
        self.register_buffer("side", torch.ones(len(self.candidates)))
        self._choose(torch.from_numpy(smooth))
        least = torch.quantile(cosines, EXCUSED, dim=0).clamp(max=BLUNT)
        self.register_buffer("least", torch.where((least > 0) & (template > 0), least, torch.full_like(least, -1.0)))

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        faces = faces * self.scale + self.mean
        normals, cosines = self._cosines(faces)
        folds = (self.least - cosines).clamp_min(0).sum(dim=1).mean()
        crossing = self._crossing(faces, normals.detach())
        middles = faces[:, self.triangles].mean(dim=2)
        back = ((middles - middles.detach()) * normals.detach()).sum(dim=2)[:, self.candidates].sum(dim=2)
        return folds, crossing.sum(dim=1).mean() + STEP * (crossing * self.side * back).sum(dim=1).mean()

    @torch.no_grad()
    def _crossing(self, faces: Tensor, normals: Tensor, back: float = 0.0) -> Tensor:
        """Which pairs cross (B, Q), 1 or 0, once each triangle has gone `back` by so many mm against its normal."""
        axes, towards = faces.permute(2, 0, 1), back * normals.permute(2, 0, 1)
        one, other = (
            torch.stack([axes[:, :, at] - towards[:, :, side] for at in self.triangles[side].unbind(dim=1)])
            for side in self.candidates.unbind(dim=1)
        )
        return (pierces(one, other) | pierces(other, one)).float()

    def _choose(self, smooth: Tensor) -> None:
        """Keep of the pairs those that cross in these faces (N, V, 3) and come apart as they go back, or forth."""
        found = torch.zeros(3, len(self.candidates))
        for part in smooth.split(4):
            normals = self._cosines(part)[0]
            found += torch.stack([self._crossing(part, normals, back).sum(dim=0) for back in (0.0, BACK, -BACK)])
        before, if_back, if_forth = found
        kept = before > torch.minimum(if_back, if_forth)
        self.side = torch.where(if_back <= if_forth, 1.0, -1.0)[kept]
        self.candidates = self.candidates[kept]

    def _cosines(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Unit normals of triangles (B, F, 3), and the cosines between those of neighbours (B, P)."""
        a, b, c = faces[:, self.triangles].unbind(dim=2)
        normals = nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=2, eps=1e-6)
        one, other = normals[:, self.neighbours].unbind(dim=2)
        return normals, (one * other).sum(dim=2)


def pierces(edges: Tensor, triangles: Tensor) -> Tensor:
    """Whether an edge of the first triangle passes through the second, corners (3, 3, …) by corner and axis: (…,)."""
    a, b, c = triangles
    normal = _cross(b - a, c - a)
    height = [_dot(corner - a, normal) for corner in edges]
    found = torch.zeros_like(height[0], dtype=torch.bool)
    for k in range(3):
        start, end = edges[k], edges[(k + 1) % 3]
        way, (p, q, r) = end - start, (corner - start for corner in triangles)
        turned = _cross(way, q)
        first, second, third = _dot(turned, p), -_dot(turned, r), _dot(_cross(way, p), r)
        above, below = torch.stack((first, second, third)).aminmax(dim=0)
        found |= (height[k] * height[(k + 1) % 3] < 0) & ((above > 0) | (below < 0))
    return found


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Of fields (3, …) with the axis first, where products run over long rows."""
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _close(mesh: Mesh, prone: Booleans) -> Integers:
    """Pairs (Q, 2) of triangles without a common corner, near each other in the mesh, one of them prone to cross."""
    corners = mesh.vertices[mesh.triangles]
    edge = float(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).mean())
    pairs = cKDTree(corners.mean(axis=1)).query_pairs(REACH * edge, output_type="ndarray").reshape(-1, 2)
    pairs = pairs[prone[pairs].any(axis=1)]
    shared = (mesh.triangles[pairs[:, 0], :, None] == mesh.triangles[pairs[:, 1], None, :]).any(axis=(1, 2))
    found: Integers = pairs[~shared].astype(np.int64)
    return found[np.lexsort(found.T[::-1])]
