"""From the state of a finished run to a model: averaged weights, moments, normalisation, fitted sampler."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meshgan.data.faceset import FaceSet, some_rows
from meshgan.errors import MeshganError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.face_model import FaceModel
from meshgan.model.latent import EXAMPLES, first_guess, invert
from meshgan.model.model_folder import ModelCard, ModelParts, Origin
from meshgan.training.batches import GUESS, fixed_codes
from meshgan.training.moments import match_moments
from meshgan.training.recipe import Recipe, recipe_toml
from meshgan.training.state import KEPT, State
from meshgan.training.watch import diversity

COMPARED = 64  # samples whose spread is compared with that of as many real faces
EXPLODED = 5.0  # times as far apart as real faces: N(0, I) makes CoMA's twice as far


def finish(
    path: Path, recipe: Recipe, state: State, hierarchy: Hierarchy, faces: FaceSet, seen: int, seed: int
) -> FaceModel:
    """Make the model of a run, check it, and save it as a model folder; one that is there already is replaced.

    Raises `MeshganError` if its samples are no faces: whatever is called finished can be loaded and sampled.
    """
    model = build_model(recipe, state, hierarchy, faces, seen, seed)
    check_samples(model, faces)
    model.save(path, replace=True)
    return FaceModel.load(path)


def build_model(recipe: Recipe, state: State, hierarchy: Hierarchy, faces: FaceSet, seen: int, seed: int) -> FaceModel:
    """The model of a run's networks after `seen` faces."""
    if "mapping" in state.networks:
        match_moments(state, faces, seed)
    tensors: dict[str, Tensor] = {
        f"{name}/{key}": parameter.cpu()
        for name in KEPT
        if name in state.networks
        for key, parameter in state.best(name).state_dict().items()
    }
    tensors["normalisation/mean"] = torch.from_numpy(faces.normalisation.mean)
    tensors["normalisation/std"] = torch.from_numpy(faces.normalisation.std)
    if recipe.sampling.faces:
        codes = codes_of_training_faces(recipe, state, faces, seed).double()
        tensors["sampler/mean"] = codes.mean(dim=0)
        tensors["sampler/covariance"] = codes.T.cov().reshape(codes.shape[1], codes.shape[1])
    origin = Origin(
        recipe=recipe_toml(recipe), data=faces.card.name, source=faces.card.source, licence=faces.card.licence,
        synthetic=faces.card.synthetic, faces_seen=seen, seed=seed,
    )  # fmt: skip
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


def codes_of_training_faces(recipe: Recipe, state: State, faces: FaceSet, seed: int) -> Tensor:
    """Codes (N, code) of some training faces: encoded where there is an encoder, else by Eq. 2."""
    rows = some_rows(faces.split.train, recipe.sampling.faces)
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
