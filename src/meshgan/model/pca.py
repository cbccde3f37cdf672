"""PCA: the linear face model (Blanz and Vetter 1999), with the same verbs as `FaceModel`."""

from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Codes, Faces, Integers
from meshgan.data.faceset import FaceSet
from meshgan.data.principal import principal_components
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.mesh import Mesh
from meshgan.model.face_model import check_codes, check_faces, is_tensor
from meshgan.model.latent import STEPS, Fit, check_weights
from meshgan.model.model_folder import (
    FAR_MM,
    ModelCard,
    ModelParts,
    Origin,
    Tensors,
    find_model,
    read_model_folder,
    write_model_folder,
)
from meshgan.model.samplers import Bootstrap, Distribution, Sampled, Samplers, fit_mixture

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

COMPONENTS = 64  # the latent size of the paper's networks
PRIOR = 1e-4  # mm² for each unit of |z|²/K: decides only what the given vertices leave open


class PcaModel(Sampled):
    """Faces = mean + Σ zₖ √λₖ axisₖ. Codes (B, K) count standard deviations: N(0, I) on them is N(0, Λ) on the axes."""

    def __init__(self, parts: ModelParts) -> None:
        if parts.card.kind != "pca":
            raise UsageError(f"the model '{parts.card.name}' is of kind '{parts.card.kind}', not 'pca'.")
        self.card: ModelCard = parts.card
        self.template: Mesh = parts.template
        self.samplers = Samplers.of(parts.card, parts.tensors)
        shape = self.template.vertices.shape
        mean, basis = (parts.tensors.get(f"pca/{name}") for name in ("mean", "basis"))
        if mean is None or basis is None or mean.shape != shape or basis.shape != (self.card.code, *shape):
            raise MeshganError("weights.safetensors does not fit model.json; get the model again.")
        if max(float(np.abs(mean).max()), float(np.abs(basis).max())) > FAR_MM:
            raise MeshganError("weights.safetensors holds sizes that no face has; get the model again.")
        self.mean: Faces = mean.astype(np.float32)
        self.basis: Faces = basis.astype(np.float32)  # (K, V, 3): the axes times their standard deviations, in mm
        self._parts = parts

    @classmethod
    def load(cls, where: str | Path) -> "PcaModel":
        """Load from a model folder. Raises `UsageError` if it is none, `MeshganError` if a file is damaged."""
        path = find_model(where)
        parts = read_model_folder(path)
        try:
            return cls(parts)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except MeshganError as error:
            raise MeshganError(f"{path} is damaged: {error}") from error

    def save(self, folder: str | Path, replace: bool = False) -> None:
        """Write a model folder. Raises `UsageError` if it holds something already (see `write_model_folder`)."""
        write_model_folder(Path(folder), self._parts, replace)

    @property
    def tensors(self) -> Tensors:
        """What the model folder holds."""
        return self._parts.tensors

    @property
    def device(self) -> "torch.device":
        """The CPU."""
        import torch

        return torch.device("cpu")

    @property
    def mean_face(self) -> Faces:
        """The mean (V, 3) of the faces that the model was made from."""
        return self.mean

    @property
    def encodes(self) -> bool:
        """No: projecting is fitting."""
        return False

    @overload
    def decode(self, codes: "Tensor", same_bits: bool = True, numbers: ArrayLike | None = None) -> "Tensor": ...
    @overload
    def decode(self, codes: ArrayLike, same_bits: bool = True, numbers: ArrayLike | None = None) -> Faces: ...
    def decode(
        self, codes: "ArrayLike | Tensor", same_bits: bool = True, numbers: ArrayLike | None = None
    ) -> "Faces | Tensor":
        """The faces (B, V, 3) of codes (B, K), a tensor of a tensor; the other arguments are for other models."""
        values = check_codes(codes, self.code_size)
        if is_tensor(codes):
            import torch

            mean, basis = (torch.from_numpy(part).to(codes.device) for part in (self.mean, self.basis))
            return mean + torch.einsum("bk,kvc->bvc", codes.float(), basis)
        return self.mean + (values @ self.basis.reshape(len(self.basis), -1)).reshape(len(values), *self.mean.shape)

    @overload
    def encode(self, vertices: "Tensor") -> "Tensor": ...
    @overload
    def encode(self, vertices: ArrayLike) -> Codes: ...
    def encode(self, vertices: "ArrayLike | Tensor") -> "Codes | Tensor":
        """The codes (B, K) of faces (B, V, 3), a tensor of a tensor: the orthogonal projection."""
        codes = self.fit(vertices).codes
        if not is_tensor(vertices):
            return codes
        import torch

        return torch.from_numpy(codes).to(vertices.device)

    def fit(self, vertices: "ArrayLike | Tensor", weights: ArrayLike | None = None, steps: int = STEPS) -> Fit:
        """The codes whose faces are nearest to `vertices` (B, V, 3) in the least-squares sense, in closed form.

        `weights` (V,) says how much each vertex counts. What they leave open stays near the mean.
        `steps` are for other models.
        """
        targets, shares = check_faces(vertices, self.template), check_weights(weights, self.template)
        root = np.sqrt(shares / shares.sum(), dtype=np.float64)[:, None]
        basis = (self.basis * root).reshape(len(self.basis), -1)
        wanted = ((targets - self.mean) * root).reshape(len(targets), self.mean.size)
        normal = basis @ basis.T + PRIOR / len(basis) * np.eye(len(basis))
        codes = np.linalg.solve(normal, basis @ wanted.T).T.astype(np.float32)
        return Fit.of(codes, self.decode(codes), targets, shares)

    def fitting(self, steps: int = STEPS) -> str:
        """How `fit` solves Eq. 2, in a few words."""
        return "least squares"

    def network(self) -> "nn.Module":
        """The model as a module, from codes (B, D) to faces (B, V, 3) in mm."""
        import torch
        from torch import nn

        layer = nn.utils.skip_init(nn.Linear, self.code_size, self.mean.size)
        layer.weight.data = torch.from_numpy(self.basis.reshape(self.code_size, -1).T.copy())
        layer.bias.data = torch.from_numpy(self.mean.reshape(-1).copy())
        return nn.Sequential(layer, nn.Unflatten(1, (-1, 3))).requires_grad_(False)


def fit_pca(
    faces: FaceSet, components: int = COMPONENTS, seed: int = 0, name: str = "pca", recipe: str = ""
) -> PcaModel:
    """The PCA model of the training part of a FaceSet, with no more components than its faces have.

    `recipe` (TOML) is what its card says that it was made by.
    """
    rows = faces.split.train
    found = principal_components(faces.vertices, rows, components, seed)
    size = len(found.axes)
    basis = found.axes * np.sqrt(found.variances).astype(np.float32)[:, None, None]
    card = ModelCard(
        kind="pca",
        name=name,
        code=size,
        sampler="fitted-normal",
        origin=Origin(
            recipe=recipe or f'name = "pca"\ncomponents = {size}\n',
            data=faces.card.name,
            source=faces.card.source,
            licence=faces.card.licence,
            synthetic=faces.card.synthetic,
            faces_seen=len(rows),
            seed=seed,
        ),
        template=faces.template.content_hash,
    )
    tensors = {
        "pca/mean": found.mean,
        "pca/basis": basis,
        "sampler/mean": np.zeros(size, np.float32),
        "sampler/covariance": np.eye(size, dtype=np.float32),
    }
    return PcaModel(ModelParts(card, faces.template, None, tensors))


def fit_coordinates(
    faces: FaceSet,
    kind: str,
    seen: int = 0,
    components: int = COMPONENTS,
    seed: int = 0,
    name: str = "",
    recipe: str = "",
) -> PcaModel:
    """Principal components with a distribution of coordinates: "normal", "mixture", "bootstrap" or "flow".

    What there is to choose about it is chosen on the validation part. A flow sees `seen` faces in training.
    """
    linear = fit_pca(faces, components, seed, name or f"pca-{kind}", recipe)
    if kind == "normal":
        return linear
    train, unseen = (_codes_of(linear, faces, rows) for rows in (faces.split.train, faces.split.validation))
    distribution: Distribution
    if kind == "mixture":
        distribution = fit_mixture(train, unseen, seed=seed)
    elif kind == "flow":
        from meshgan.model.flow import fit_flow

        distribution = fit_flow(train, unseen, seen or len(train), seed)
    else:
        distribution = Bootstrap(train)
    looked = seen if kind == "flow" and seen else len(train)
    origin = linear.card.origin.model_copy(update={"faces_seen": looked})
    card = linear.card.model_copy(update={"sampler": kind, "origin": origin})
    tensors = {name: value for name, value in linear.tensors.items() if name.startswith("pca/")}
    return PcaModel(ModelParts(card, faces.template, None, {**tensors, **distribution.tensors}))


def _codes_of(model: PcaModel, faces: FaceSet, rows: Integers) -> Codes:
    parts = [model.encode(faces.vertices[block]) for block in np.array_split(rows, len(rows) // 256 + 1) if len(block)]
    return np.concatenate([np.zeros((0, model.code_size), np.float32), *parts])
