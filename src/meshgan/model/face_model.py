"""FaceModel: a trained generator with the verbs sample, decode, encode, fit, save and load.

Arrays are decoded without PyTorch where they can be (`nn.generator`), which is imported when something needs it.
"""

import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meshgan.arrays import Codes, Faces, Singles
from meshgan.data.faceset import Normalisation
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.geometry.mesh import Mesh, same_triangles
from meshgan.model.latent import STEPS, Fit, check_weights
from meshgan.model.model_folder import (
    FAR_MM,
    ModelCard,
    ModelParts,
    find_model,
    read_model_folder,
    write_model_folder,
)
from meshgan.model.samplers import NUMBERS, Sampled, Samplers, chance, in_blocks
from meshgan.nn import paths
from meshgan.nn.generator import OF_TRAITS, Generator, weights_of
from meshgan.nn.plan import NetworkSpec
from meshgan.progress import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from meshgan.nn.networks import Decoder
    from meshgan.nn.patches import PatchDecoder

FARTHEST = 1e6  # number in a code: what is beyond soon makes faces of no numbers


class FaceModel(Sampled):
    """A generator of faces of one template. Arrays of faces are (B, V, 3) float32 in mm, codes (B, D) float32.

    Tensors go in where arrays do.
    """

    def __init__(self, parts: ModelParts) -> None:
        card = parts.card
        if parts.hierarchy is None or card.network is None:
            raise MeshganError(f"the model '{card.name}' has no networks.")
        self.card: ModelCard = card
        self.template: Mesh = parts.template
        self.hierarchy: Hierarchy = parts.hierarchy
        self.normalisation = read_normalisation(parts)
        self.samplers = Samplers.of(card, parts.tensors)
        self.spec: NetworkSpec = card.network
        self._parts = parts
        weights = weights_of("generator", parts.tensors)
        self._in_arrays = Generator.where_it_can(parts.hierarchy, card.network, weights)
        self._on_cpu = True
        if self._in_arrays is None or self.encodes:
            _ = self.decoder, self.encoder  # whose weights are checked then

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

    @cached_property
    def decoder(self) -> "Decoder | PatchDecoder":
        """The generator in PyTorch, for gradients and other devices; its weights are frozen."""
        from meshgan.nn.networks import filled
        from meshgan.nn.patches import decoder_of

        return filled(decoder_of(self.hierarchy, self.spec, _random()), weights_of("generator", self._parts.tensors))

    @cached_property
    def encoder(self) -> "nn.Module | None":
        """The encoder, where the model has one."""
        if not self.encodes:
            return None
        from meshgan.nn.networks import filled
        from meshgan.nn.patches import encoder_of

        weights = weights_of("encoder", self._parts.tensors)
        spec = replace(self.spec, linear="linear" in weights, detail=False, traits=0)  # BEGAN-CS: no map
        return filled(encoder_of(self.hierarchy, spec, _random()), weights)

    @property
    def has_linear_path(self) -> bool:
        """Whether a linear map runs beside the generator's convolutions."""
        return "generator/linear" in self._parts.tensors

    def without_convolutions(self) -> "FaceModel":
        """The same model with its generator's convolutions switched off: what they add can then be seen.

        Raises `UsageError` if nothing would be left, for want of a linear path.
        """
        if not self.has_linear_path:
            raise UsageError(f"the model '{self.card.name}' has no linear path; without convolutions it has nothing.")
        off = {
            name: np.zeros_like(value) if name.startswith("generator/last.") else value
            for name, value in self._parts.tensors.items()
        }
        card = self.card.model_copy(update={"name": f"{self.card.name}-conv-off", "files": {}})
        return FaceModel(replace(self._parts, card=card, tensors=off))

    def give(self, name: str, network: "nn.Module") -> None:
        """Give the weights of one of the model's networks, if it has one of that `name`, to another of its sizes.

        One that has traits beside keeps those that it has.
        """
        from meshgan.nn.networks import filled

        if weights := weights_of(name, self._parts.tensors):
            others = (
                {}
                if self.spec.traits
                else {
                    key: value.numpy() for key, value in network.state_dict().items() if key.split(".")[0] in OF_TRAITS
                }
            )
            filled(network, {**others, **weights}).requires_grad_(True)

    def save(self, folder: str | Path, replace: bool = False) -> None:
        """Write a model folder. Raises `UsageError` if it holds something already (see `write_model_folder`)."""
        write_model_folder(Path(folder), self._parts, replace)

    def to(self, device: "torch.device | str") -> "FaceModel":
        """Move the networks to a device, where `decode`, `encode` and `fit` then compute; returns the model itself.

        Raises `UsageError` for a device that PyTorch does not have here.
        """
        for network in (self.decoder, self.encoder):
            if network is not None:
                try:
                    network.to(device)
                except (RuntimeError, AssertionError, NotImplementedError) as error:
                    why = str(error).splitlines()[0]
                    raise UsageError(f"PyTorch has no device '{device}' here ({why}).") from error
        self._on_cpu = self.device.type == "cpu"
        return self

    @property
    def device(self) -> "torch.device":
        """Where the networks compute; arrays go in and come out on the CPU."""
        return next(self.decoder.parameters()).device

    @property
    def mean_face(self) -> Faces:
        """The mean (V, 3) of the faces that the model was trained on."""
        return self.normalisation.mean

    @property
    def encodes(self) -> bool:
        """Whether the model has an encoder: `encode` then takes one pass, and is not as near as `fit`."""
        return any(name.startswith("encoder/") for name in self._parts.tensors)

    @overload
    def decode(self, codes: "Tensor", same_bits: bool = True, numbers: ArrayLike | None = None) -> "Tensor": ...
    @overload
    def decode(self, codes: ArrayLike, same_bits: bool = True, numbers: ArrayLike | None = None) -> Faces: ...
    def decode(
        self, codes: "ArrayLike | Tensor", same_bits: bool = True, numbers: ArrayLike | None = None
    ) -> "Faces | Tensor":
        """The faces (B, V, 3) of codes (B, D). A tensor gives a tensor on the model's device; gradients flow through.

        Where the generator has chance of its own, a face's details follow from its whole number of `numbers` (B,);
        without them, every face has the mean of all details that its code can have. Blocks are padded to one size,
        so that a face has the same bits whatever it is decoded with. Without `same_bits` they are not, and a single
        face takes a thirtieth of the time.
        """
        inputs = [check_codes(codes, self.code_size)]
        generator = self._in_arrays if self._on_cpu and paths.in_arrays() else None
        noise_size = (generator or self.decoder).noise_size
        if numbers is not None and noise_size:
            inputs.append(chance(check_numbers(numbers, len(inputs[0])), noise_size))
        if is_tensor(codes):
            return self._decoded(codes, *inputs[1:])
        if generator is None:
            from meshgan.nn.networks import on_arrays
        function = generator or on_arrays(self.decoder)
        return self.normalisation.undo(in_blocks(function, *inputs) if same_bits else function(*inputs))

    def _decoded(self, codes: "Tensor", *noise: Singles) -> "Tensor":
        import torch

        given = (self.normalisation.mean, self.normalisation.std, *noise)
        mean, std, *chances = (torch.from_numpy(values).to(self.device) for values in given)
        return mean + std * self.decoder(codes.to(self.device, torch.float32), *chances)

    @overload
    def encode(self, vertices: "Tensor") -> "Tensor": ...
    @overload
    def encode(self, vertices: ArrayLike) -> Codes: ...
    def encode(self, vertices: "ArrayLike | Tensor") -> "Codes | Tensor":
        """The codes (B, D) of faces (B, V, 3): by the encoder where the model has one, else by Eq. 2 (`fit`).

        A tensor gives a tensor on the model's device.
        """
        if is_tensor(vertices):
            import torch

            return torch.from_numpy(self.encode(check_faces(vertices, self.template))).to(self.device)
        if self.encoder is None:
            return self.fit(vertices).codes
        from meshgan.nn.networks import on_arrays

        return in_blocks(on_arrays(self.encoder), self.normalisation.apply(check_faces(vertices, self.template)))

    def fit(self, vertices: "ArrayLike | Tensor", weights: ArrayLike | None = None, steps: int = STEPS) -> Fit:
        """The codes whose faces are nearest to `vertices` (B, V, 3) in mm (Eq. 2), all at once.

        `weights` (V,) says how much each vertex counts: zero leaves it out, so that a part of a face or landmarks
        alone can be fitted. The faces must be aligned as the template is. `steps` of Adam are taken.
        """
        from meshgan.model.inversion import EXAMPLES, fit_codes

        targets, shares = check_faces(vertices, self.template), check_weights(weights, self.template)
        whole = self.encodes and bool((shares == shares[0]).all())
        start = self.encode(targets) if whole else None
        examples = self.samplers.draw(EXAMPLES, 0, "fitted-normal" if self.samplers.mean is not None else None)
        codes = fit_codes(self.decoder, self.normalisation, targets, shares, examples, steps, start)
        return Fit.of(codes, self.decode(codes), targets, shares)

    def fitting(self, steps: int = STEPS) -> str:
        """How `fit` solves Eq. 2, in a few words."""
        return f"Adam, {steps} steps"

    def network(self) -> "nn.Module":
        """The generator as one module, from codes (B, D) to faces (B, V, 3) in mm."""
        from meshgan.nn.networks import InMillimetres

        return InMillimetres(self.decoder, self.normalisation.mean, self.normalisation.std)


def _random() -> "torch.Generator":
    """Of weights that are overwritten: nothing is drawn from the caller's."""
    import torch

    return torch.Generator()


def is_tensor(values: object) -> "TypeGuard[Tensor]":
    """Whether these are a tensor of PyTorch's, which is not imported to find out."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(values, kind)


def read_normalisation(parts: ModelParts) -> Normalisation:
    """The normalisation of a model folder. Raises `MeshganError` if it is missing or of another template."""
    shape = parts.template.vertices.shape
    mean, std = (parts.tensors.get(f"normalisation/{name}") for name in ("mean", "std"))
    if mean is None or std is None or mean.shape != shape or std.shape != shape:
        raise MeshganError("weights.safetensors does not fit the template; get the model again.")
    far = max(float(np.abs(mean).max()), float(std.max())) > FAR_MM
    if (std <= 0).any() or far:
        raise MeshganError("weights.safetensors holds sizes that no face has; get the model again.")
    return Normalisation(mean.astype(np.float32), std.astype(np.float32))


def check_codes(codes: "ArrayLike | Tensor", size: int) -> Codes:
    """Codes (B, size) as float32, in memory. Raises `UsageError` for another shape."""
    values = _numbers(codes, "codes")
    if values.ndim != 2 or values.shape[1] != size or not np.isfinite(values).all():
        raise UsageError(f"codes must be finite numbers of shape (B, {size}), not {values.shape}.")
    if values.size and (most := float(np.abs(values).max())) > FARTHEST:
        raise UsageError(f"a code has the number {most:.1g}; those of faces are a few units from 0.")
    return values


def check_numbers(numbers: ArrayLike, count: int) -> NDArray[np.integer[Any]]:
    """Whole numbers (count,) that details of chance follow from. Raises `UsageError` for others."""
    values = np.asarray(numbers)
    whole = values.dtype.kind in "iu" or not values.size
    if values.shape != (count,) or not whole or (values < 0).any() or (values >= NUMBERS).any():
        raise UsageError(f"the faces' numbers must be {count} whole ones from 0 to 2^62 - 1.")
    return values


def _numbers(values: "ArrayLike | Tensor", what: str) -> Singles:
    """An array, tensor or nested list as float32, in memory. Raises `UsageError` for what is no array of numbers."""
    try:
        return np.asarray(values.numpy(force=True) if is_tensor(values) else values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{what} must be an array of numbers ({error}).") from error


def check_faces(vertices: "ArrayLike | Tensor", template: Mesh) -> Faces:
    """Faces (B, V, 3) as float32, in memory. Raises `UsageError` for another shape."""
    values = _numbers(vertices, "faces")
    if values.ndim != 3 or values.shape[1:] != template.vertices.shape or not np.isfinite(values).all():
        raise UsageError(f"faces must be finite and of shape (B, {len(template.vertices)}, 3), not {values.shape}.")
    return values


def check_connectivity(mesh: Mesh, template: Mesh, source: str) -> None:
    """Raise `UsageError` unless `mesh` is made of the template's triangles, in whatever order."""
    if not same_triangles(mesh, template):
        raise UsageError(
            f"{source} is not of the model's template ({counted(len(mesh.vertices), 'vertex', 'vertices')} and other "
            f"triangles, the template has {len(template.vertices):,}); register it first."
        )
