"""The two players of a BEGAN training step, and the step itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from meshgan.geometry.hierarchy import Hierarchy
from meshgan.nn.networks import Autoencoder, Decoder
from meshgan.training.began import reconstruction_loss, set_gradients

K = torch.tensor(0.3)  # BEGAN's k_t: any number in (0, 1) costs the same


class Player:
    """Generator and discriminator of one version, with their optimisers."""

    def __init__(self, generator: Any, critic: Any) -> None:
        self.generator, self.critic = generator, critic
        networks: tuple[nn.Module, nn.Module] = (generator, critic)
        self.optimisers = [torch.optim.Adam(network.parameters(), lr=1e-4, fused=True) for network in networks]

    @classmethod
    def of(cls, hierarchy: Hierarchy) -> "Player":
        """Our networks on a hierarchy, always with the same weights."""
        random = torch.Generator().manual_seed(0)
        return cls(Decoder(hierarchy, generator=random), Autoencoder(hierarchy, generator=random))

    def losses(self, faces: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G(z), L(x) and L(G(z))."""
        generated = self.generator(codes)
        return generated, *(reconstruction_loss(self.critic, x) for x in (faces, generated))

    def gradients(self, faces: Tensor, codes: Tensor) -> None:
        """Gradients of both players by one backward pass each through D(x) and D(G(z))."""
        _, real, fake = self.losses(faces, codes)
        set_gradients(real, fake, K, self.critic.parameters(), self.generator.parameters())

    def stepper(self, faces: Tensor) -> Callable[[], None]:
        """One training step on these faces and new codes."""
        random = torch.Generator().manual_seed(2)

        def step() -> None:
            self.gradients(faces, torch.rand(len(faces), 64, generator=random) * 2 - 1)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad()

        return step
