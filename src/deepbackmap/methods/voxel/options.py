"""Options of the voxel method: densities on a grid, atom by atom (the paper's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepbackmap.methods.options import (
    MOST,
    MethodOptions,
    ModelOptions,
    Ramp,
    SamplingOptions,
    TrainingOptions,
    check_choice,
    check_ranges,
    ranged,
)

FRAMES = ("axis", "plane")
ARCHITECTURES = ("residual", "plain")
HIDDEN = ("adjacent", "chain")
CHOICES = ("lowest", "boltzmann", "reweight")
ENSEMBLE = 16
"""Candidates where a temperature is asked for and their number is not: to choose by weight needs
some to choose from."""


@dataclass(frozen=True)
class VoxelOptions:
    """The grid and what is put on it."""

    voxels: int = ranged(8, 2, 64)
    """Voxels along each edge."""
    edge: float = ranged(1.2, 0.1, 10.0)
    """Edge of the cube in nm; half of it is the paper's r_cut of 0.6 nm."""
    width: float = ranged(0.1, 0.005, 2.0)
    """Standard deviation of the Gaussians, nm (II C; exp(-d^2/(2 width^2)), peak 1)."""
    radius: float = ranged(0.7, 0.05, 5.0)
    """Atoms and beads within this distance of the bead are seen, nm."""
    frame: str = "axis"
    """``axis``: z along a bond, the angle about it free (the paper); ``plane``: a third bead
    fixes that angle as well."""
    same_molecule_beads: bool = False
    """One more channel for the beads of the target's own molecule."""
    hidden_hydrogens: str = "adjacent"
    """Hydrogens that heavy atoms do not see when a sweep places them anew: ``adjacent``: those of
    the bead and of the beads it is bonded to (the paper); ``chain``: all of the molecule."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_choice("frame", self.frame, FRAMES)
        check_choice("hidden_hydrogens", self.hidden_hydrogens, HIDDEN)


@dataclass(frozen=True)
class NetworkOptions:
    """Widths and depths of both networks. The defaults are the paper's."""

    architecture: str = "residual"
    """``residual``: the paper's; ``plain``: the small one of the authors' later code."""
    channels: int = ranged(128, 1, 2048)
    """Generator width c at full resolution; 2c at half."""
    critic_channels: int = ranged(128, 1, 2048)
    """Critic width."""
    noise: int = ranged(256, 1, 8192)
    """Dimension of the noise vector."""
    condition_blocks: int = ranged(3, 0, 64)
    """Residual blocks of the condition at full resolution."""
    middle_blocks: int = ranged(2, 0, 64)
    """Residual blocks at half resolution."""
    output_blocks: int = ranged(3, 0, 64)
    """Residual blocks (width 2c) before the output."""
    slope: float = ranged(0.2, 0.0, 1.0)
    """Of the leaky rectifier."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_choice("architecture", self.architecture, ARCHITECTURES)


@dataclass(frozen=True)
class VoxelModelOptions(ModelOptions):
    """What a voxel model is."""

    voxel: VoxelOptions = field(default_factory=VoxelOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> ModelOptions:
        """As ``ModelOptions.from_values``; models made before there was a choice of the hydrogens
        that heavy atoms do not see were trained without those of the whole molecule."""
        voxel = values.get("voxel", {})
        if isinstance(voxel, Mapping):
            values = {**values, "voxel": {"hidden_hydrogens": "chain", **voxel}}
        return super().from_values(values, where)

    def bead_cutoff(self, reach: float) -> float:
        """Beads within this distance may see each other's atoms, nm."""
        return self.voxel.radius + reach

    def least_height(self) -> float:
        """Least height of a box that such a model is trained on, nm."""
        return 2 * self.voxel.radius

    def words(self) -> str:
        """A line for the list of models."""
        voxel = self.voxel
        return (
            f"{voxel.voxels}^3 voxels of {voxel.edge:g} nm, radius {voxel.radius:g} nm, "
            f"frame {voxel.frame}, {self.network.channels} channels"
        )


@dataclass(frozen=True)
class VoxelTrainingOptions(TrainingOptions):
    """How a voxel model is trained. The defaults are the paper's (II D 2, Eqs. 9 to 15)."""

    critic_steps: int = ranged(5, 1, 1000)
    """Critic updates for each generator update."""
    critic_learning_rate: float = ranged(1e-4, 0.0, 10.0)
    penalty: float = ranged(0.1, 0.0, 1e6)
    """Weight of the gradient penalty (Eq. 10)."""
    penalty_every: int = ranged(1, 1, 1000)
    """Critic updates of which one has the penalty, with as many times its weight; 1: all have it
    (the paper)."""
    critic_alone_from: int = ranged(0, 0, MOST)
    critic_alone_until: int = ranged(0, 0, MOST)
    """Iterations, from the first on and before the second, in which the critic alone is trained,
    so that it knows what the generator makes before the generator listens to it."""
    adversarial_rate: float = ranged(1.0, 0.0, 1.0)
    """Part of the generator's learning rate that is left while the critic weighs in."""
    gaussian_bias: bool = False
    """Begin with an output bias with which a fresh density sums to about what a Gaussian sums to,
    instead of half the grid."""
    drift: float = ranged(0.0, 0.0, 1e6)
    """Weight of the critic's squared output on real samples (0.001 in the authors' code)."""
    adversarial: Ramp = field(default_factory=lambda: Ramp(1.0, 1.0))
    """Weight of the critic in the generator's loss; no critic is trained while it is 0."""
    prior: Ramp = field(default_factory=lambda: Ramp(0.0, 0.01, 6_000, 10_000))
    """Weight lambda_Phi of the physical prior (Eq. 15)."""
    score: Ramp = field(default_factory=Ramp)
    """Weight of the energy score (not in the paper): a proper scoring rule on the positions and
    internal coordinates of two independent draws. See docs/training.md."""
    density: Ramp = field(default_factory=Ramp)
    """Weight of the squared difference of generated and true densities, summed over the grid (not
    in the paper): makes generated densities Gaussians early on."""
    augment: bool = True
    """Turn every environment by a random angle about z."""
    canonical: bool = False
    """Relabel the two sides of symmetric groups (phenyl rings) the same way in all frames."""
    compile: bool = False
    """Compile both networks with torch.compile."""


@dataclass(frozen=True)
class VoxelSamplingOptions(SamplingOptions):
    """How a voxel model places atoms. Each sweep places the heavy, then the light atoms anew."""

    sweeps: int = ranged(2, 0, 100_000)
    """Gibbs sweeps after the first pass."""
    candidates: int = ranged(1, 1, 1_000_000)
    """Ensemble drawn for each sequence: orientations about the free axis (II D 3), where the
    model leaves it free, and independent noise."""
    choice: str = "lowest"
    """``lowest``: the candidate of lowest energy (the paper's). ``boltzmann``: one drawn with
    weight exp(-U/kT) at ``temperature``. ``reweight``: with weight exp(-U (1/kT - 1/kT0)), T0
    being the temperature of training: the exact correction of a model that is exact at T0."""
    block_relaxation: int = ranged(0, 0, 10_000_000)
    """Steps of thermal relaxation of each block at the end of each sweep (without sweeps: of the
    first pass); 0: none (``methods.voxel.relaxation``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("choice", self.choice, CHOICES)

    @classmethod
    def chosen(cls, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> VoxelSamplingOptions:
        """As ``SamplingOptions.chosen``. A temperature needs a relaxation, which is at it, or a
        choice by weight among several candidates; a choice needs several to choose from."""
        values = {**defaults, **given}
        if "temperature" in given and not values.get("block_relaxation"):
            if "choice" not in given:
                values["choice"] = "reweight"
            if "candidates" not in given:
                values["candidates"] = max(int(values.get("candidates", 1)), ENSEMBLE)
            if values["choice"] == "lowest" or values["candidates"] == 1:
                raise ValueError(
                    "temperature: expected choice boltzmann or reweight among several candidates, "
                    f"found choice {values['choice']} among {values['candidates']}, which no "
                    "temperature changes"
                )
        found = cls(**values)
        if "choice" in given and found.candidates == 1:
            raise ValueError("choice: expected several candidates to choose from, got 1")
        return found


OPTIONS = MethodOptions(
    name="voxel",
    model=VoxelModelOptions,
    training=VoxelTrainingOptions,
    sampling=VoxelSamplingOptions,
    shares_frames=False,
)
