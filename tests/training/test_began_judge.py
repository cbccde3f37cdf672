"""BEGAN with a judge: coordinates, windows, the four players' gradients, and what a model of it keeps."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from meshgan.data.principal import principal_matrix
from meshgan.errors import MeshganError, UsageError
from meshgan.geometry.hierarchy import Hierarchy
from meshgan.model.face_model import FaceModel
from meshgan.model.model_folder import ModelParts
from meshgan.nn.details import score
from meshgan.nn.networks import Decoder, MappingNetwork
from meshgan.nn.plan import NetworkSpec
from meshgan.training.began import reconstruction_loss
from meshgan.training.began_judge import EVEN, STEADY, BeganJudge, newest, remembered, weights, with_deviations
from meshgan.training.checkpoint import RunFolder
from meshgan.training.loop import start, train
from meshgan.training.recipe import Adam, parse_recipe
from meshgan.training.state import Batch
from meshgan.training.team import Team


@pytest.fixture
def recipe(recipe_table):
    recipe_table["network"].update(linear=True, mapping=8)
    recipe_table["objective"] = {"kind": "began-judge", "window": 16, "memory": 24}
    recipe_table["schedule"].update(faces=80, checkpoint_every=40)
    recipe_table["optimiser"] = {"kind": "momentum", "lr": 0.01}
    return parse_recipe(recipe_table, "x")


@pytest.fixture
def hierarchy(recipe, tiny_faces):
    return Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts)


@pytest.fixture
def state(recipe, tiny_faces, hierarchy):
    return start(recipe, tiny_faces, hierarchy, 0, Team())


def batch_of(tiny_faces, phase=1):
    faces = torch.from_numpy(tiny_faces.normalisation.apply(tiny_faces.vertices[:8]))
    return Batch(faces, torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.rand(8), phase)


def test_coordinates_are_what_the_linear_map_was_given(tiny_faces, hierarchy):
    decoder = Decoder(hierarchy, NetworkSpec(code=4, widths=(4, 4), terms=2, linear=True))
    decoder.set_linear(torch.from_numpy(principal_matrix(tiny_faces, 4)))
    codes = torch.randn(5, 4)
    faces = (codes @ decoder.linear).view(5, -1, 3)
    torch.testing.assert_close(decoder.project(faces), codes, rtol=1e-4, atol=1e-4)


def test_coordinates_of_a_missing_component_are_zero(tiny_faces, hierarchy):
    decoder = Decoder(hierarchy, NetworkSpec(code=4, widths=(4, 4), terms=2, linear=True))
    assert torch.equal(decoder.project(torch.randn(2, 162, 3)), torch.zeros(2, 4))


def test_a_mapping_network_begins_as_the_identity():
    codes = torch.randn(3, 6)
    assert torch.equal(MappingNetwork(NetworkSpec(code=6, mapping=5))(codes), codes)


@pytest.mark.parametrize(
    ("batch", "window", "memory", "uneven"),
    [(2, 4, 16, 0), (4, 4, 8, 0), (1, 2, 2, 0), (16, 128, 2048, 0), (8, 16, 24, 3), (3, 5, 11, 1)],
)
def test_what_is_remembered_are_the_last_faces_and_all_are_compared_about_equally_often(batch, window, memory, uneven):
    ring, compared, life = torch.full((memory,), -1), [], -(-memory // batch)
    for step in range(6 * life):
        number = torch.tensor(step)
        ring.index_copy_(0, newest(number, batch, memory), torch.arange(step * batch, (step + 1) * batch))
        last = (step + 1) * batch
        assert set(ring[ring >= 0].tolist()) == set(range(max(0, last - memory), last))
        rows = ring[remembered(number, batch, window, memory)]
        assert len(rows) == window
        assert rows.min() >= 0  # never what is not filled yet
        if last >= memory:
            assert len(rows.unique()) == min(window, memory)
        compared += rows.tolist()
    often = np.bincount(compared)[memory : last - memory]  # of faces that came and went within these steps
    assert np.ptp(often) <= uneven  # none where batch and window divide the memory evenly
    assert often.mean() == pytest.approx(window / batch, rel=0.1)


def test_each_player_follows_its_own_loss(recipe, state, tiny_faces):
    """One step of plain descent against the gradients of the losses as the docstring states them."""
    batch = batch_of(tiny_faces)
    objective = recipe.objective
    state.variables["k"].fill_(0.3)
    networks = state.networks
    before = {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}
    generator, critic, mapping, judge = (networks[name] for name in ("generator", "critic", "mapping", "judge"))
    seen = generator.project(batch.faces)
    made = generator(mapping(batch.codes).detach())
    real, fake = reconstruction_loss(critic, batch.faces), reconstruction_loss(critic, made)
    anchor = (batch.faces - generator(seen)).abs().mean()
    window = {name: torch.cat([rows, rows]) for name, rows in (("seen", seen), ("drawn", batch.codes))}  # 16 of 8
    scale = weights(generator)
    invented = mapping(window["drawn"]) * scale

    def judged(rows):
        return judge(with_deviations(rows))

    losses = {
        "critic": real - 0.3 * fake,
        "generator": fake + anchor,
        "judge": softplus(-judged(window["seen"] * scale)).mean() + softplus(judged(invented.detach())).mean(),
        "mapping": softplus(-judged(invented)).mean(),
    }
    expected = {
        name: torch.autograd.grad(loss, list(networks[name].parameters()), retain_graph=True)
        for name, loss in losses.items()
    }
    for one in state.optimisers.values():
        one.param_groups[0].update(lr=1.0, momentum=0.0)
    objective.step(state, batch)
    for name, network in networks.items():
        for parameter, old, gradient in zip(network.parameters(), before[name], expected[name], strict=True):
            torch.testing.assert_close(old - parameter.detach(), gradient, rtol=1e-4, atol=1e-6)


def test_the_judge_sees_how_much_the_faces_vary():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.0])
    rows.requires_grad_()
    seen = with_deviations(rows)
    assert torch.equal(seen[:, :3], rows)
    np.testing.assert_allclose(seen[7, 3:].detach(), rows.detach().numpy().std(axis=0), atol=2e-4)
    seen.sum().backward()
    assert rows.grad.isfinite().all()


def test_the_penalty_flattens_the_judge(recipe, state, tiny_faces):
    """In the phase that has it, the judge's step differs from the same step without it."""
    steps = []
    for penalty in (0.0, 1.0):
        torch.manual_seed(0)
        own = start(recipe, tiny_faces, Hierarchy.cached(tiny_faces.template, recipe.hierarchy.counts), 0, Team())
        BeganJudge(window=16, penalty=penalty).step(own, batch_of(tiny_faces, phase=0))
        steps.append(next(own.networks["judge"].parameters()).detach().clone())
    assert not torch.equal(*steps)


def test_the_penalty_is_r1_with_its_sign_and_weight(recipe, state, tiny_faces):
    """One step of plain descent on L_J as the docstring states it, with the slope by its definition, row by row."""
    batch, generator, judge = batch_of(tiny_faces, phase=0), state.networks["generator"], state.networks["judge"]
    rows = torch.cat([generator.project(batch.faces)] * 2) * weights(generator)
    drawn = state.networks["mapping"](torch.cat([batch.codes] * 2)).detach() * weights(generator)
    leaf = rows.clone().requires_grad_()
    slopes = torch.autograd.grad(judge(with_deviations(leaf)).sum(), leaf, create_graph=True)[0]
    r1 = sum(slope @ slope for slope in slopes) / len(slopes)
    loss = softplus(-judge(with_deviations(rows))).mean() + softplus(judge(with_deviations(drawn))).mean()
    parameters = list(judge.parameters())
    objective = BeganJudge(window=16, memory=24, penalty=7.0)
    parts = (loss, 7.0 / 2 * objective.phases * r1)  # in one step of `phases`, so with so many times the weight
    plain, penalty = (torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True) for part in parts)
    assert max(float(one.norm()) for one in penalty if one is not None) > 1e-3  # it shows in what follows
    before = [parameter.detach().clone() for parameter in parameters]
    for one in state.optimisers.values():
        one.param_groups[0].update(lr=1.0, momentum=0.0)
    objective.step(state, batch)
    for parameter, old, first, second in zip(parameters, before, plain, penalty, strict=True):
        expected = first if second is None else first + second
        torch.testing.assert_close(old - parameter.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", [{"linear": True}, {"mapping": 8}, {}])
def test_it_needs_a_linear_path_and_a_mapping(recipe_table, network):
    recipe_table["network"].update(network)
    with pytest.raises(UsageError, match=r"network\.linear = true and a network\.mapping"):
        parse_recipe({**recipe_table, "objective": {"kind": "began-judge"}}, "x")


def test_a_model_draws_through_its_mapping_and_fits_coordinates(tmp_path, recipe, tiny_faces):
    model = FaceModel.load(train(recipe, tiny_faces, tmp_path / "run", device="cpu").parent)
    assert model.samplers.names == ("uniform", "fitted-normal")
    codes = model.codes(40, seed=3)
    drawn = np.random.default_rng(3).uniform(-1, 1, (40, 4)).astype(np.float32)
    np.testing.assert_allclose(codes, model.samplers.mapping(drawn), atol=1e-6)
    np.testing.assert_array_equal(model.codes(7, seed=3), codes[:7])
    faces = tiny_faces.vertices[:4]
    far = np.linalg.norm(faces - tiny_faces.normalisation.mean, axis=-1).mean()
    assert model.fit(faces).error_mm.mean() < 0.6 * far  # four codes for five ways to bend
    model.save(tmp_path / "moved")
    np.testing.assert_array_equal(FaceModel.load(tmp_path / "moved").sample(3), model.sample(3))


def test_a_model_without_its_mapping_is_damaged(tmp_path, recipe, tiny_faces):
    model = FaceModel.load(train(recipe, tiny_faces, tmp_path / "run", device="cpu").parent)
    parts = model._parts
    tensors = {name: tensor for name, tensor in parts.tensors.items() if not name.startswith("mapping/")}
    with pytest.raises(MeshganError, match="does not fit"):
        FaceModel(ModelParts(parts.card, parts.template, parts.hierarchy, tensors))


@pytest.fixture
def detailed(recipe):
    network = replace(recipe.network, detail=True)
    objective = replace(recipe.objective, spectrum=0.1)
    return replace(recipe, network=network, objective=objective, optimiser=Adam())


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, detailed, tiny_faces):
    whole = FaceModel.load(train(detailed, tiny_faces, tmp_path / "whole", device="cpu").parent)
    train(detailed, tiny_faces, tmp_path / "cut", device="cpu")
    shutil.rmtree(tmp_path / "cut" / "model")
    max((tmp_path / "cut").glob("checkpoint-*.safetensors")).unlink()
    again = FaceModel.load(train(detailed, tiny_faces, tmp_path / "cut", device="cpu", resume=True).parent)
    np.testing.assert_array_equal(again.sample(8), whole.sample(8))


def test_details_of_chance_follow_from_a_seed(tmp_path, tiny_faces, detailed):
    train(detailed, tiny_faces, tmp_path / "run")
    model = FaceModel.load(tmp_path / "run")
    faces = model.sample(40, seed=3)
    assert np.array_equal(faces[:7], model.sample(7, seed=3))
    codes = model.codes(40, seed=3)
    mean = model.decode(codes)
    assert np.abs(faces - mean).max() > 1e-3
    assert np.array_equal(model.decode(codes, numbers=np.arange(40))[5:6], model.decode(codes[5:6], numbers=[5]))
    lines = RunFolder(tmp_path / "run").lines()
    assert {"spectrum", "steady"} <= lines[-1].keys()


def test_only_details_can_tell_a_face_from_what_is_made_of_its_coordinates(tiny_faces, detailed):
    hierarchy = Hierarchy.cached(tiny_faces.template, detailed.hierarchy.counts)
    state = start(detailed, tiny_faces, hierarchy, 0, Team())
    noise = torch.randn(8, sum(hierarchy.counts), generator=torch.Generator().manual_seed(0))
    batch = replace(batch_of(tiny_faces, phase=3), noise=noise)
    generator, before = state.networks["generator"], state.networks["generator"].project(batch.faces)
    made = []
    generator.register_forward_hook(lambda *passed: made.append(passed[2]))
    detailed.objective.step(state, batch)
    assert made
    for faces in made:
        torch.testing.assert_close(generator.project(faces), before[: len(faces)], rtol=1e-3, atol=1e-3)


@pytest.fixture
def with_traits(detailed):
    return replace(detailed, network=replace(detailed.network, traits=3))


def test_a_run_with_traits_that_was_stopped_ends_with_the_same_bits(tmp_path, with_traits, tiny_faces):
    whole = FaceModel.load(train(with_traits, tiny_faces, tmp_path / "whole", device="cpu").parent)
    train(with_traits, tiny_faces, tmp_path / "cut", device="cpu")
    shutil.rmtree(tmp_path / "cut" / "model")
    max((tmp_path / "cut").glob("checkpoint-*.safetensors")).unlink()
    again = FaceModel.load(train(with_traits, tiny_faces, tmp_path / "cut", device="cpu", resume=True).parent)
    faces = whole.sample(8, seed=3)
    np.testing.assert_array_equal(again.sample(8, seed=3), faces)
    np.testing.assert_array_equal(whole.sample(3, seed=3), faces[:3])
    assert {"spectrum", "amount", "traits"} <= RunFolder(tmp_path / "whole").lines()[-1].keys()


def test_amounts_follow_the_losses_as_the_docstring_states_them(tiny_faces, with_traits):
    objective = replace(with_traits.objective, anchor=0.0, spectrum=0.3)
    hierarchy = Hierarchy.cached(tiny_faces.template, with_traits.hierarchy.counts)
    state = start(replace(with_traits, objective=objective), tiny_faces, hierarchy, 0, Team())
    generator, details = (state.networks[n] for n in ("generator", "details"))
    random = torch.Generator().manual_seed(0)
    for parameter in (generator.last.weight, *generator.loadings, *generator.patterns):
        torch.nn.init.normal_(parameter, std=0.1, generator=random)
    batch = replace(batch_of(tiny_faces, phase=3), noise=torch.randn(8, generator.noise_size, generator=random))
    with torch.no_grad():
        seen = generator.project(batch.faces)
    codes, linear = seen[:3], (seen[:3] @ generator.linear).view(3, -1, 3)
    drawn, again = (generator(codes.repeat(2, 1), batch.noise[[0, 1, 2, 7, 0, 1]]) - linear.repeat(2, 1, 1)).split(3)
    real, still = batch.faces[:3] - linear, generator(codes) - linear
    spectrum, shares = details.spectrum, details.spectrum.shares
    energies = spectrum(torch.cat([drawn, again])).mean(dim=0)
    amount = score(*((spectrum(one) + 1e-8).sqrt() for one in (drawn, again, real)), shares)
    missed = details.traits.missed(real, generator(codes, traits=details.traits(real)) - linear - still)
    strengths = (0.98 + 0.02 * energies).detach()  # each band's own
    loss = amount + missed + EVEN * (shares * (1 - strengths.rsqrt()) * energies).sum()
    loss = loss + STEADY * (shares * spectrum(still[:1])[0]).sum()  # of the first face
    expected = torch.autograd.grad(0.3 * loss, list(generator.parameters()), materialize_grads=True)
    before = [p.detach().clone() for p in generator.parameters()]
    for name in state.optimisers:
        state.optimisers[name] = torch.optim.SGD(state.networks[name].parameters(), lr=1.0)
    stats = objective.step(state, batch)
    assert stats["amount"].item() == pytest.approx(amount.item(), rel=1e-4)
    assert stats["traits"].item() == pytest.approx(missed.item(), rel=1e-4)
    torch.testing.assert_close(state.variables["strengths"], strengths, rtol=1e-4, atol=1e-5)
    for parameter, old, gradient in zip(generator.parameters(), before, expected, strict=True):
        torch.testing.assert_close(old - parameter.detach(), gradient, rtol=1e-3, atol=1e-5)


def test_a_model_without_traits_begins_a_run_with_some(tmp_path, detailed, with_traits, tiny_faces):
    train(detailed, tiny_faces, tmp_path / "plain", device="cpu")
    model = FaceModel.load(tmp_path / "plain")
    hierarchy = Hierarchy.cached(tiny_faces.template, detailed.hierarchy.counts)
    generator = start(with_traits, tiny_faces, hierarchy, 0, Team(), model).networks["generator"]
    codes, noise = torch.randn(2, 4), torch.randn(2, generator.noise_size)
    assert torch.equal(generator(codes, noise), model.decoder(codes, noise[:, : model.decoder.noise_size]))
    train(with_traits, tiny_faces, tmp_path / "more", device="cpu", init=tmp_path / "plain")
    with pytest.raises(UsageError, match=r"network\.traits=3"):
        train(detailed, tiny_faces, tmp_path / "less", device="cpu", init=tmp_path / "more")


def test_weights_of_details_need_details(recipe):
    with pytest.raises(ValueError, match=r"set network\.detail = true"):
        replace(recipe.objective, spectrum=0.1).check(recipe.network)


@pytest.mark.parametrize("phase", [0, 1])
def test_details_follow_the_losses_as_the_docstring_states_them(tiny_faces, detailed, phase):
    """One step of plain descent of BEGAN, or of details; the other waits."""
    objective = replace(detailed.objective, anchor=0.5, spectrum=0.3)
    hierarchy = Hierarchy.cached(tiny_faces.template, detailed.hierarchy.counts)
    state = start(detailed, tiny_faces, hierarchy, 0, Team())
    noise = torch.randn(8, sum(hierarchy.counts), generator=torch.Generator().manual_seed(0))
    batch = replace(batch_of(tiny_faces, phase), noise=noise)
    generator, critic, mapping = (state.networks[n] for n in ("generator", "critic", "mapping"))
    spectrum = state.networks["details"].spectrum
    torch.nn.init.normal_(generator.last.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    seen = generator.project(batch.faces).detach()
    fake_loss = reconstruction_loss(critic, generator(mapping(batch.codes).detach()))
    real_loss = reconstruction_loss(critic, batch.faces)
    anchor = (batch.faces - generator(seen)).abs().mean()
    codes = seen[:2]  # one of four
    linear = (codes @ generator.linear).view(2, -1, 3)
    chance = generator(codes, noise[:2]) - generator(codes)
    spectrum.measure(chance.detach() * torch.tensor([0.5, 1.0, 2.0]))  # some too loud, some too quiet
    off = (spectrum.shares * (spectrum(chance).mean(dim=0).sqrt() - 1).square()).sum()
    assert 0.01 < off < 1
    steady = (spectrum.shares * spectrum(generator(codes) - linear)[0]).sum()  # of the first face
    losses = (
        {"generator": 0.3 * (off + STEADY * steady)}
        if phase
        else {"generator": fake_loss + 0.5 * anchor, "critic": real_loss}  # k is 0
    )
    expected = {
        name: torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
        for name, one in losses.items()
        if (parameters := list(state.networks[name].parameters()))
    }
    names = ("generator", "critic")
    before = {name: [p.detach().clone() for p in state.networks[name].parameters()] for name in names}
    for name in state.optimisers:
        state.optimisers[name] = torch.optim.SGD(state.networks[name].parameters(), lr=1.0)
    stats = objective.step(state, batch)
    shown = {"spectrum": off, "steady": steady} if phase else {"anchor": anchor, "L_real": real_loss}
    assert {key: stats[key].item() for key in shown} == pytest.approx(
        {key: value.item() for key, value in shown.items()}, rel=1e-4
    )
    assert ("spectrum" in stats) == bool(phase)
    for name in names:
        gradients = expected.get(name, [torch.zeros_like(old) for old in before[name]])
        for parameter, old, gradient in zip(state.networks[name].parameters(), before[name], gradients, strict=True):
            torch.testing.assert_close(old - parameter.detach(), gradient, rtol=1e-3, atol=1e-5)


def test_coordinates_are_judged_by_the_roots_of_their_deviations(state):
    generator = state.networks["generator"]
    deviations = generator.linear.norm(dim=1)
    torch.testing.assert_close(weights(generator), (3 * deviations / deviations.max()) ** 0.5)


def test_a_window_is_no_larger_than_the_memory():
    BeganJudge(window=8, memory=8)
    with pytest.raises(ValueError, match="window cannot be larger"):
        BeganJudge(window=9, memory=8)
    assert BeganJudge().trouble({"M": 10.0}) is None
    assert BeganJudge().trouble({"M": 10.1}) == "the losses exploded (M = 10.1)"
