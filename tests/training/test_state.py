"""The state of a run: everything that changes is in it, and what is loaded goes on with the same bits."""

import copy

import pytest
import torch
from torch import nn

from meshgan.training import (
    autoencoder,
    began,
    began_judge,
    checkpoint,
    classification,
    gan,
    recipe,
    state,
    team,
    watch,
)
from meshgan.training.state import State
from values import assert_sound_values


def make(optimiser=torch.optim.Adam, seed=0):
    torch.manual_seed(seed)
    networks = {"generator": nn.Linear(3, 3), "critic": nn.Linear(3, 1)}
    optimisers = {name: optimiser(network.parameters(), lr=0.05) for name, network in networks.items()}
    averages = {"generator": copy.deepcopy(networks["generator"])}
    return State(networks, optimisers, {"k": torch.tensor(0.25)}, averages)


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr, momentum=0.9)


def advance(state, steps, start=0):
    for step in range(start, start + steps):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        state.networks["critic"](state.networks["generator"](inputs)).square().mean().backward()
        state.update("generator", "critic")
        state.average(0.9)
        state.variables["k"].add_(0.01)


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, momentum])
def test_loading_goes_on_with_the_same_bits(optimiser):
    straight, first, second = make(optimiser), make(optimiser), make(optimiser, seed=99)
    advance(straight, 7)
    advance(first, 4)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    advance(second, 3, start=4)
    expected, found = straight.tensors(), second.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_state_that_does_not_fit_is_refused():
    state = make()
    advance(state, 1)
    tensors = state.tensors()
    with pytest.raises(KeyError):
        state.load({name: tensor for name, tensor in tensors.items() if name != "variable/k"})
    wrong = {**tensors, "network/critic/weight": torch.zeros(7, 7)}
    with pytest.raises(RuntimeError):
        state.load(wrong)
    slot = "optimiser/critic/weight/exp_avg"
    assert slot in tensors
    with pytest.raises(RuntimeError, match="exp_avg"):
        state.load({**tensors, slot: torch.zeros(7)})


def test_averaging_follows_the_weights():
    state = make()
    old, new = state.averages["generator"].weight.clone(), state.networks["generator"].weight.detach() + 1.0
    with torch.no_grad():
        state.networks["generator"].weight.copy_(new)
    state.average(0.75)
    torch.testing.assert_close(state.averages["generator"].weight, 0.75 * old + 0.25 * new)
    assert state.best("generator") is state.averages["generator"]
    assert state.best("critic") is state.networks["critic"]


def test_clipping_bounds_the_norm_of_each_network():
    state = make(lambda parameters, lr: torch.optim.SGD(parameters, lr=1.0))
    state.clip = 0.1
    before = [parameter.detach().clone() for parameter in state.networks["critic"].parameters()]
    (1000 * state.networks["critic"](torch.ones(1, 3))).sum().backward()
    state.update("critic")
    moves = [(old - new).flatten() for old, new in zip(before, state.networks["critic"].parameters(), strict=True)]
    assert torch.cat(moves).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_updating_one_network_leaves_the_other_alone():
    state = make()
    before = state.networks["generator"].weight.detach().clone()
    state.networks["critic"](torch.ones(1, 3)).sum().backward()
    state.update("critic")
    assert torch.equal(state.networks["generator"].weight, before)
    assert state.networks["critic"].weight.grad is None


def test_values_cannot_be_changed_and_tensors_are_not_compared():
    for module in (autoencoder, began, began_judge, checkpoint, classification, gan, recipe, state, team, watch):
        assert_sound_values(module, {"State", "LiveLine"})
