"""What judges details, the small part of faces that a linear map leaves: a critic of patches, energies by wavelength.

Details are fields (B, V, 3) in network units, of faces of one template, with vertices in its order.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from meshgan.arrays import Singles
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.laplacian import BandFilter
from meshgan.geometry.mesh import Mesh
from meshgan.nn.networks import dense, narrowing
from meshgan.nn.plan import COORDINATES, NetworkSpec, ordered_levels
from meshgan.nn.sampling import Reordering, SparseOperator

FLOOR = 1e-3  # of the mean deviation: where real faces never differ, what is seen stays finite
LONGEST = 9  # harmonics in the first band
BANDS = 10  # of harmonics
MOMENTS = 5  # of what the harmonics leave
BLOCK = 64  # faces measured at a time


class PatchCritic(nn.Module):
    """Whether patches of faces are real: faces and their details (B, V, 3) to logits (B, P), for all coarser levels.

    It sees a face, its details, and these once more in differential coordinates A⁻¹W v, where what is small is large;
    the last two relative to their deviations in real faces. There is a logit for each vertex of each level that the
    convolutions lead to; it depends on the patch that they have seen so far.
    """

    deviations: Tensor  # (2, V, 3) of real details, and of their differential coordinates

    def __init__(
        self, hierarchy: Hierarchy, spec: NetworkSpec | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        spec = spec or NetworkSpec()
        levels = ordered_levels(hierarchy, spec)
        self.order = Reordering(levels[0].order)
        self.laplacian = SparseOperator(levels[0].laplacian)
        self.layers = narrowing(levels, 3 * COORDINATES, spec, generator)
        self.spectrum: Spectrum | None = None
        self.heads = nn.ModuleList(dense(width, 1, generator) for width in spec.widths)
        self.register_buffer("deviations", torch.ones(2, self.laplacian.shape[0], COORDINATES))

    def forward(self, faces: Tensor, details: Tensor) -> Tensor:
        values = self.order.inwards(torch.cat([faces, *self.seen(details)], dim=-1))
        logits = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            values = layer(values)
            logits.append(head(values).squeeze(-1))
        return torch.cat(logits, dim=1)

    def seen(self, details: Tensor) -> tuple[Tensor, Tensor]:
        """Details (B, V, 3) and their differential coordinates, each relative to its deviation in real faces."""
        return details / self.deviations[0], self.bent(details) / self.deviations[1]

    def bent(self, details: Tensor) -> Tensor:
        """Differential coordinates A⁻¹W v of details (B, V, 3), times 2 / λ_n."""
        inside = self.order.inwards(details).transpose(0, 1)
        return self.order.outwards((inside + self.laplacian(inside)).transpose(0, 1))

    @torch.no_grad()
    def measure(self, details: Tensor, spectrum: "Spectrum") -> None:
        """Take deviations and energies from details (N, V, 3) of real faces."""
        spectrum.measure(details)
        self.spectrum = spectrum
        bent = torch.cat([self.bent(part) for part in details.split(BLOCK)])
        for place, values in zip(self.deviations, (details, bent), strict=True):
            place.copy_(values.square().mean(dim=0).sqrt())
            place.clamp_min_(FLOOR * place.square().mean().sqrt())


class Spectrum(nn.Module):
    """How strong details are by wavelength, (B, V, 3) → (E,), each relative to real faces'; differentiable.

    The longest manifold harmonics of the template are gathered in bands, each a fixed ratio wide. Of what they leave,
    r, the moments ⟨r, Sᵐ r⟩ are taken, where S = A^-½ W A^-½, scaled to eigenvalues in [0, 2]: the higher m, the more
    do the shortest waves count. `scale` (V, 3) are mm per network unit.
    """

    harmonics: Tensor  # (K, V), orthonormal
    scale: Tensor  # (V, 3) from network units to mm times roots of areas
    real: Tensor  # (E,)

    def __init__(self, mesh: Mesh, scale: Singles) -> None:
        super().__init__()
        bands = BandFilter.of(mesh)
        inverse = np.argsort(bands.order)
        self.register_buffer("harmonics", torch.from_numpy(np.ascontiguousarray(bands.harmonics[:, inverse])))
        self.register_buffer("scale", torch.from_numpy(scale * bands.roots[inverse, None]))
        count = len(bands.harmonics)
        ends = np.unique(np.geomspace(min(LONGEST, count), count, BANDS).round().astype(int)).tolist()
        self.sizes = np.diff([0, *ends]).tolist()
        self.operator = None
        if bands.matrix is not None:
            scaled = sp.eye_array(len(inverse)) - bands.matrix / 2
            self.operator = SparseOperator(sp.csr_array(scaled.tocsr()[inverse][:, inverse]))
        self.register_buffer("real", torch.ones(len(self.sizes) + (MOMENTS if self.operator else 0)))

    def forward(self, details: Tensor) -> Tensor:
        columns = (details * self.scale).transpose(0, 1).flatten(1)
        codes = self.harmonics @ columns
        energies = [band.square().sum() for band in codes.split(self.sizes)]
        if self.operator is not None:
            waves = [columns - self.harmonics.T @ codes]
            for power in range(MOMENTS):
                if power % 2:
                    waves.append(self.operator(waves[-1]))
                energies.append((waves[power // 2] * waves[(power + 1) // 2]).sum())
        return torch.stack(energies) / len(details) / self.real

    @torch.no_grad()
    def measure(self, details: Tensor) -> None:
        """Take what is relative to real faces from their details (N, V, 3)."""
        self.real.fill_(1.0)
        parts = [self(part) * len(part) for part in details.split(BLOCK)]
        self.real.copy_(torch.stack(parts).sum(dim=0) / len(details))
