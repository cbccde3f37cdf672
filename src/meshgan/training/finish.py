"""From the state of a finished run to a model folder: averaged weights, moments, normalisation, fitted sampler."""

from pathlib import Path

import torch
from torch import Tensor

from meshgan.data.faceset import FaceSet, some_rows
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.latent import EXAMPLES, first_guess, invert
from meshgan.model.model_folder import ModelCard, ModelParts, Origin, write_model_folder
from meshgan.training.batches import GUESS, fixed_codes
from meshgan.training.moments import match_moments
from meshgan.training.recipe import Recipe, recipe_toml
from meshgan.training.state import KEPT, State


def write_model(
    path: Path, recipe: Recipe, state: State, hierarchy: Hierarchy, faces: FaceSet, seen: int, seed: int
) -> None:
    """Write the model folder of a run; one that is there already is replaced."""
    if "mapping" in state.networks:
        match_moments(state, faces, seed)
    tensors: dict[str, Tensor] = {
        f"{name}/{key}": parameter
        for name in KEPT
        if name in state.networks
        for key, parameter in state.best(name).state_dict().items()
    }
    tensors["normalisation/mean"] = torch.from_numpy(faces.normalisation.mean)
    tensors["normalisation/std"] = torch.from_numpy(faces.normalisation.std)
    if recipe.sampling.faces:
        codes = codes_of_training_faces(recipe, state, faces, seed).double()
        tensors["sampler/mean"] = codes.mean(dim=0)
        tensors["sampler/covariance"] = codes.T.cov()
    origin = Origin(
        recipe=recipe_toml(recipe), data=faces.card.name, source=faces.card.source, licence=faces.card.licence,
        synthetic=faces.card.synthetic, faces_seen=seen, seed=seed,
    )  # fmt: skip
    card = ModelCard(
        kind="network", name=recipe.name, code=recipe.network.code, network=recipe.network,
        sampler=recipe.sampling.kind, origin=origin, template=faces.template.content_hash,
    )  # fmt: skip
    write_model_folder(path, ModelParts(card, faces.template, hierarchy, tensors), replace=True)


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
