"""One step of each objective against the derivative on paper, on networks of one parameter; then on real networks."""

import importlib.util
import sys
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from meshgan.nn import paths
from meshgan.nn.details import Spectrum
from meshgan.nn.networks import Encoder, Likeness, ScalarCritic
from meshgan.nn.plan import NetworkSpec
from meshgan.training.autoencoder import Autoencoding, weight_penalty
from meshgan.training.began import BeganCs
from meshgan.training.began_encoder import BeganEncoder
from meshgan.training.gan import Gan, Wgan, discriminator_loss, generator_loss, gradient_penalty
from meshgan.training.state import Batch, State
from shapes import grid

RATE = 0.1
REAL, CODES = [1.0, 2.0], [1.0, -0.5]


def load_operators():
    """The small hierarchy that the tests of the networks use."""
    path = Path(__file__).parents[1] / "nn" / "operators.py"
    spec = importlib.util.spec_from_file_location("nn_operators", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nn_operators"] = module
    spec.loader.exec_module(module)
    return module


class Times(nn.Module):
    """θ · x, in the shape asked for."""

    def __init__(self, theta, shape):
        super().__init__()
        self.theta, self.shape = nn.Parameter(torch.tensor(theta, dtype=torch.float64)), shape

    def forward(self, x):
        return (self.theta * x).reshape(self.shape)


FACE, CODE, SCORE = (-1, 1, 1), (-1, 1), (-1,)


def state_of(numbers=None, **networks):
    optimisers = {name: torch.optim.SGD(network.parameters(), lr=RATE) for name, network in networks.items()}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in (numbers or {}).items()}
    return State(networks, optimisers, values)


def batch_of(phase=0):
    faces, codes = (torch.tensor(values, dtype=torch.float64) for values in (REAL, CODES))
    return Batch(faces.reshape(FACE), codes.reshape(CODE), torch.full((2,), 0.25, dtype=torch.float64), phase)


def theta(state, name):
    return state.networks[name].theta.item()


def sigmoid(x):
    return 1 / (1 + exp(-x))


def test_gan_steps_by_hand():
    a, b = 0.5, 0.3
    state = state_of(generator=Times(a, FACE), critic=Times(b, SCORE))
    stats = Gan().step(state, batch_of())
    pairs = list(zip(REAL, CODES, strict=True))
    of_critic = sum(-sigmoid(-b * x) * x + sigmoid(b * a * z) * a * z for x, z in pairs) / 2
    b_new = b - RATE * of_critic
    assert theta(state, "critic") == pytest.approx(b_new)
    of_generator = sum(-sigmoid(-b_new * a * z) * b_new * z for z in CODES) / 2  # against the new critic
    assert theta(state, "generator") == pytest.approx(a - RATE * of_generator)
    expected = sum(log(1 + exp(-b * x)) + log(1 + exp(b * a * z)) for x, z in pairs) / 2
    assert stats["L_critic"].item() == pytest.approx(expected)


def test_gan_losses_are_the_logarithms_of_the_paper():
    real, fake = torch.tensor([0.3, -1.2]), torch.tensor([0.8, -0.1])
    paper = -(torch.sigmoid(real).log() + (1 - torch.sigmoid(fake)).log()).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), paper)
    torch.testing.assert_close(generator_loss(fake), -torch.sigmoid(fake).log().mean())
    undecided = torch.zeros(2)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(2 * log(2))


def test_wgan_steps_by_hand():
    a, b = 0.5, 0.3
    state = state_of(generator=Times(a, FACE), critic=Times(b, SCORE))
    objective = Wgan(clip=0.35)
    stats = objective.step(state, batch_of(phase=0))
    gap = np.mean(REAL) - a * np.mean(CODES)
    assert stats["W"].item() == pytest.approx(b * gap)
    assert theta(state, "critic") == pytest.approx(0.35)  # b + RATE * gap is 0.4375: clipped
    assert b + RATE * gap > 0.35
    assert theta(state, "generator") == a
    objective.step(state, batch_of(phase=4))
    assert theta(state, "critic") == pytest.approx(0.35)
    assert theta(state, "generator") == pytest.approx(a + RATE * 0.35 * np.mean(CODES))


def test_wgan_penalty_by_hand():
    """A critic b · x has the slope b everywhere: the penalty is (b - 1)², its derivative 2 (b - 1)."""
    a, b = 0.5, 0.3
    state = state_of(generator=Times(a, FACE), critic=Times(b, SCORE))
    stats = Wgan(penalty=10.0).step(state, batch_of())
    assert stats["slope"].item() == pytest.approx((b - 1) ** 2)
    gap = np.mean(REAL) - a * np.mean(CODES)
    assert theta(state, "critic") == pytest.approx(b + RATE * (gap - 10.0 * 2 * (b - 1)))


def test_wgan_wants_exactly_one_bound():
    for numbers in ({}, {"clip": 0.01, "penalty": 10.0}):
        with pytest.raises(ValueError, match="either clip or penalty"):
            Wgan(**numbers)


def test_penalty_is_taken_between_real_and_generated_faces():
    """For D(x) = ½ Σ x² the gradient at x̂ is x̂ itself."""

    class Square(nn.Module):
        def forward(self, faces):
            return 0.5 * faces.square().flatten(1).sum(dim=1)

    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(4, 5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    mix = torch.tensor([0.0, 1.0, 0.3, 0.8], dtype=torch.float64)
    between = mix[:, None, None] * real + (1 - mix[:, None, None]) * fake
    expected = (between.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(Square(), real, fake, mix), expected)


def test_began_cs_steps_by_hand():
    """With D(x) = e d x: L(x) = |1 - e d| mean |x|, and the constraint is |e a - 1| mean |z|."""
    a, e, d, k = 0.5, 0.6, 0.7, 0.4
    networks = {"generator": Times(a, FACE), "encoder": Times(e, CODE), "decoder": Times(d, FACE)}
    state = state_of({"k": k}, **networks)
    objective = BeganCs(gamma=0.5, lambda_k=0.25, alpha=0.1)
    stats = objective.step(state, batch_of())
    x, z = np.mean(np.abs(REAL)), np.mean(np.abs(CODES))
    real, fake, constraint = (1 - e * d) * x, (1 - e * d) * a * z, (1 - e * a) * z
    of_encoder = -d * x + k * d * a * z - 0.1 * a * z
    of_decoder = -e * x + k * e * a * z
    of_generator = (1 - e * d) * z  # no share of the constraint, and nothing times k
    assert theta(state, "encoder") == pytest.approx(e - RATE * of_encoder)
    assert theta(state, "decoder") == pytest.approx(d - RATE * of_decoder)
    assert theta(state, "generator") == pytest.approx(a - RATE * of_generator)
    assert state.variables["k"].item() == pytest.approx(k + 0.25 * (0.5 * real - fake))
    assert stats["M"].item() == pytest.approx(real + abs(0.5 * real - fake))
    assert stats["constraint"].item() == pytest.approx(constraint)


def test_autoencoder_steps_by_hand():
    encoder, decoder = nn.Linear(1, 1).double(), Times(0.5, FACE)
    with torch.no_grad():
        encoder.weight.fill_(0.6)
        encoder.bias.fill_(0.2)
    encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0].reshape(CODE),))
    state = state_of(encoder=encoder, generator=decoder)
    stats = Autoencoding(l2=0.5).step(state, batch_of())
    read = [0.6 * x + 0.2 for x in REAL]  # both reconstructions, 0.5 times this, lie below x
    assert stats["L_real"].item() == pytest.approx(np.mean([x - 0.5 * c for x, c in zip(REAL, read, strict=True)]))
    assert stats["penalty"].item() == pytest.approx(0.5 * 0.5 * (0.6**2 + 0.2**2))
    assert theta(state, "generator") == pytest.approx(0.5 + RATE * np.mean(read))
    assert encoder.weight.item() == pytest.approx(0.6 - RATE * (-0.5 * np.mean(REAL) + 0.5 * 0.6))
    assert encoder.bias.item() == pytest.approx(0.2 - RATE * (-0.5 + 0.5 * 0.2))


HIERARCHY = load_operators().hierarchy()
SPEC = NetworkSpec(code=4, widths=(4, 4, 4, 8), terms=3)


def test_only_fully_connected_layers_are_penalised():
    encoder = Encoder(HIERARCHY, SPEC)
    penalty = weight_penalty([encoder])
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * sum(p.square().sum().item() for p in encoder.dense.parameters()))
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == name.startswith("dense.")


def test_codes_have_no_activation_unless_asked_for():
    faces = torch.randn(64, 60, 3)
    plain, rectified = (
        Encoder(HIERARCHY, NetworkSpec(4, (4, 4, 4, 8), 3, code_activation=kind), torch.Generator().manual_seed(0))
        for kind in ("none", "relu")
    )
    assert plain(faces).min() < 0
    torch.testing.assert_close(rectified(faces), plain(faces).relu())


def test_gradient_penalty_differentiates_through_the_convolutions():
    """The penalty's derivative, a second derivative of the critic, against finite differences."""
    torch.manual_seed(0)
    critic = ScalarCritic(HIERARCHY, SPEC).double()
    real, fake, mix = torch.randn(3, 60, 3).double(), torch.randn(3, 60, 3).double(), torch.rand(3).double()
    penalty = gradient_penalty(critic, real, fake, mix)
    penalty.backward()
    for parameter in critic.parameters():
        if parameter.ndim < 2:
            continue
        entry, step = (0,) * parameter.ndim, 1e-5
        gradient = parameter.grad[entry].item()
        with torch.no_grad():
            parameter[entry] += step
        above = gradient_penalty(critic, real, fake, mix).item()
        with torch.no_grad():
            parameter[entry] -= 2 * step
        below = gradient_penalty(critic, real, fake, mix).item()
        with torch.no_grad():
            parameter[entry] += step
        assert gradient == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8)


def test_the_penalty_is_the_same_on_every_path_of_the_convolutions():
    """Float32 may take a compiled kernel; its second derivatives are those of plain products."""
    torch.manual_seed(1)
    critic = ScalarCritic(HIERARCHY, SPEC)
    real, fake, mix = torch.randn(3, 60, 3), torch.randn(3, 60, 3), torch.rand(3)

    def gradients():
        return torch.autograd.grad(
            gradient_penalty(critic, real, fake, mix), list(critic.parameters()), allow_unused=True
        )

    chosen = gradients()
    with paths.forced("rows"):
        plain = gradients()
    for a, b in zip(chosen, plain, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def network_state(objective, rate=1e-3):
    networks = objective.build(HIERARCHY, SPEC, torch.Generator().manual_seed(0))
    if isinstance(objective, BeganEncoder):
        real = torch.randn(40, 60, 3, generator=torch.Generator().manual_seed(5))
        networks["spectrum"] = Spectrum.of(grid(5, 9), real, np.ones((60, 3), np.float32))
    weights = {name: list(network.parameters()) for name, network in networks.items()}
    optimisers = {name: torch.optim.Adam(own, lr=rate) for name, own in weights.items() if own}
    return State(networks, optimisers, objective.variables(networks))


@pytest.mark.parametrize(
    "objective",
    [Autoencoding(), Gan(), Wgan(clip=0.01), Wgan(penalty=10.0), BeganCs(), BeganEncoder(memory=8)],
    ids=["coma", "gan", "wgan", "wgan-gp", "began-cs", "began-encoder"],
)
def test_every_network_learns_in_every_objective(objective):
    state = network_state(objective)
    before = {name: [p.clone() for p in network.parameters()] for name, network in state.networks.items()}
    generator = torch.Generator().manual_seed(1)
    for step in range(objective.phases):
        faces, codes = torch.randn(4, 60, 3, generator=generator), torch.rand(4, 4, generator=generator) * 2 - 1
        stats = objective.step(state, Batch(faces, codes, torch.rand(4, generator=generator), step % objective.phases))
    assert all(torch.isfinite(value) and value.ndim == 0 and not value.requires_grad for value in stats.values())
    assert objective.trouble({name: value.item() for name, value in stats.items()}) is None
    declared = {name for logged in objective.curves.values() for name in logged}
    assert stats.keys() <= declared  # nothing is logged that no report shows
    assert set(objective.keeps) <= state.networks.keys()
    for name in state.optimisers:
        network = state.networks[name]
        assert any(not torch.equal(p, old) for p, old in zip(network.parameters(), before[name], strict=True)), name
        assert all(p.grad is None for p in network.parameters())  # nothing is left over for the next step


def test_clipped_weights_stay_within_their_bound():
    state = network_state(Wgan(clip=0.02))
    Wgan(clip=0.02).step(state, Batch(torch.randn(4, 60, 3), torch.rand(4, 4), torch.rand(4)))
    assert max(p.abs().max().item() for p in state.networks["critic"].parameters()) <= 0.02
    assert max(p.abs().max().item() for p in state.networks["generator"].parameters()) > 0.02


def test_autoencoder_learns_to_reconstruct():
    """Faces that are shifted mean faces have three degrees of freedom: a code of four holds them."""
    objective, state = Autoencoding(), network_state(Autoencoding(), rate=1e-2)
    faces = torch.randn(8, 1, 3, generator=torch.Generator().manual_seed(2)).expand(-1, 60, -1)
    batch = Batch(faces, torch.zeros(8, 4), torch.zeros(8))
    losses = [objective.step(state, batch)["L_real"].item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_explosions_are_named():
    assert "exploded" in Autoencoding().trouble({"L_real": 11.0})
    assert "exploded" in Gan().trouble({"L_critic": 2e4, "L_generator": 0.0})
    assert "exploded" in Wgan(clip=0.1).trouble({"W": -2e6})
    assert "exploded" in BeganCs().trouble({"M": 11.0})
    assert "exploded" in BeganEncoder().trouble({"M": 11.0})


def test_drawn_codes_have_the_mean_and_the_covariance_of_known_ones():
    random = torch.Generator().manual_seed(3)
    known = torch.randn(300, 3, generator=random) @ torch.randn(3, 3, generator=random) + 5.0
    mapping = Likeness(300, 3)
    mapping.known.copy_(known)
    drawn = mapping(2 * torch.rand(200_000, 3, generator=random) - 1)
    torch.testing.assert_close(drawn.mean(dim=0), known.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), known.T.cov(correction=0), rtol=0.02, atol=0.02)
    mapping.known.fill_(1.0)
    assert torch.isfinite(mapping(torch.rand(4, 3))).all()


def test_began_beside_an_encoder_follows_its_losses():
    """One step of plain descent: the discriminator's loss has BEGAN's k, whatever BEGAN weighs in the generator's."""
    objective = BeganEncoder(gamma=0.5, lambda_k=0.25, weight=0.3, spectrum=0.2, memory=6)
    state = network_state(objective)
    state.variables["k"].fill_(0.4)
    random = torch.Generator().manual_seed(1)
    faces, codes = torch.randn(4, 60, 3, generator=random), torch.rand(4, 4, generator=random) * 2 - 1
    generator, encoder, critic = (state.networks[name] for name in ("generator", "encoder", "critic"))
    known, own = state.networks["mapping"].known.clone(), encoder(faces)
    made = generator(state.networks["mapping"](codes))
    real, fake = (faces - critic(faces)).abs().mean(), (made - critic(made)).abs().mean()
    rebuilt = (faces - generator(own)).abs().mean()
    spectrum = state.networks["spectrum"]
    off = (spectrum.shares * ((spectrum(made).mean(dim=0) + 1e-8).sqrt() - 1).square()).sum()
    losses = {"critic": real - 0.4 * fake, "generator": rebuilt + 0.3 * fake + 0.2 * off, "encoder": rebuilt}
    expected = {
        name: torch.autograd.grad(loss, list(state.networks[name].parameters()), retain_graph=True)
        for name, loss in losses.items()
    }
    before = {name: [p.detach().clone() for p in network.parameters()] for name, network in state.networks.items()}
    for name in state.optimisers:
        state.optimisers[name] = torch.optim.SGD(state.networks[name].parameters(), lr=1.0)
    stats = objective.step(state, Batch(faces, codes, torch.rand(4)))
    for name, gradients in expected.items():
        for parameter, old, gradient in zip(state.networks[name].parameters(), before[name], gradients, strict=True):
            torch.testing.assert_close(old - parameter.detach(), gradient, rtol=1e-3, atol=1e-5)
    assert [stats[name].item() for name in ("rebuilt", "spectrum")] == pytest.approx([rebuilt.item(), off.item()])
    assert stats["k"].item() == pytest.approx(np.clip(0.4 + 0.25 * (0.5 * real.item() - fake.item()), 0, 1))
    assert torch.equal(state.networks["mapping"].known, torch.cat([known[4:], own.detach()]))  # as a checkpoint keeps
    assert state.variables["known"] is state.networks["mapping"].known
