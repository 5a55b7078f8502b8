"""Templates set onto beads: the nearest fragments of each bead, and the ones that fit together.

1. For every bead the fragments whose surrounding beads are most like those found, each turned about
   the bead by the best superposition (``superposition``).
2. Sweeps along the chains: bead by bead one of these candidates is chosen by its energy with
   everything placed around it, bonded terms between beads and Lennard-Jones with a ceiling.

Energies inside a fragment are left out: fragments come from a simulation and carry them already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.baselines.beads import bead_topology, whole_beads
from deepbackmap.baselines.joints import Joints, find_joints, joint_energies
from deepbackmap.baselines.sites import Site, find_sites
from deepbackmap.baselines.superposition import nearest_by_distances, random_turns, superpose
from deepbackmap.baselines.surroundings import Crowd, Surroundings
from deepbackmap.baselines.templates import Fragments, TemplateSet, match_site
from deepbackmap.geometry.counter_random import hash_counters, uniform
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Structure

PREFILTER = 4
"""Templates compared by superposition, as a multiple of the candidates."""


@dataclass(frozen=True)
class TemplateOptions:
    """How fragments are chosen."""

    candidates: int = 16
    """Nearest fragments of each bead that are tried; 1 takes the nearest."""
    sweeps: int = 4
    """Times that every bead chooses again."""
    temperature: float = 0.0
    """K: candidates are drawn with Boltzmann's weight; 0 takes the lowest energy."""
    decay: float = 0.4
    """Weight of a surrounding bead in the superposition, to the power of its bonds less one."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.sweeps < 0 or self.temperature < 0.0:
            raise ValueError(
                f"candidates, sweeps, temperature: expected at least 1, 0, 0, got "
                f"{self.candidates}, {self.sweeps}, {self.temperature}"
            )


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
        used = {index for index, count in mapping.topology.blocks if count}
        self._fits = tuple(
            self._fit_molecule(templates, k) if k in used else ()
            for k in range(len(mapping.molecules))
        )
        self._crowd = Crowd(mapping, reach=_reach(self._fits))

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
        candidates = self._candidates(whole, frame)
        for (index, first_atom, _first_bead, count), per_bead in candidates:
            for fit, placed in zip(self._fits[index], per_bead, strict=True):
                atoms = self._atoms(index, first_atom, count, fit)
                relative[atoms] = placed[:, 0]
        for sweep in range(self._options.sweeps):
            self._sweep(candidates, whole, around, relative, frame, sweep)
        return replace(beads, positions=whole[owner] + relative)

    def _fit_molecule(self, templates: TemplateSet, index: int) -> tuple[_Fit, ...]:
        molecule, beads = (
            self._mapping.topology.molecule_types[index],
            self._mapping.molecules[index],
        )
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
                )
            )
        return tuple(fits)

    def _candidates(
        self, whole: Float64[np.ndarray, "b 3"], frame: int
    ) -> list[tuple[tuple[int, int, int, int], list[Float64[np.ndarray, "m k a 3"]]]]:
        """For each run of molecules and each of its beads the atoms of every candidate."""
        found, atom, bead = [], 0, 0
        topology = self._mapping.topology
        for index, count in topology.blocks:
            n, b = topology.molecule_types[index].n_atoms, self._mapping.molecules[index].n_beads
            copies = whole[bead : bead + b * count].reshape(count, b, 3)
            if count:
                per_bead = [
                    self._candidates_of(fit, k, copies, bead, frame)
                    for k, fit in enumerate(self._fits[index])
                ]
                found.append(((index, atom, bead, count), per_bead))
            atom, bead = atom + n * count, bead + b * count
        return found

    def _candidates_of(
        self, fit: _Fit, k: int, copies: Float64[np.ndarray, "m b 3"], first: int, frame: int
    ) -> Float64[np.ndarray, "m k a 3"]:
        targets = copies[:, fit.beads] - copies[:, k : k + 1]
        library = fit.fragments.beads[:, fit.shared]
        wanted = self._options.candidates
        near = nearest_by_distances(library, targets, fit.weights, PREFILTER * wanted)
        turns, left = superpose(library[near], targets, fit.weights)
        best = np.argsort(left, axis=1, kind="stable")[:, :wanted]
        rows = np.arange(len(near))[:, None]
        chosen, turns = near[rows, best], turns[rows, best]
        if len(fit.beads) < 2:  # the beads leave the angle about them, or all three, free
            keys = hash_counters(
                self._options.seed,
                frame,
                -1,
                first + torch.arange(len(copies)) * copies.shape[1] + k,
            )
            draws = uniform(keys, 3 * chosen.shape[1]).numpy().astype(np.float64)
            axes = targets[:, 0] if len(fit.beads) else np.zeros((len(copies), 3))
            turns = random_turns(axes, draws.reshape(*chosen.shape, 3)) @ turns
        return np.einsum("mkij,mkaj->mkai", turns, fit.fragments.atoms[chosen])

    def _atoms(self, index: int, first: int, count: int, fit: _Fit) -> Int64[np.ndarray, "m a"]:
        """Atoms of the system that a bead owns, in every copy of its molecule."""
        n = self._mapping.topology.molecule_types[index].n_atoms
        return first + n * np.arange(count)[:, None] + np.array(fit.site.atoms)[None]

    def _sweep(
        self,
        candidates: Sequence[
            tuple[tuple[int, int, int, int], list[Float64[np.ndarray, "m k a 3"]]]
        ],
        whole: Float64[np.ndarray, "b 3"],
        around: Surroundings,
        relative: Float64[np.ndarray, "n 3"],
        frame: int,
        sweep: int,
    ) -> None:
        """Every bead chooses again, in place."""
        for (index, first_atom, first_bead, count), per_bead in candidates:
            b = self._mapping.molecules[index].n_beads
            for k in self._mapping.molecules[index].order.tolist():
                fit, placed = self._fits[index][k], per_bead[k]
                if placed.shape[1] == 1:
                    continue
                beads = first_bead + b * np.arange(count) + k
                atoms = self._atoms(index, first_atom, count, fit)
                energy = joint_energies(
                    fit.joints, placed, whole, relative, beads, atoms,
                    self._mapping.molecules[index].owner, first_atom, first_bead,
                )  # fmt: skip
                energy = energy + self._crowd.energies(
                    around, index, relative, beads, atoms, placed
                )
                pick = self._pick(energy, beads, frame, sweep)
                relative[atoms] = placed[np.arange(count), pick]

    def _pick(
        self,
        energy: Float64[np.ndarray, "m k"],
        beads: Int64[np.ndarray, " m"],
        frame: int,
        sweep: int,
    ) -> Int64[np.ndarray, " m"]:
        if self._options.temperature > 0.0:
            keys = hash_counters(self._options.seed, frame, sweep, torch.from_numpy(beads))
            u = uniform(keys, energy.shape[1]).numpy().astype(np.float64)
            # The largest of weights with Gumbel noise is a draw by weight.
            energy = energy / (_GAS * self._options.temperature) + np.log(-np.log(u))
        return energy.argmin(axis=1).astype(np.int64)


_GAS = 0.00831446261815324
"""kJ mol-1 K-1."""


def _reach(fits: Sequence[tuple[_Fit, ...]]) -> float:
    """Largest distance of a fragment's atom from its bead, nm."""
    return max(
        (float(np.linalg.norm(f.fragments.atoms, axis=-1).max()) for t in fits for f in t),
        default=0.0,
    )
