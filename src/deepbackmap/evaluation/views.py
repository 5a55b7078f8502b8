"""The molecules that a person should look at first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry import rings
from deepbackmap.evaluation.defects import CLOSE
from deepbackmap.evaluation.observables import Measurements
from deepbackmap.evaluation.plan import Plan
from deepbackmap.evaluation.result import MoleculeView
from deepbackmap.evaluation.table import bonds_held, inverted
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.system import Structure, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.whole import make_whole

BY_ENERGY = 4
"""Molecules shown for their energy."""
BY_DEFECT = 2
"""Molecules shown for each kind of defect: pierced ring, inverted centre, clash."""
NOTABLE = 5.0
"""Reference standard deviations above the mean from which an energy is told of a molecule that
is shown for something else."""
TERMS = {
    "LJ": ("lj intra", "lj inter"),
    "Coulomb": ("coulomb intra", "coulomb inter"),
    "bond energy": ("bond",),
    "angle energy": ("angle",),
    "proper energy": ("proper",),
    "improper energy": ("improper",),
}


@dataclass(frozen=True)
class Excess:
    """How far every molecule's worst energy is above the reference."""

    terms: tuple[str, ...]
    energy: Float64[np.ndarray, "t f m"]
    """Above the reference's mean, kJ/mol."""
    deviations: Float64[np.ndarray, "t f m"]
    """The same in standard deviations of the reference."""

    @property
    def worst(self) -> Float64[np.ndarray, "f m"]:
        """The largest of the terms, in standard deviations."""
        return self.deviations.max(axis=0)

    def text(self, frame: int, molecule: int) -> str:
        """The worst term of a molecule in words."""
        term = int(self.deviations[:, frame, molecule].argmax())
        energy, deviations = (
            float(a[term, frame, molecule]) for a in (self.energy, self.deviations)
        )
        side = "above" if deviations >= 0.0 else "below"
        return (
            f"{self.terms[term]} {energy:+.0f} kJ/mol, {abs(deviations):.1f} reference sd {side} "
            f"the mean"
        )


def excess(plan: Plan, reference: Measurements, generated: Measurements) -> Excess:
    """Energies of molecules against those of the reference's molecules of the same type.

    Bonds that the reference held are left out: whatever moves is far from them.
    """
    types = plan.topology.molecule_type_index()
    names, energies, deviations = [], [], []
    for term, parts in TERMS.items():
        if term == "bond energy" and bonds_held(reference):
            continue
        first, second = (
            np.sum([m.energies[p] for p in parts], axis=0) for m in (reference, generated)
        )
        above, scaled = np.zeros_like(second), np.zeros_like(second)
        for t in np.unique(types):
            of_type = types == t
            above[:, of_type] = second[:, of_type] - first[:, of_type].mean()
            spread = float(first[:, of_type].std())
            scaled[:, of_type] = above[:, of_type] / spread if spread > 0.0 else 0.0
        names.append(term)
        energies.append(above)
        deviations.append(scaled)
    return Excess(tuple(names), np.array(energies), np.array(deviations))


def inverted_of(
    plan: Plan, reference: Measurements, generated: Measurements
) -> Int64[np.ndarray, "f m"]:
    """Inverted stereocentres of every molecule."""
    found = np.zeros((generated.n_frames, plan.topology.n_molecules), dtype=np.int64)
    frame, centre = np.nonzero(inverted(reference.handedness, generated.handedness))
    np.add.at(found, (frame, plan.molecule[plan.centres[centre, 0]]), 1)
    return found


def worst_molecules(
    plan: Plan,
    method: str,
    reference: Measurements,
    generated: Measurements,
    frame_at: Callable[[int], Structure],
    numbers: Int64[np.ndarray, " f"],
) -> tuple[MoleculeView, ...]:
    """The molecules with the highest energies, and some of those with a defect.

    Args:
        plan: of the system.
        method: name.
        reference: measured.
        generated: measured.
        frame_at: reads the k-th generated frame again.
        numbers: of the generated frames in their file.

    Returns:
        Highest energy first, then those that are shown for a defect only.
    """
    above = excess(plan, reference, generated)
    wrong = inverted_of(plan, reference, generated)
    chosen = dict.fromkeys(_largest(above.worst, BY_ENERGY))
    by_energy = set(chosen)
    for defects in (generated.pierced_of, wrong, generated.clashes_of):
        chosen |= dict.fromkeys(_largest(np.where(defects > 0, defects, -np.inf), BY_DEFECT))
    views, structures = [], dict[int, Structure]()
    for k, m in chosen:
        if k not in structures:
            structures = {k: frame_at(k)}
        marks = list(_marks(plan, reference, generated, structures[k], k, m))
        told = (k, m) in by_energy or above.worst[k, m] > NOTABLE
        reasons = [above.text(k, m)] if told else []
        reasons += [text for text, _ in marks if text]
        atoms = [a for _, found in marks for a in found]
        view = _view(plan.topology, structures[k], m)
        views.append(
            replace(
                view,
                method=method,
                frame=int(numbers[k]),
                reason="; ".join(reasons),
                marked=tuple(sorted({a for a in atoms if 0 <= a < len(view.positions)})),
            )
        )
    return tuple(views)


def _largest(values: Float64[np.ndarray, "f m"], count: int) -> list[tuple[int, int]]:
    """Frame and molecule of the largest finite values, in descending order."""
    order = np.argsort(-values, axis=None, kind="stable")[:count]
    pairs = np.column_stack(np.unravel_index(order, values.shape))
    return [(int(k), int(m)) for k, m in pairs if np.isfinite(values[k, m])]


def _marks(
    plan: Plan,
    reference: Measurements,
    generated: Measurements,
    structure: Structure,
    frame: int,
    molecule: int,
) -> Iterator[tuple[str, list[int]]]:
    """Defects of a molecule: what to say, and its atoms."""
    start = int(plan.topology.molecule_offsets()[molecule])
    wrong = inverted(reference.handedness, generated.handedness[frame][None])[0]
    own = plan.molecule[plan.centres[:, 0]] == molecule
    centres = plan.centres[wrong & own, 0]
    if len(centres):
        plural = "s" if len(centres) > 1 else ""
        yield f"{len(centres)} inverted stereocentre{plural}", (centres - start).tolist()
    yield from _pierced_marks(plan, structure, molecule, start)
    closest, pair = _contact(plan, structure, molecule)
    if pair:
        text = f"contact at {closest:.2f} sigma"
        yield text if closest < CLOSE else "", [a - start for a in pair]


def _pierced_marks(
    plan: Plan, structure: Structure, molecule: int, start: int
) -> Iterator[tuple[str, list[int]]]:
    """Rings of a molecule that a bond passes through."""
    for members in plan.rings:
        own = members[plan.molecule[members[:, 0]] == molecule]
        for ring, bond in rings.pierced_rings(structure, own, plan.lengths.atoms).tolist():
            through = plan.lengths.atoms[bond]
            other = int(plan.molecule[through[0]])
            whose = "its own" if other == molecule else f"molecule {other + 1}"
            atoms = [*own[ring], *(through if other == molecule else [])]
            yield f"ring pierced by a bond of {whose}", [int(a) - start for a in atoms]


def _contact(plan: Plan, structure: Structure, molecule: int) -> tuple[float, list[int]]:
    """The closest contact of a molecule in sigma, and its atoms; infinite where there is none."""
    near = Contacts(plan.topology).near(structure)
    own = np.flatnonzero((plan.molecule[near.pairs] == molecule).any(axis=1))
    if not len(own):
        return math.inf, []
    return float(near.relative[own[0]]), near.pairs[own[0]].tolist()


def _view(topology: Topology, structure: Structure, molecule: int) -> MoleculeView:
    """A molecule, as whole as it can be, without a word about it."""
    index = int(topology.molecule_type_index()[molecule])
    kind = topology.molecule_types[index]
    start = int(topology.molecule_offsets()[molecule])
    alone = replace(topology, blocks=((index, 1),))
    positions = structure.positions[start : start + kind.n_atoms]
    return MoleculeView(
        method="",
        frame=0,
        molecule=molecule + 1,
        name=kind.name,
        reason="",
        atom_names=kind.atom_names,
        elements=element_symbols(kind.masses),
        positions=make_whole(positions, structure.box, alone, strict=False),
        bonds=kind.bonds,
        marked=(),
    )
