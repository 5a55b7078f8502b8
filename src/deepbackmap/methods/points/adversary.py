"""The paper's adversarial target on the point generator (for comparison, docs/design-notes.md).

A critic of each bead type sees what the generator sees, and the block's whitened positions: true
ones, or drawn in one step. Losses are those of the voxel networks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from deepbackmap.methods.adversarial import Frozen, critic_loss, gradient_penalty
from deepbackmap.methods.learning import apply_gradients
from deepbackmap.methods.points.generator import BlockFlow, PointGenerator
from deepbackmap.methods.points.networks import BlockCritic
from deepbackmap.methods.points.options import PointTrainingOptions


class Adversary:
    """The critics of a generator, and the steps that move them."""

    def __init__(
        self, fabric: Fabric, generator: PointGenerator, options: PointTrainingOptions
    ) -> None:
        self._fabric, self._options = fabric, options
        self._names = generator.names
        self._critics = [
            BlockCritic.beside(generator.flow(t).network).to(fabric.device) for t in self._names
        ]
        self._optimisers = [
            torch.optim.Adam(
                c.parameters(), lr=options.critic_learning_rate,
                betas=(options.beta1, options.beta2),
            )
            for c in self._critics
        ]  # fmt: skip

    def state(self) -> dict[str, object]:
        """Everything that resuming needs."""
        parts = zip(self._names, self._critics, self._optimisers, strict=True)
        return {t: {"critic": c.state_dict(), "optimiser": o.state_dict()} for t, c, o in parts}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        parts = zip(self._names, self._critics, self._optimisers, strict=True)
        for name, critic, optimiser in parts:
            critic.load_state_dict(state[name]["critic"])
            optimiser.load_state_dict(state[name]["optimiser"])

    def judge(
        self,
        bead_type: str,
        flow: BlockFlow,
        end: Float[Tensor, "b d"],
        heat: Float[Tensor, "b"],
        fixed: Float[Tensor, "b i"],
        seen: Float[Tensor, "b s f 4"],
        real: Float[Tensor, "b d"],
    ) -> tuple[Tensor, Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Moves a bead type's critic, and asks it about a draw.

        Args:
            bead_type: its name.
            flow: its generator.
            end: whitened positions of the data.
            heat: size of the noise.
            fixed, seen: of the surroundings, as the network takes them.
            real: one where the direction exists.

        Returns:
            The generator's loss (minus what the critic says), its draw, and its first stage's
            answer. Noise is that of PyTorch's own generator.
        """
        place = self._names.index(bead_type)
        critic, optimiser = self._critics[place], self._optimisers[place]
        used = torch.ones(len(end), dtype=torch.bool, device=end.device)

        def drawn() -> tuple[Tensor, Tensor]:
            noise = torch.randn_like(end) * heat[:, None] * real
            found, mean, _ = flow.network(noise, torch.zeros_like(heat), heat, fixed, seen)
            return found * real, mean

        for _ in range(self._options.critic_steps):
            with torch.no_grad():
                fake = drawn()[0]
            on_real, on_fake = critic(torch.cat([end * real, fake]), fixed, seen).chunk(2)
            penalty, _ = gradient_penalty(
                lambda x: critic(x, fixed, seen), end * real, fake, used,
                torch.rand(len(end), device=end.device),
            )  # fmt: skip
            loss = critic_loss(on_real, on_fake, used, self._options.drift)
            loss = loss + self._options.penalty * penalty
            apply_gradients(self._fabric, loss, critic, optimiser, 0.0)
        draw, mean = drawn()
        with Frozen(critic):
            return -critic(draw, fixed, seen).mean(), draw, mean
