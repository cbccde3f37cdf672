"""An auto-encoder without convolutions: patches of the mesh are tokens, and perceptrons mix them.

In the manner of LAMM (Tarasiou et al. 2024), one of whose backbones is the MLP-Mixer of Tolstikhin et al. 2021: each
patch has linear maps of its own, from its vertices to a token and back, and blocks let tokens see each other. Here a
patch is what lies around one vertex of the coarsest level, and the code is a dense layer of all tokens, as in the
networks of convolutions. What LAMM has besides, control vertices that overwrite a face, is left out.
"""

import numpy as np
import torch
from torch import Tensor, nn

from meshgan.arrays import Integers
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.chebyshev import glorot
from meshgan.nn.networks import Decoder, Encoder, dense, perceptron
from meshgan.nn.plan import COORDINATES, NetworkSpec, check_sizes, coarsest_size

WIDER = 2  # times the tokens and the channels, in the middle of a block's perceptrons


def patches(hierarchy: Hierarchy) -> Integers:
    """To which vertex of the coarsest level each vertex (V,) of the finest belongs.

    From level to level, each goes to the one that it is interpolated from the most.
    """
    patch = np.arange(hierarchy.levels[0].laplacian.shape[0])
    for level in hierarchy.levels[:-1]:
        assert level.up is not None
        patch = np.asarray(level.up.argmax(axis=1)).ravel()[patch]
    return patch


class _Patches(nn.Module):
    """What both halves share: which vertices lie in which patch, their maps to or from tokens, and the blocks."""

    order: Tensor  # (V,) vertices, patch by patch

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        tokens, width = hierarchy.levels[-1].laplacian.shape[0], spec.widths[-1]
        patch = patches(hierarchy)
        blocks = spec.mixing * 2 * WIDER * (tokens**2 + width**2)
        check_sizes(hierarchy, spec, len(patch) * COORDINATES * width + spec.code * tokens * width + blocks)
        self.spec = spec
        self.sizes = np.bincount(patch, minlength=tokens).tolist()  # vertices in each patch
        self.register_buffer("order", torch.from_numpy(np.argsort(patch, kind="stable")), persistent=False)
        self.maps = nn.Parameter(torch.empty(len(patch) * COORDINATES, width))  # rows in that order
        for part in self.of_patches():
            glorot(part, len(part), width, generator)
        mixing = (_Block(tokens, width, generator) for _ in range(spec.mixing))
        self.blocks = nn.Sequential(*mixing, nn.LayerNorm(width))

    def of_patches(self) -> tuple[Tensor, ...]:
        """The map (3 · vertices, width) of each patch."""
        return self.maps.split([COORDINATES * size for size in self.sizes])


class PatchEncoder(_Patches):
    """Vertices (B, V, 3), normalised, to codes (B, code)."""

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None = None) -> None:
        super().__init__(hierarchy, spec, generator)
        self.bias = nn.Parameter(torch.zeros(len(self.sizes), spec.widths[-1]))
        self.dense = dense(coarsest_size(hierarchy, spec), spec.code, generator)

    def forward(self, vertices: Tensor) -> Tensor:
        parts = vertices[:, self.order].split(self.sizes, dim=1)
        tokens = [part.flatten(1) @ matrix for part, matrix in zip(parts, self.of_patches(), strict=True)]
        code: Tensor = self.dense(self.blocks(torch.stack(tokens, dim=1) + self.bias).flatten(1))
        return torch.relu(code) if self.spec.code_activation == "relu" else code


class PatchDecoder(_Patches):
    """Codes (B, code) to vertices (B, V, 3), normalised."""

    noise_size = 0  # it has no chance of its own
    place: Tensor  # (V,) of each vertex in `order`

    def __init__(self, hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None = None) -> None:
        super().__init__(hierarchy, spec, generator)
        self.register_buffer("place", self.order.argsort(), persistent=False)
        self.dense = dense(spec.code, coarsest_size(hierarchy, spec), generator)
        self.bias = nn.Parameter(torch.zeros(len(self.order), COORDINATES))

    def forward(self, code: Tensor) -> Tensor:
        tokens = self.blocks(self.dense(code).unflatten(1, (len(self.sizes), -1))).unbind(1)
        parts = [token @ matrix.T for token, matrix in zip(tokens, self.of_patches(), strict=True)]
        return torch.cat(parts, dim=1).unflatten(1, (-1, COORDINATES))[:, self.place] + self.bias


class _Block(nn.Module):
    """Tokens (B, P, width) see each other, channel by channel; then each token's channels do."""

    def __init__(self, tokens: int, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.across = perceptron((tokens, WIDER * tokens, tokens), generator)
        self.between = nn.LayerNorm(width)
        self.within = perceptron((width, WIDER * width, width), generator)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.across(self.before(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.within(self.between(tokens))
        return mixed


def encoder_of(hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None = None) -> nn.Module:
    """The encoder of these sizes: vertices (B, V, 3) to codes (B, code)."""
    return (PatchEncoder if spec.mixing else Encoder)(hierarchy, spec, generator)


def decoder_of(
    hierarchy: Hierarchy, spec: NetworkSpec, generator: torch.Generator | None = None
) -> Decoder | PatchDecoder:
    """The decoder of these sizes: codes (B, code) to vertices (B, V, 3)."""
    return (PatchDecoder if spec.mixing else Decoder)(hierarchy, spec, generator)
