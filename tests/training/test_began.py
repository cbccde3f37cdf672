"""BEGAN's equations by hand, and its shared backward pass against two separate ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.plan import NetworkSpec
from meshgan.training.began import Began, convergence, next_k, reconstruction_loss, set_gradients
from meshgan.training.state import Batch, State

unit = st.floats(0, 1)
losses = st.floats(0, 5)


@pytest.fixture(scope="module")
def players(tiny_faces):
    """Generator, critic and a batch in float64, where rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    hierarchy = Hierarchy.build(tiny_faces.template, (40, 10))
    spec = NetworkSpec(code=4, widths=(4, 4), terms=3)
    networks = Began().build(hierarchy, spec, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    faces = torch.randn(3, 162, 3, generator=rng)
    codes = torch.rand(3, 4, generator=rng) * 2 - 1
    torch.set_default_dtype(torch.float32)
    return networks["generator"], networks["critic"], Batch(faces, codes, torch.zeros(3))


def gradients(network):
    return [parameter.grad.clone() for parameter in network.parameters()]


def reference_gradients(generator, critic, batch, k):
    """The definition: one pass for each player, the discriminator's on faces cut off from the generator."""
    critic.zero_grad()
    (
        reconstruction_loss(critic, batch.faces) - k * reconstruction_loss(critic, generator(batch.codes).detach())
    ).backward()
    of_critic = gradients(critic)
    generator.zero_grad()
    reconstruction_loss(critic, generator(batch.codes)).backward()
    return of_critic, gradients(generator)


@pytest.mark.parametrize("k", [0.0, 0.3, 1.0])
def test_one_backward_pass_gives_both_players_their_own_gradient(players, k):
    generator, critic, batch = players
    of_critic, of_generator = reference_gradients(generator, critic, batch, k)
    real, fake = reconstruction_loss(critic, batch.faces), reconstruction_loss(critic, generator(batch.codes))
    set_gradients(real, fake, torch.tensor(k, dtype=torch.float64), critic.parameters(), generator.parameters())
    for found, expected in zip(gradients(critic) + gradients(generator), of_critic + of_generator, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_leak_of_the_generators_loss_would_be_seen(players):
    """The usual mistake, L_G's gradient left in the discriminator, differs visibly from the reference."""
    generator, critic, batch = players
    of_critic, _ = reference_gradients(generator, critic, batch, 0.3)
    critic.zero_grad()
    leaking = reconstruction_loss(critic, batch.faces) + 0.7 * reconstruction_loss(critic, generator(batch.codes))
    leaking.backward()
    assert any(
        (found - expected).abs().max() > 1e-4 for found, expected in zip(gradients(critic), of_critic, strict=True)
    )


def test_the_loss_is_the_mean_absolute_error():
    faces = torch.tensor([[[1.0, -2.0, 3.0]]])
    assert reconstruction_loss(torch.zeros_like, faces).item() == 2.0


@given(unit, losses, losses, unit)
def test_k_follows_the_balance_and_stays_in_range(k, real, fake, gamma):
    found = next_k(torch.tensor(k), torch.tensor(real), torch.tensor(fake), gamma, 0.1).item()
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(min(1.0, max(0.0, k + 0.1 * (gamma * real - fake))), abs=1e-6)


@given(losses, unit)
def test_at_the_balance_k_rests_and_the_measure_is_the_real_loss(real, gamma):
    balanced = torch.tensor(gamma) * real
    assert next_k(torch.tensor(0.5), torch.tensor(real), balanced, gamma, 0.1).item() == pytest.approx(0.5, abs=1e-5)
    assert convergence(torch.tensor(real), balanced, gamma).item() == pytest.approx(real, abs=1e-5)


def test_a_step_moves_both_players_by_their_gradients_and_k_by_its_rule(players):
    generator, critic, batch = players
    of_critic, of_generator = reference_gradients(generator, critic, batch, 0.2)
    before = [parameter.detach().clone() for network in (critic, generator) for parameter in network.parameters()]
    rate = 1e-3
    state = State(
        networks={"generator": generator, "critic": critic},
        optimisers={
            "generator": torch.optim.SGD(generator.parameters(), rate),
            "critic": torch.optim.SGD(critic.parameters(), rate),
        },
        variables={"k": torch.tensor(0.2, dtype=torch.float64)},
    )
    with torch.no_grad():
        real = reconstruction_loss(critic, batch.faces).item()
        fake = reconstruction_loss(critic, generator(batch.codes)).item()
    stats = Began(gamma=0.5, lambda_k=0.1).step(state, batch)
    after = [parameter.detach() for network in (critic, generator) for parameter in network.parameters()]
    for old, new, gradient in zip(before, after, of_critic + of_generator, strict=True):
        torch.testing.assert_close(new, old - rate * gradient)
    assert stats["L_real"].item() == pytest.approx(real)
    assert stats["L_fake"].item() == pytest.approx(fake)
    assert state.variables["k"].item() == pytest.approx(0.2 + 0.1 * (0.5 * real - fake))
    assert stats["k"].item() == state.variables["k"].item()


def test_the_discriminator_has_no_linear_path_even_if_the_generator_has(tiny_faces):
    hierarchy = Hierarchy.cached(tiny_faces.template, (40, 10))
    spec = NetworkSpec(code=4, widths=(4, 4), terms=2, linear=True)
    networks = Began().build(hierarchy, spec, torch.Generator())
    assert networks["generator"].linear is not None
    assert networks["critic"].decoder.linear is None


def test_exploded_losses_are_trouble():
    assert Began().trouble({"M": 1.0}) is None
    assert "exploded" in (Began().trouble({"M": 66.0}) or "")
