"""Templates set onto beads: the nearest fragments of each bead, and the ones that fit together.

1. For every bead the fragments whose surrounding beads are most like those found, each turned about
   the bead by the best superposition (``superposition``).
2. Sweeps along the chains: bead by bead one of these candidates is chosen by its energy with
   everything placed around it, bonded terms between beads and Lennard-Jones with a ceiling. In the
   first sweep each bead at an end of the bead graph chooses together with the bead that it is
   bonded to: one cannot go to another conformation without the other.

Energies inside a fragment are left out: fragments come from a simulation and carry them already,
at its temperature T0. Where candidates are drawn at another temperature T, the weight
exp(-(1/RT - 1/RT0) U) of the energy inside corrects for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.baselines.beads import bead_topology, whole_beads
from deepbackmap.baselines.joints import Joints, find_joints, inner_energies, joint_energies
from deepbackmap.baselines.sites import Site, find_sites
from deepbackmap.baselines.superposition import nearest_by_distances, superpose
from deepbackmap.baselines.surroundings import Crowd, Surroundings
from deepbackmap.baselines.templates import Fragments, TemplateSet, match_site
from deepbackmap.geometry.counter_random import hash_counters, uniform
from deepbackmap.geometry.turns import random_turns
from deepbackmap.mapping import SystemMapping
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure

PREFILTER = 4
"""Templates compared by superposition, as a multiple of the candidates."""


@dataclass(frozen=True)
class TemplateOptions:
    """How fragments are chosen."""

    candidates: int = 40
    """Nearest fragments of each bead that are tried; 1 takes the nearest."""
    sweeps: int = 4
    """Times that every bead chooses again."""
    temperature: float | None = None
    """K: candidates are drawn with Boltzmann's weight; None takes the lowest energy."""
    decay: float = 0.2
    """Weight of a surrounding bead in the superposition, to the power of its bonds less one."""
    misfit: float = 2000.0
    """kJ mol-1 nm-2: what a fragment pays for beads around it that lie elsewhere."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.sweeps < 0 or not self.misfit >= 0.0:
            raise ValueError(
                f"candidates, sweeps, misfit: expected at least 1, 0 and 0, got "
                f"{self.candidates}, {self.sweeps} and {self.misfit}"
            )
        if self.temperature is not None and not self.temperature > 0.0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


@dataclass(frozen=True)
class _Run:
    """Molecules of one type in a row."""

    index: int
    """Of the molecule type."""
    first_atom: int
    first_bead: int
    count: int


@dataclass(frozen=True)
class _Choices:
    """Candidates of one bead in every molecule of a run."""

    atoms: Float64[np.ndarray, "m k a 3"]
    """Relative to the bead, nm, the best superposition first."""
    inner: Float64[np.ndarray, "m k"]
    """Energy inside each, kJ/mol."""
    misfit: Float64[np.ndarray, "m k"]
    """Weighted sum of squared distances of the beads around it from those found, nm^2."""


@dataclass(frozen=True)
class _Fit:
    """One bead of a molecule type with the fragments that it may take."""

    site: Site
    fragments: Fragments
    shared: Int64[np.ndarray, " l"]
    """Surrounding beads of the fragments that the site has too."""
    beads: Int64[np.ndarray, " l"]
    """The same beads in the molecule."""
    weights: Float64[np.ndarray, " l"]
    joints: Joints
    inner: Float64[np.ndarray, " f"]
    """Energy inside each fragment, kJ/mol."""


@dataclass(frozen=True)
class _Pair:
    """Two bonded beads of a molecule type that choose together."""

    first: int
    second: int
    joints: Joints


class TemplatePlacer:
    """Places the atoms of a system's beads, frame by frame."""

    def __init__(
        self, mapping: SystemMapping, templates: TemplateSet, options: TemplateOptions
    ) -> None:
        """Find the fragments of every bead.

        Args:
            mapping: of the system.
            templates: fragments of all of its kinds of bead.
            options: how they are chosen.

        Raises:
            InputError: a bead has no fragments.
        """
        self._mapping, self._options = mapping, options
        self._graph = bead_topology(mapping)
        self._runs = _runs(mapping)
        used = {run.index for run in self._runs}
        self._fits = tuple(
            self._fit_molecule(templates, k) if k in used else ()
            for k in range(len(mapping.molecules))
        )
        self._crowd = Crowd(mapping, reach=_reach(self._fits))
        self._pairs = tuple(
            self._pair_molecule(k) if k in used else () for k in range(len(mapping.molecules))
        )
        self._beta, self._inner = _weights(options, templates)

    def place(self, beads: Structure, *, frame: int, source: str = "beads") -> Structure:
        """Atoms of one frame.

        Args:
            beads: the frame, wrapped or not.
            frame: its number, which the random numbers depend on.
            source: what to call it in an error.

        Returns:
            Atoms, molecules whole.

        Raises:
            InputError: bonded beads are farther apart than half the cell.
        """
        whole = whole_beads(self._mapping, beads, table=self._graph, source=source)
        around = self._crowd.surroundings(whole, beads.box)
        owner = self._mapping.atom_owners()
        relative = np.zeros((len(owner), 3))
        choices = [
            [self._choices(run, k, whole, frame) for k in range(len(self._fits[run.index]))]
            for run in self._runs
        ]
        for run, per_bead in zip(self._runs, choices, strict=True):
            for k, found in enumerate(per_bead):
                relative[self._atoms(run, k)] = found.atoms[:, 0]
        for sweep in range(self._options.sweeps):
            for run, per_bead in zip(self._runs, choices, strict=True):
                for k in self._mapping.molecules[run.index].order.tolist():
                    self._choose(run, k, per_bead[k], whole, around, relative, (frame, sweep))
                for pair in self._pairs[run.index] if sweep == 0 else ():
                    self._choose_pair(run, pair, per_bead, whole, around, relative, frame)
        return replace(beads, positions=whole[owner] + relative)

    def _fit_molecule(self, templates: TemplateSet, index: int) -> tuple[_Fit, ...]:
        molecule = self._mapping.topology.molecule_types[index]
        beads = self._mapping.molecules[index]
        fits = []
        for k, site in enumerate(find_sites(molecule, beads)):
            name = f"bead {beads.bead_names[k]} of molecule {molecule.name}"
            found = match_site(templates, site, name)
            known = {label: m for m, label in enumerate(found.labels)}
            both = [m for m, label in enumerate(site.labels) if label in known]
            fits.append(
                _Fit(
                    site,
                    found,
                    np.array([known[site.labels[m]] for m in both], dtype=np.int64),
                    np.array([site.beads[m] for m in both], dtype=np.int64),
                    self._options.decay ** np.array([site.distances[m] - 1.0 for m in both]),
                    find_joints(molecule, site.atoms),
                    inner_energies(molecule, site.atoms, found.atoms),
                )
            )
        return tuple(fits)

    def _pair_molecule(self, index: int) -> tuple[_Pair, ...]:
        """Beads with one neighbour, each with that neighbour."""
        bonds = self._mapping.molecules[index].bead_bonds
        ends, counts = np.unique(bonds, return_counts=True)
        single = set(ends[counts == 1].tolist())
        molecule, fits = self._mapping.topology.molecule_types[index], self._fits[index]
        return tuple(
            _Pair(i, j, find_joints(molecule, fits[i].site.atoms, fits[j].site.atoms))
            for i, j in bonds.tolist()
            if i in single or j in single
        )

    def _choices(
        self, run: _Run, k: int, whole: Float64[np.ndarray, "b 3"], frame: int
    ) -> _Choices:
        """The fragments nearest to what is around bead ``k`` of every molecule, turned onto it."""
        fit, beads = self._fits[run.index][k], self._beads(run, k)
        around = beads[:, None] - k + fit.beads[None]
        targets = whole[around] - whole[beads][:, None]
        library = fit.fragments.beads[:, fit.shared]
        wanted = self._options.candidates
        near = nearest_by_distances(library, targets, fit.weights, PREFILTER * wanted)
        turns, left = superpose(library[near], targets, fit.weights)
        best = np.argsort(left, axis=1, kind="stable")[:, :wanted]
        rows = np.arange(len(near))[:, None]
        chosen, turns, left = near[rows, best], turns[rows, best], left[rows, best]
        if len(fit.beads) < 2:  # the beads leave the angle about them, or all three, free
            keys = hash_counters(self._options.seed, frame, -1, torch.from_numpy(beads))
            draws = uniform(keys, 3 * chosen.shape[1]).numpy().astype(np.float64)
            axes = targets[:, 0] if len(fit.beads) else np.zeros((run.count, 3))
            turns = random_turns(axes, draws.reshape(*chosen.shape, 3)) @ turns
        atoms = np.einsum("mkij,mkaj->mkai", turns, fit.fragments.atoms[chosen])
        return _Choices(atoms, fit.inner[chosen], fit.weights.sum() * left)

    def _beads(self, run: _Run, k: int) -> Int64[np.ndarray, " m"]:
        """Bead ``k`` of every molecule of a run."""
        return (
            run.first_bead
            + k
            + self._mapping.molecules[run.index].n_beads * np.arange(run.count, dtype=np.int64)
        )

    def _atoms(self, run: _Run, k: int) -> Int64[np.ndarray, "m a"]:
        """Atoms that bead ``k`` owns in every molecule of a run."""
        n = self._mapping.topology.molecule_types[run.index].n_atoms
        owned = np.array(self._fits[run.index][k].site.atoms, dtype=np.int64)
        return run.first_atom + n * np.arange(run.count, dtype=np.int64)[:, None] + owned

    def _choose(
        self,
        run: _Run,
        k: int,
        choices: _Choices,
        whole: Float64[np.ndarray, "b 3"],
        around: Surroundings,
        relative: Float64[np.ndarray, "n 3"],
        turn: tuple[int, int],
    ) -> None:
        """Bead ``k`` of every molecule takes a candidate, in place; ``turn``: frame and sweep."""
        if choices.atoms.shape[1] == 1:
            return
        beads, atoms = self._beads(run, k), self._atoms(run, k)
        energy = joint_energies(
            self._fits[run.index][k].joints, choices.atoms, whole, relative, beads,
            self._mapping.molecules[run.index].owner, run.first_atom, run.first_bead,
        )  # fmt: skip
        energy += self._crowd.energies(around, run.index, relative, beads, atoms, choices.atoms)
        energy = self._beta * energy + self._own(choices)
        pick = self._pick(energy, beads, turn)
        relative[atoms] = choices.atoms[np.arange(run.count), pick]

    def _choose_pair(
        self,
        run: _Run,
        pair: _Pair,
        choices: Sequence[_Choices],
        whole: Float64[np.ndarray, "b 3"],
        around: Surroundings,
        relative: Float64[np.ndarray, "n 3"],
        frame: int,
    ) -> None:
        """Two bonded beads of every molecule take the best of all pairs of candidates, in place."""
        first, second = choices[pair.first], choices[pair.second]
        k, n = first.atoms.shape[1], second.atoms.shape[1]
        beads = self._beads(run, pair.first), self._beads(run, pair.second)
        atoms = self._atoms(run, pair.first), self._atoms(run, pair.second)
        apart = (whole[beads[1]] - whole[beads[0]])[:, None, None]
        lj = [
            self._crowd.energies(around, run.index, relative, b, a, c.atoms, without=other)
            for b, a, c, other in zip(beads, atoms, (first, second), beads[::-1], strict=True)
        ]
        energy = lj[0][:, :, None] + lj[1][:, None]
        energy += self._crowd.between(run.index, atoms, (first.atoms, second.atoms + apart))
        both = np.concatenate(
            [
                np.repeat(first.atoms[:, :, None], n, axis=2),
                np.repeat((second.atoms + apart)[:, None], k, axis=1),
            ],
            axis=3,
        ).reshape(run.count, k * n, -1, 3)
        joined = joint_energies(
            pair.joints, both, whole, relative, beads[0],
            self._mapping.molecules[run.index].owner, run.first_atom, run.first_bead,
        )  # fmt: skip
        energy = self._beta * (energy + joined.reshape(run.count, k, n))
        energy += self._own(first)[:, :, None] + self._own(second)[:, None]
        pick = self._pick(energy.reshape(run.count, k * n), beads[1], (frame, -2))
        rows = np.arange(run.count)
        relative[atoms[0]] = first.atoms[rows, pick // n]
        relative[atoms[1]] = second.atoms[rows, pick % n]

    def _own(self, choices: _Choices) -> Float64[np.ndarray, "m k"]:
        """What candidates cost by themselves, in units of the energy that is weighed with."""
        return self._inner * choices.inner + self._beta * self._options.misfit * choices.misfit

    def _pick(
        self,
        energy: Float64[np.ndarray, "m k"],
        beads: Int64[np.ndarray, " m"],
        turn: tuple[int, int],
    ) -> Int64[np.ndarray, " m"]:
        """The lowest, or one drawn by weight with random numbers of its own for each turn."""
        if self._options.temperature is not None:
            keys = hash_counters(self._options.seed, *turn, torch.from_numpy(beads))
            u = uniform(keys, energy.shape[1]).numpy().astype(np.float64)
            # The largest of logarithms of weights with Gumbel noise is a draw by weight.
            energy = energy + np.log(-np.log(u))
        return energy.argmin(axis=1).astype(np.int64)


def _runs(mapping: SystemMapping) -> tuple[_Run, ...]:
    found, atom, bead = [], 0, 0
    for index, count in mapping.topology.blocks:
        if count:
            found.append(_Run(index, atom, bead, count))
        atom += mapping.topology.molecule_types[index].n_atoms * count
        bead += mapping.molecules[index].n_beads * count
    return tuple(found)


def _weights(options: TemplateOptions, templates: TemplateSet) -> tuple[float, float]:
    """Factors of the energies between and inside fragments, mol/kJ."""
    if options.temperature is None:
        return 1.0, 0.0
    beta = 1.0 / (BOLTZMANN * options.temperature)
    learned = templates.provenance.get("temperature")
    return beta, 0.0 if learned is None else beta - 1.0 / (BOLTZMANN * float(learned))


def _reach(fits: Sequence[tuple[_Fit, ...]]) -> float:
    """Largest distance of a fragment's atom from its bead, nm."""
    return max(
        (float(np.linalg.norm(f.fragments.atoms, axis=-1).max()) for t in fits for f in t),
        default=0.0,
    )
