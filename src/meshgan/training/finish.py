"""From the state of a finished run to a model: averaged weights, moments, normalisation, fitted sampler.

A judge holds the mapping network to the distribution of faces, and leaves means and deviations a little off. What is
left over in them is linear, and known: of all affine maps that mend it, the one that moves faces least, the optimal
transport between two Gaussians, is appended to the mapping network (`match_moments`). N(μ, Σ) does the same for an
auto-encoder's codes.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meshgan.arrays import Floats, Integers
from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.classifier import Classifier, ClassifierCard
from meshgan.model.directions import Axes
from meshgan.model.face_model import FaceModel
from meshgan.model.inversion import EXAMPLES, first_guess, invert
from meshgan.model.model_folder import ModelCard, ModelParts, Origin
from meshgan.model.samplers import fit_mixture_to
from meshgan.nn.networks import Decoder, MappingNetwork
from meshgan.nn.spline import ExpressionClassifier
from meshgan.training.classification import Classification
from meshgan.training.recipe import Recipe, recipe_toml
from meshgan.training.state import GUESS, MOMENTS, State, fixed_codes
from meshgan.training.watch import diversity

COMPARED = 64  # samples whose spread is compared with that of as many real faces
EXPLODED = 5.0  # times as far apart as real faces: N(0, I) makes CoMA's twice as far
DRAWN = 100_000  # codes: deviations are then known to 0.2 %, 1 / √(2 · DRAWN)
SEEN = 20_000  # training faces, at most
FLOOR = 1e-6  # added to variances, which are about 1/3: where neither side varies, nothing is stretched


def finish(
    path: Path, recipe: Recipe, state: State, hierarchy: Hierarchy, faces: FaceSet, seen: int, seed: int
) -> FaceModel | Classifier:
    """Make the model of a run, check it, and save it as a model folder; one that is there already is replaced.

    Raises `MeshganError` if its samples are no faces: whatever is called finished can be loaded and sampled.
    """
    origin = Origin(
        recipe=recipe_toml(recipe), data=faces.card.name, source=faces.card.source, licence=faces.card.licence,
        synthetic=faces.card.synthetic, faces_seen=seen, seed=seed,
    )  # fmt: skip
    if isinstance(recipe.objective, Classification):
        network = state.best("classifier")
        assert isinstance(network, ExpressionClassifier)
        card = ClassifierCard(classes=recipe.objective.classes, origin=origin)
        Classifier(network, hierarchy, card).save(path, replace=True)
        return Classifier.load(path)
    model = build_model(recipe, state, hierarchy, faces, origin)
    check_samples(model, faces)
    model.save(path, replace=True)
    finished = FaceModel.load(path)
    with suppress(UsageError):  # faces that do not differ have no axes
        Axes.of(finished).save(path)
    return finished


def build_model(recipe: Recipe, state: State, hierarchy: Hierarchy, faces: FaceSet, origin: Origin) -> FaceModel:
    """The model of a run's networks, which make faces."""
    if isinstance(state.networks.get("mapping"), MappingNetwork):
        match_moments(state, faces, origin.seed)
    tensors: dict[str, NDArray[Any]] = {
        f"{name}/{key}": parameter.detach().cpu().numpy()
        for name in recipe.objective.keeps
        for key, parameter in state.best(name).state_dict().items()
    }
    tensors["normalisation/mean"], tensors["normalisation/std"] = faces.normalisation.mean, faces.normalisation.std
    if recipe.sampling.faces:
        seen = some_rows(faces.split.train, recipe.sampling.faces)
        codes = codes_of(recipe, state, faces, seen, origin.seed)
        double = codes.double()
        tensors["sampler/mean"] = double.mean(dim=0).numpy()
        tensors["sampler/covariance"] = double.T.cov().reshape(codes.shape[1], codes.shape[1]).numpy()
        if recipe.sampling.kind == "mixture":
            rows = faces.split.validation
            unseen = codes_of(recipe, state, faces, rows, origin.seed) if len(rows) else codes
            tensors |= fit_mixture_to(codes.numpy(), unseen.numpy(), origin.seed).tensors
    card = ModelCard(
        kind="network", name=recipe.name, code=recipe.network.code, network=recipe.network,
        sampler=recipe.sampling.kind, prior=recipe.objective.prior, origin=origin,
        template=faces.template.content_hash,
    )  # fmt: skip
    return FaceModel(ModelParts(card, faces.template, hierarchy, tensors))


def check_samples(model: FaceModel, faces: FaceSet) -> None:
    """Raise `MeshganError` if what the model draws lies much further apart than the training faces do."""
    real = diversity(faces.vertices[some_rows(faces.split.train, COMPARED)])
    drawn = model.sample(COMPARED, seed=0)
    if not np.isfinite(drawn).all():
        raise MeshganError("the trained model draws faces that are no numbers; train again with a lower rate.")
    if (spread := diversity(drawn)) > EXPLODED * real:
        raise MeshganError(
            f"the trained model draws faces {spread:,.0f} mm apart, real ones are {real:,.2f} mm apart; "
            "the checkpoint stays, but no model was made of it. Train again with a lower learning rate."
        )


def codes_of(recipe: Recipe, state: State, faces: FaceSet, rows: Integers, seed: int) -> Tensor:
    """Codes (N, code) of faces, by their `rows` (N,): encoded where there is an encoder, else by Eq. 2."""
    targets = torch.from_numpy(faces.normalisation.apply(faces.vertices[rows])).to(state.team.device)
    if "encoder" in state.networks:
        with torch.no_grad():
            return torch.cat([state.best("encoder")(part) for part in targets.split(64)]).cpu()
    scale = torch.from_numpy(faces.normalisation.std).to(targets)
    weights = torch.ones(len(scale)).to(targets)
    decoder = state.best("generator").requires_grad_(False)
    drawn = fixed_codes(EXAMPLES, recipe.network.code, recipe.objective.prior, seed, GUESS).to(targets)
    with torch.no_grad():
        examples = state.mapped(drawn)
    starts = first_guess(decoder, examples, targets, scale, weights)
    steps = recipe.sampling.steps
    codes = invert(decoder, targets, scale, weights, starts, steps, title="Fitting the sampler")
    return codes.cpu()


@torch.no_grad()
def match_moments(state: State, faces: FaceSet, seed: int) -> None:
    """Set the affine end of the mapping network. The same state, faces and seed give the same map."""
    generator, mapping = state.best("generator"), state.best("mapping")
    assert isinstance(generator, Decoder)
    assert isinstance(mapping, MappingNetwork)
    device = state.team.device
    drawn = fixed_codes(DRAWN, len(mapping.offset), "uniform", seed, MOMENTS)
    made = torch.cat([mapping(codes.to(device)).cpu() for codes in drawn.split(5000)])
    rows = some_rows(faces.split.train, SEEN)
    blocks = (faces.normalisation.apply(faces.vertices[part]) for part in np.array_split(rows, -(-len(rows) // 64)))
    seen = torch.cat([generator.project(torch.from_numpy(block).to(device)).cpu() for block in blocks])
    assert generator.linear is not None
    lengths = generator.linear.norm(dim=1).double().cpu().numpy()
    matrix, offset = transport(made.double().numpy(), seen.double().numpy(), lengths)
    mapping.append(torch.from_numpy(matrix), torch.from_numpy(offset))


def transport(source: Floats, target: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """`matrix` (D, D) and `offset` (D,): source @ matrix + offset has the mean and the covariance of the target.

    The optimal transport between the Gaussians of two samples (N, D) and (M, D): A⁻½ (A½ B A½)½ A⁻½ for covariances A
    and B (Dowson and Landau 1982; Peyré and Cuturi 2019, Remark 2.31). With factors A = LLᵀ, B = KKᵀ and LᵀK = USVᵀ it
    is KVUᵀL⁻¹, which has the covariance B whatever rounding does to U and V, where the roots of a product of two badly
    conditioned covariances lose half of their digits. `lengths` (D,) says how far a face moves with each coordinate:
    the less, the more the coordinate may move.
    """
    weights = np.maximum(lengths / max(lengths.max(), 1e-12), 1e-3)
    floor = np.diag(FLOOR * weights**2)
    left, right = (np.linalg.cholesky(np.cov(values * weights, rowvar=False) + floor) for values in (source, target))
    u, _, vt = np.linalg.svd(left.T @ right)
    matrix = np.linalg.solve(left.T, u @ vt @ right.T) * weights[:, None] / weights
    return matrix, target.mean(axis=0) - source.mean(axis=0) @ matrix
