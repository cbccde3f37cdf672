"""Spline convolution (SplineCNN, Fey et al., CVPR 2018) in plain torch, and the expression classifier made of it.

A spline convolution gathers from each neighbour j of a vertex i

    x'_i = 1/|N(i)| * sum_j sum_p B_p(u_ij) x_j W_p  +  x_i W_root + b

where u_ij in [0, 1]^3 says where j lies as seen from i, and B_p is a tensor product of open B-splines of degree 1
with `KERNEL` knots on each axis: of its KERNEL^3 = 125 products, the eight at the corners of u_ij's cell are not zero.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.arrays import Integers
from meshgan.geometry.hierarchy import Hierarchy, Level

KERNEL = 5  # knots on each of the three axes
TOGETHER = 4  # faces gathered at a time: more of them take longer each, as their sums leave the cache
WITHIN = 95  # per cent of the template's edges have pseudo-coordinates inside (0, 1)


def pseudo_coordinates(centres: Tensor, neighbours: Tensor, reach: float) -> Tensor:
    """Where `neighbours` (..., 3) lie as seen from `centres` (..., 3), both in mm: (..., 3) in [0, 1].

    0.5 is the centre itself; 0 and 1 lie `reach` mm away along an axis; what lies further is put on the border.
    """
    return (0.5 + (neighbours - centres) / (2.0 * reach)).clamp(0.0, 1.0)


def spline_basis(pseudo: Tensor) -> tuple[Tensor, Tensor]:
    """The eight products that are not zero at `pseudo` (..., 3): values (..., 8), which sum to 1, and their
    numbers (..., 8), where knot (a, b, c) has the number a + KERNEL b + KERNEL² c.
    """
    scaled = pseudo * (KERNEL - 1)
    cell = scaled.detach().floor().clamp(0, KERNEL - 2)
    above = scaled - cell
    sides = torch.stack((1.0 - above, above), dim=-1)  # (..., axis, side)
    corners = list(product((0, 1), repeat=3))
    values = [sides[..., 0, i] * sides[..., 1, j] * sides[..., 2, k] for i, j, k in corners]
    strides = torch.tensor([1, KERNEL, KERNEL**2], device=pseudo.device)
    offsets = torch.tensor(corners, device=pseudo.device) @ strides
    first = (cell.long() * strides).sum(-1, keepdim=True)
    return torch.stack(values, dim=-1), first + offsets


class SplineConv(nn.Module):
    """One spline convolution: `weight` (125, inputs, outputs), `root` (inputs, outputs), `bias` (outputs)."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(KERNEL**3, inputs, outputs))
        self.root = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # The basis sums to 1, so each output is a sum over `inputs` terms, not over 125 times as many.
        for parameter in (self.weight, self.root):
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator)

    def forward(self, values: Tensor, pseudo: Tensor, edges: Tensor, centres: Tensor) -> Tensor:
        """Features (B, V, inputs) to (B, T, outputs) at the vertices `centres` (T,).

        Edge e leads from vertex `edges[0, e]` to the centre numbered `edges[1, e]` (0 to T - 1), and `pseudo`
        (B, E, 3) says where its start lies as seen from there. A centre without edges keeps root and bias.
        """
        parts = zip(values.split(TOGETHER), pseudo.split(TOGETHER), strict=True)
        gathered = torch.cat([self._gather(some, places, edges, len(centres)) for some, places in parts])
        return gathered + values[:, centres] @ self.root + self.bias

    def _gather(self, values: Tensor, pseudo: Tensor, edges: Tensor, count: int) -> Tensor:
        """The mean over each centre's edges: x_j B_p is summed first, so that the weights enter in one product."""
        batch, inputs = len(values), values.shape[2]
        basis, knots = spline_basis(pseudo)
        degree = torch.bincount(edges[1], minlength=count).clamp(min=1)
        basis = basis / degree[edges[1], None]
        sample = torch.arange(batch, device=values.device)[:, None, None]
        cells = (sample * count + edges[1, :, None]) * KERNEL**3 + knots
        terms = basis[..., None] * values[:, edges[0], None, :]
        sums = terms.new_zeros(batch * count * KERNEL**3, inputs)
        sums = sums.index_add(0, cells.flatten(), terms.reshape(-1, inputs))
        return sums.view(batch, count, -1) @ self.weight.flatten(0, 1)


@dataclass(frozen=True)
class Stencil:
    """The directed edges (2, E) of one level that end in the vertices `centres` (T,), which survive its pooling.

    `edges[0]` counts in vertices of the level, `edges[1]` in centres; `reach` in mm scales the pseudo-coordinates.
    """

    edges: Integers
    centres: Integers
    reach: float


def stencil(level: Level) -> Stencil:
    """All edges of a level into its kept vertices; the others' features would be dropped by the pooling.

    `reach` comes from the template, one number for all faces, so that an edge's coordinates change only when the edge
    does. It is the 95th percentile of the edges' largest extent along an axis: with the maximum, the usual choice,
    one long edge would crowd all others into the middle of the kernel.
    """
    if level.kept is None:
        raise ValueError("the coarsest level has no pooling")
    both_ways = np.concatenate((level.mesh.edges, level.mesh.edges[:, ::-1])).T
    number = np.full(len(level.mesh.vertices), -1)
    number[level.kept] = np.arange(len(level.kept))
    start, end = both_ways[:, number[both_ways[1]] >= 0]
    reach = np.percentile(np.abs(level.mesh.vertices[start] - level.mesh.vertices[end]).max(axis=1), WITHIN)
    return Stencil(np.stack((start, number[end])), np.asarray(level.kept), float(reach))


class ExpressionClassifier(nn.Module):
    """The paper's network for expression recognition: (SConv → ELU → pooling) × 4 → FC → ELU.

    It sees a face (V, 3) in mm only through the pseudo-coordinates of its edges, on every level from the positions
    of the vertices that survive; the input feature is 1 everywhere, as in SplineCNN's own experiments on meshes.
    Pooling is the hierarchy's selection.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        classes: int = 6,
        widths: tuple[int, ...] = (16, 16, 16, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.vertices = len(hierarchy.levels[0].mesh.vertices)
        self.reaches = []
        for number, level in enumerate(hierarchy.levels[:-1]):
            part = stencil(level)
            self.register_buffer(f"edges{number}", torch.from_numpy(part.edges), persistent=False)
            self.register_buffer(f"centres{number}", torch.from_numpy(part.centres), persistent=False)
            self.reaches.append(part.reach)
        if len(widths) != len(self.reaches):
            raise ValueError(f"{len(widths)} widths for {len(self.reaches)} poolings")
        pairs = zip((1, *widths), widths, strict=False)
        self.convolutions = nn.ModuleList(SplineConv(inputs, outputs, generator) for inputs, outputs in pairs)
        features = len(hierarchy.levels[-1].mesh.vertices) * widths[-1]
        self.output = nn.utils.skip_init(nn.Linear, features, classes)
        for parameter in self.output.parameters():  # as PyTorch starts a linear layer
            nn.init.uniform_(parameter, -(features**-0.5), features**-0.5, generator)

    def forward(self, vertices: Tensor) -> Tensor:
        """Faces (B, V, 3) in mm to logits (B, classes)."""
        if vertices.ndim != 3 or vertices.shape[1:] != (self.vertices, 3):
            raise ValueError(f"expected faces (B, {self.vertices}, 3), got {tuple(vertices.shape)}.")
        values = torch.ones_like(vertices[..., :1])
        for number, (convolution, reach) in enumerate(zip(self.convolutions, self.reaches, strict=True)):
            edges, centres = self.get_buffer(f"edges{number}"), self.get_buffer(f"centres{number}")
            survivors = vertices[:, centres]
            pseudo = pseudo_coordinates(survivors[:, edges[1]], vertices[:, edges[0]], reach)
            values = nn.functional.elu(convolution(values, pseudo, edges, centres))
            vertices = survivors
        return nn.functional.elu(self.output(values.flatten(1)))
