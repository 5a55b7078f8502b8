"""What an engine is asked for and what it gives back; the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.system import Structure


@dataclass(frozen=True)
class Interactions:
    """How non-bonded forces are computed: the reference's own settings by default."""

    cutoff: float = 1.0
    """Plain cut-off of Lennard-Jones and Coulomb, nm."""
    reaction_field_epsilon: float | None = 2.5
    """Dielectric constant outside the cut-off; None: bare 1/r."""
    dispersion_correction: bool = True
    """Of energy and pressure; shifts the energy only, but for the barostat."""


@dataclass(frozen=True)
class Minimisation:
    """Steepest descent or as good."""

    steps: int
    bond_constant: float | None = None
    """Stiffness of all bonds in kJ mol-1 nm-2 while it runs; None keeps the topology's."""
    nonbonded: bool = True
    """False: bonded terms only, so that entangled starts can pass through each other."""
    first_step: float = 0.01
    """nm."""
    tolerance: float = 0.0
    """Largest force in kJ mol-1 nm-1 to stop at; 0: all steps are taken."""


@dataclass(frozen=True)
class Dynamics:
    """Molecular dynamics at a temperature."""

    steps: int
    temperature: float
    """K."""
    timestep: float = 0.001
    """ps."""
    friction: float = 10.0
    """Of the Langevin thermostat, 1/ps; ignored with ``thermostat`` v-rescale."""
    thermostat: str = "langevin"
    """langevin or v-rescale (GROMACS only; tau 0.2 ps)."""
    pressure: float | None = None
    """Of an isotropic barostat in bar; None: constant volume."""
    constrain: bool = True
    """Hold every bond at its length in the topology."""
    seed: int = 0
    every: int = 10
    """Steps between two recorded energies."""
    frames_every: int = 0
    """Steps between two kept frames; 0 keeps the last only."""


@dataclass(frozen=True)
class Hold:
    """Harmonic restraint of mapped bead positions."""

    beads: Float64[np.ndarray, "b 3"]
    """Where they are held, nm, any periodic image."""
    constant: float
    """kJ mol-1 nm-2."""


@dataclass(frozen=True)
class Segment:
    """The outcome of one call of an engine."""

    structure: Structure
    """Last frame, molecules whole."""
    velocities: Float64[np.ndarray, "n 3"] | None
    """nm/ps; None after a minimisation."""
    step: Int64[np.ndarray, " k"]
    """Step of every recorded energy, from 0."""
    energies: Mapping[str, Float64[np.ndarray, " k"]]
    """kJ/mol by term, named as ``forcefield.system.TERMS`` where both have it, and ``potential``
    (dispersion correction included), ``kinetic``; ``volume`` in nm^3 and ``temperature`` in K."""
    frames: tuple[Structure, ...]
    """As asked for by ``frames_every``."""
    force_evaluations: int
    """Of the whole system."""


@runtime_checkable
class Engine(Protocol):
    """Minimises and runs one system; made by ``dynamics.engines.open_engine``.

    Raises ``EngineError`` with one sentence when a run cannot be carried out (a force that is
    not finite, a constraint that cannot be met), naming the molecule and atoms where it knows.
    """

    name: str
    """internal, gromacs, or openmm with the platform."""

    def minimise(
        self, structure: Structure, options: Minimisation, hold: Hold | None = None
    ) -> Segment:
        """Lowers the energy of a structure; molecules need not be whole."""
        ...

    def run(
        self,
        structure: Structure,
        options: Dynamics,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        hold: Hold | None = None,
    ) -> Segment:
        """Runs dynamics; velocities are drawn from ``options.seed`` where none are given.

        With constraints a start whose bonds are off is first projected onto them.
        """
        ...


class EngineError(Exception):
    """An engine could not carry out a run; one sentence."""
