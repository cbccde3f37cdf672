"""FaceModel: a trained generator with the verbs sample, decode, encode, fit, save and load."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from meshgan.arrays import Codes, Faces
from meshgan.data.faceset import Normalisation
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh
from meshgan.model.blocks import filled, in_blocks
from meshgan.model.latent import EXAMPLES, STEPS, Fit, check_weights, fit_codes
from meshgan.model.model_folder import ModelCard, ModelParts, Sampler, read_model_folder, write_model_folder
from meshgan.model.samplers import Samplers
from meshgan.nn.networks import Decoder, Encoder

SHIPPED = Path(__file__).parent / "shipped"


class FaceModel:
    """A generator of faces of one template. Arrays of faces are (B, V, 3) float32 in mm, codes (B, D) float32."""

    def __init__(self, parts: ModelParts) -> None:
        card = parts.card
        if parts.hierarchy is None or card.network is None:
            raise MeshganError(f"the model '{card.name}' has no networks.")
        self.card: ModelCard = card
        self.template: Mesh = parts.template
        self.hierarchy: Hierarchy = parts.hierarchy
        self.normalisation = read_normalisation(parts)
        self.samplers = Samplers.of(card, parts.tensors)
        self.decoder = filled(Decoder(parts.hierarchy, card.network), "generator", parts.tensors)
        of_encoder = replace(card.network, linear="encoder/linear" in parts.tensors)  # BEGAN-CS: in the decoder only
        self.encoder = (
            filled(Encoder(parts.hierarchy, of_encoder), "encoder", parts.tensors)
            if any(name.startswith("encoder/") for name in parts.tensors)
            else None
        )
        self._parts = parts

    @classmethod
    def load(cls, where: str | Path) -> "FaceModel":
        """Load from a model folder, a run folder, or by the name of a model that ships with the package.

        Raises `UsageError` if there is none, `MeshganError` that names the file if one is damaged or was changed.
        """
        path = find_model(where)
        parts = read_model_folder(path)
        if parts.card.kind != "network":
            raise UsageError(f"{path} is a model of kind '{parts.card.kind}'; load it with load_model.")
        try:
            return cls(parts)
        except MeshganError as error:
            raise MeshganError(f"{path} is damaged: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write a model folder. Raises `MeshganError` if it holds something already."""
        write_model_folder(Path(folder), self._parts)

    @property
    def code_size(self) -> int:
        """D, the length of a code."""
        return self.card.code

    def codes(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Codes:
        """Draw codes (count, D); `sampler` is "uniform", "standard-normal" or "fitted-normal", else the model's own."""
        return self.samplers.draw(count, seed, sampler)

    def sample(self, count: int, seed: int = 0, sampler: Sampler | None = None) -> Faces:
        """Draw faces (count, V, 3). The same seed gives the same faces, bit by bit on one machine."""
        return self.decode(self.codes(count, seed, sampler))

    def decode(self, codes: ArrayLike) -> Faces:
        """The faces (B, V, 3) of codes (B, D)."""
        return self.normalisation.undo(in_blocks(self.decoder, check_codes(codes, self.code_size)))

    def encode(self, vertices: ArrayLike) -> Codes:
        """The codes (B, D) of faces (B, V, 3), for models that were trained with an encoder."""
        if self.encoder is None:
            raise UsageError(f"the model '{self.card.name}' has no encoder; use fit.")
        return in_blocks(self.encoder, self.normalisation.apply(check_faces(vertices, self.template)))

    def fit(self, vertices: ArrayLike, weights: ArrayLike | None = None, steps: int = STEPS) -> Fit:
        """The codes whose faces are nearest to `vertices` (B, V, 3) in mm (Eq. 2), all at once.

        `weights` (V,) says how much each vertex counts: zero leaves it out, so that a part of a face or landmarks
        alone can be fitted. The faces must be aligned as the template is.
        """
        targets, shares = check_faces(vertices, self.template), check_weights(weights, len(self.template.vertices))
        whole = self.encoder is not None and bool((shares == shares[0]).all())
        start = self.encode(targets) if whole else None
        examples = self.samplers.draw(EXAMPLES, 0, "fitted-normal" if self.samplers.mean is not None else None)
        codes = fit_codes(self.decoder, self.normalisation, targets, shares, examples, steps, start)
        return Fit.of(codes, self.decode(codes), targets, shares)


def find_model(where: str | Path) -> Path:
    """The model folder that a path (model folder or run folder) or the name of a shipped model means."""
    path = Path(where)
    for folder in (path, path / "model", SHIPPED / str(where)):
        if (folder / "model.json").is_file():
            return folder
    if (path / "recipe.toml").is_file():
        raise UsageError(f"{path} is a run that has not finished; go on with `meshgan train … --resume` first.")
    names = ", ".join(sorted(folder.name for folder in SHIPPED.glob("*") if (folder / "model.json").is_file()))
    raise UsageError(f"{where} is no model folder, no run folder and no model that ships ({names or 'none does'}).")


def read_normalisation(parts: ModelParts) -> Normalisation:
    """The normalisation of a model folder. Raises `MeshganError` if it is missing or of another template."""
    shape = parts.template.vertices.shape
    mean, std = (parts.tensors.get(f"normalisation/{name}") for name in ("mean", "std"))
    if mean is None or std is None or mean.shape != shape or std.shape != shape or bool((std <= 0).any()):
        raise MeshganError("weights.safetensors does not fit the template; get the model again.")
    return Normalisation(mean.numpy(), std.numpy())


def check_codes(codes: ArrayLike, size: int) -> Codes:
    """Codes (B, size) as float32. Raises `UsageError` for another shape."""
    values = np.asarray(codes, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != size or not np.isfinite(values).all():
        raise UsageError(f"codes must be finite numbers of shape (B, {size}), not {values.shape}.")
    return values


def check_faces(vertices: ArrayLike, template: Mesh) -> Faces:
    """Faces (B, V, 3) as float32. Raises `UsageError` for another shape."""
    values = np.asarray(vertices, dtype=np.float32)
    if values.shape != (len(values), *template.vertices.shape) or not np.isfinite(values).all():
        raise UsageError(f"faces must be finite and of shape (B, {len(template.vertices)}, 3), not {values.shape}.")
    return values


def check_connectivity(mesh: Mesh, template: Mesh, source: str) -> None:
    """Raise `UsageError` unless `mesh` is made of the template's triangles."""
    if mesh.vertices.shape != template.vertices.shape or not np.array_equal(mesh.triangles, template.triangles):
        raise UsageError(
            f"{source} is not of the model's template ({len(mesh.vertices)} vertices and other triangles, "
            f"the template has {len(template.vertices)}); register it first."
        )
