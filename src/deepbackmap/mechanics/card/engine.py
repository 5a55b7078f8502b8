"""``Mechanics`` in tensors: everything that a step needs stays on the card.

Steps are the same as the compiled ones (``mechanics.steps``), with the same random numbers. They
are taken in short runs between which the host looks at three numbers: how far atoms have moved
since pairs were listed, how far bonds and beads are off, and whether positions are finite. A run in
which something moved too far for its lists, or did not come to its constraints, is taken back and
done again with more care, so that no step depends on luck. Between two lists shapes do not change
and nothing waits for the host.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from deepbackmap.forcefield.system import TermTable, molecule_tables
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.bonded import KERNELS, PARTS
from deepbackmap.mechanics.card import held as h
from deepbackmap.mechanics.card import pairs as p
from deepbackmap.mechanics.card.terms import Listed, evaluate
from deepbackmap.mechanics.engine import (
    BONDED,
    ON_THE_WAY,
    PAIRS,
    Langevin,
    LostError,
    Mechanics,
    Observation,
    Projected,
    Trajectory,
    forces_of,
)
from deepbackmap.mechanics.noise import BITS, quantiles
from deepbackmap.mechanics.solver import GRADIENTS, SHARP, TOLERANCE
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system.kinds import SPRINGS

CHECK = 5
"""Steps between two looks of the host."""
ROUNDS, WHOLE, CUT = 3, 2, 8
"""Of SHAKE, and of conjugate gradients in each where molecules are one block and where not, to
begin with: 1e-8 nm of a melt of polystyrene, with inverses that are five steps old."""
WIDEST_SKIN = 0.16
"""nm: where boxes are high enough pairs are listed that far beyond the cut-off. A card works
out more pairs in less time than it lists them anew."""
CAPTURED = 1e-9
"""nm: a captured step and the same step operation by operation may differ by the order of sums."""
MOST_ROUNDS = 24
"""Of SHAKE, before molecules are brought onto their constraints by Newton's method instead."""


@dataclass(eq=False)
class _State:
    """What changes in steps; tensors are filled in place."""

    x: Float64[Tensor, "n 3"]
    v: Float64[Tensor, "n 3"]
    names: Int64[Tensor, "n"]
    beads: Float64[Tensor, "nb 3"]
    softness: Float64[Tensor, "nb"] | None
    """One over the squared width of soft beads, nm^-2; None where there are none."""
    held: h.Held
    active: Float64[Tensor, "r"]
    boxes: Float64[np.ndarray, "f 3 3"]
    lattices: Float64[Tensor, "f 3 3"]
    skin: float
    """Pairs are listed that much beyond the cut-off, nm."""
    cell: Float64[Tensor, "3 3"] | None
    """The lattice, where molecules are bonded to their own images."""
    step: Int64[Tensor, "1"]
    """Number of the last step taken."""
    seen: Float64[Tensor, "3"]
    """Of the steps since the host looked: largest squared move of positions that pushed, of those
    in the end, and largest deviation of a bond or bead."""
    lists: p.Neighbours | None = None
    inverses: h.Inverses | None = None
    count: int = 0
    check: int = CHECK
    rounds: int = ROUNDS
    """Of SHAKE; 0 for Newton's method."""
    gradients: int = WHOLE
    """Of conjugate gradients in each."""
    since: int = 0
    """Steps since pairs were listed; -1: they are to be listed anew."""
    graph: torch.cuda.CUDAGraph | None = None
    """One step, captured."""
    warm: bool = False
    """Whether a step was taken: what is compiled or opened at the first call is there."""
    left: int = CHECK
    """Steps that these lists are likely to be good for."""


@dataclass(frozen=True, eq=False)
class _How:
    """Numbers of a run, on the card."""

    warmth: Float64[Tensor, "k"]
    """kT of each step, kJ/mol."""
    kinetic: Float64[Tensor, "k"]
    """To be filled in."""
    parameters: p.Parameters
    keep: float
    timestep: float
    largest: float
    first_step: int


class CardMechanics(Mechanics):
    """The same force field and constraints, worked out by tensors on a device."""

    def __init__(
        self,
        mapping: SystemMapping,
        *,
        device: torch.device | str = "cuda",
        **options: Any,
    ) -> None:
        """Tables of a system.

        Args:
            mapping: topology and beads.
            device: to work on; also ``cpu``, where the compiled engine is faster.
            options: of ``Mechanics``; ``far_every`` has to be one.
        """
        super().__init__(mapping, **options)
        if self.far_every != 1:
            raise ValueError(f"far_every: expected 1 on a card, got {self.far_every}")
        self.device = torch.device(device)
        self.captures, self._tried = self.device.type == "cuda", False
        self.widest = max(WIDEST_SKIN, self.skin)
        self._pairs = self._pair_tables()
        self._listed, self._others = self._terms()
        self._joined = [t.to(self.device, torch.float64) for t in self._between]
        self._shares = self._bead_shares()
        topology = mapping.topology
        masses = np.maximum(topology.masses(), self.lightest)
        self._masses = self._tensor(masses)[:, None]
        self._normal = self._tensor(quantiles())
        self._holding: dict[bytes, h.Held] = {}
        sizes = np.diff(topology.molecule_offsets())
        self._molecules_of = self._tensor(np.repeat(np.arange(len(sizes)), sizes))

    # --- what is asked for ------------------------------------------------------------------------

    @torch.no_grad()
    def project(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        at: Float64[np.ndarray, "n 3"] | None = None,
        tolerance: float = TOLERANCE,
        box: Float64[np.ndarray, "*f 3 3"] | None = None,
    ) -> Projected:
        """As ``Mechanics.project``."""
        s = self._state(positions, beads, widths, None, box)
        if at is not None:
            self._come_from(s, self._tensor(at), tolerance)
        return self._projected(s, tolerance)

    @torch.no_grad()
    def tangent(
        self,
        positions: Float64[np.ndarray, "n 3"],
        vectors: Float64[np.ndarray, "n 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        box: Float64[np.ndarray, "*f 3 3"] | None = None,
    ) -> Float64[np.ndarray, "n 3"]:
        """As ``Mechanics.tangent``."""
        s = self._state(positions, np.zeros((self.mapping.n_beads, 3)), widths, None, box)
        s.v = self._tensor(vectors)
        self._make_tangent(s)
        found: np.ndarray = s.v.cpu().numpy()
        return found

    @torch.no_grad()
    def run(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "*f 3 3"],
        options: Langevin,
        names: Int64[np.ndarray, "n"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        every: int = 0,
        observe: Callable[[Observation], bool] | None = None,
    ) -> Trajectory:
        """As ``Mechanics.run``; the same steps up to rounding."""
        warmth = options.temperatures()
        firm = self.firm(float(warmth.max()), options.timestep)
        s = self._state(positions, beads, np.where(firm > widths, 0.0, widths), names, box)
        start = self._projected(s, TOLERANCE)
        how = _How(
            warmth=self._tensor(BOLTZMANN * warmth),
            kinetic=torch.zeros(options.steps + 1, dtype=torch.float64, device=self.device),
            parameters=self._parameters(options.softness),
            keep=math.exp(-options.friction * options.timestep), timestep=options.timestep,
            largest=options.largest_move, first_step=options.first_step,
        )  # fmt: skip
        if velocities is None:
            size = torch.sqrt(how.warmth[0] / self._masses)
            s.v = size * self._noise(s, torch.tensor(options.first_step, device=self.device))
            self._make_tangent(s)
        else:
            s.v = self._tensor(velocities)
        seen = self._go(s, how, options.steps, every, observe)
        return Trajectory(
            positions=s.x.cpu().numpy(), velocities=s.v.cpu().numpy(),
            kinetic=how.kinetic.cpu().numpy(), observed=tuple(seen), strained=start.strained,
            broken=start.broken, lists=s.count,
        )  # fmt: skip

    @torch.no_grad()
    def forces(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "*f 3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        softness: float = 0.0,
    ) -> Float64[np.ndarray, "n 3"]:
        """As ``Mechanics.forces``."""
        s = self._state(positions, beads, widths, None, box)
        self._list_pairs(s)
        warmth = self._tensor(np.array(BOLTZMANN * temperature))
        found: np.ndarray = self._forces(s, self._parameters(softness), warmth).cpu().numpy()
        return found

    @torch.no_grad()
    def energies(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "*f 3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        shifted: bool = False,
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        """As ``Mechanics.energies``."""
        s = self._state(positions, beads, widths, None, box)
        self._list_pairs(s)
        warmth = self._tensor(np.array(BOLTZMANN * temperature))
        return self._energies_of(s, warmth, shifted=shifted)

    # --- tables -----------------------------------------------------------------------------------

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device).clone()

    def _pair_tables(self) -> p.PairTables:
        topology = self.mapping.topology
        n = topology.n_atoms
        index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
        listed = []
        for t, m in enumerate(topology.molecule_types):
            copies = offsets[:-1][index == t]
            listed.append((copies[:, None, None] + m.exclusions).reshape(-1, 2))
        once = np.unique(np.sort(np.concatenate([np.zeros((0, 2), int), *listed]), axis=1), axis=0)
        both = np.concatenate([once, once[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        counts = np.bincount(both[:, 0], minlength=n)
        rank = np.arange(len(both)) - (np.cumsum(counts) - counts)[both[:, 0]]
        excluded = np.full((n, 1 + int(counts.max(initial=0))), -1, dtype=np.int32)
        excluded[:, 0] = np.arange(n)
        excluded[both[:, 0], 1 + rank] = both[:, 1]
        charged = bool(self._charges.any())
        return p.PairTables(
            types=self._tensor(self._atom_types.astype(np.int32)),
            n_types=len(self._lennard_jones.c6),
            charges=self._tensor(self._charges.astype(np.float32)),
            excluded=self._tensor(excluded),
            excluded_pairs=self._tensor(once[: len(once) * charged].astype(np.int64)),
            molecules=self._tensor(self._excluded[0].astype(np.int32)),
        )

    def _terms(self) -> tuple[list[Listed], list[tuple[TermTable, Tensor]]]:
        """Bonded terms of the system by function, and those that have none here, with the molecule
        of each term."""
        topology = self.mapping.topology
        index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
        rows: dict[tuple[str, str, bool], list[tuple[np.ndarray, ...]]] = {}
        others = []
        for t, molecule in enumerate(topology.molecule_types):
            copies = np.flatnonzero(index == t)
            if not len(copies):
                continue
            for table in (part for whole in molecule_tables(molecule) for part in _parts(whole)):
                rigid = self.rigid and table.kind in SPRINGS
                atoms = offsets[copies][:, None, None] + table.index.numpy()
                atoms = atoms.reshape(-1, atoms.shape[-1])
                owners = np.repeat(copies, len(table.index))
                given = table.parameters.double().numpy()
                # tables are differentiated here
                kernel = KERNELS.get(table.kind) if table.grids is None else None
                values = None if kernel is None else kernel.prepare(given)
                if values is not None:
                    row = (atoms, np.tile(values, (len(copies), 1)), owners)
                    rows.setdefault((table.term, table.kind, rigid), []).append(row)
                elif not rigid:  # at its length a bond has neither force nor energy
                    repeated = torch.as_tensor(np.tile(given, (len(copies), 1)))
                    whole = TermTable(
                        table.term, table.kind, torch.as_tensor(atoms), repeated, table.grids
                    )
                    moved = whole.to(self.device, torch.float64)
                    others.append((moved, self._tensor(owners)))
        listed = []
        for (term, kind, rigid), parts in rows.items():
            columns = (self._tensor(np.concatenate(c)) for c in zip(*parts, strict=True))
            known = KERNELS[kind]
            index_, values_, owners_ = columns
            listed.append(Listed(term, known.loop, known.number, index_, values_, owners_, rigid))
        return listed, others

    def _bead_shares(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Atom, bead and weight of each share of a bead, and the first atom of that bead."""
        offsets, firsts = self.mapping.topology.molecule_offsets(), self.mapping.bead_offsets()
        index = self.mapping.topology.molecule_type_index()
        parts: list[list[np.ndarray]] = [[], [], []]
        for t, m in enumerate(self.mapping.molecules):
            copies = np.flatnonzero(index == t)
            parts[0].append((offsets[copies][:, None] + m.weight_atoms).ravel())
            parts[1].append((firsts[copies][:, None] + m.weight_beads).ravel())
            parts[2].append(np.tile(m.weights, len(copies)))
        atoms, beads = (np.concatenate(c).astype(np.int64) for c in parts[:2])
        order = np.argsort(beads, kind="stable")
        atoms, beads, weights = atoms[order], beads[order], np.concatenate(parts[2])[order]
        first = atoms[np.searchsorted(beads, beads)]
        return self._tensor(atoms), self._tensor(beads), self._tensor(weights), self._tensor(first)

    def _held_for(self, exact: np.ndarray) -> h.Held:
        """Constraints for the beads that are held exactly, made once for each choice."""
        offsets, index = self.mapping.bead_offsets(), self.mapping.topology.molecule_type_index()
        held = [np.zeros(m.n_beads, dtype=bool) for m in self.mapping.molecules]
        for t in np.unique(index):
            which = offsets[np.flatnonzero(index == t)]
            held[t] |= exact[which[:, None] + np.arange(len(held[t]))].any(axis=0)
        key = np.concatenate([np.zeros(0, dtype=bool), *held]).tobytes()
        if key not in self._holding:
            self._holding[key] = h.held_of(
                self.mapping, held, rigid=self.rigid, lightest=self.lightest, device=self.device
            )
        return self._holding[key]

    def _state(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        widths: float | Float64[np.ndarray, "nb"],
        names: Int64[np.ndarray, "n"] | None,
        box: Float64[np.ndarray, "*f 3 3"] | None,
    ) -> _State:
        width = np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(beads),))
        exact = width == 0.0
        softness = np.where(exact, 0.0, 1.0 / np.where(exact, 1.0, width) ** 2)
        held = self._held_for(exact)
        counts = self._tensor(exact.astype(np.float64))[held.beads].repeat_interleave(3)
        boxes = np.eye(3) if box is None else np.asarray(box, dtype=np.float64)
        boxes = boxes.reshape(-1, 3, 3)
        # molecules bonded to their own images are not in systems of several boxes
        across = len(boxes) == 1 and bool(self._across(positions, box).any())
        lattices = self._tensor(boxes)
        room = 0.5 * float(cell_heights(boxes).min()) - self.cutoff
        x = self._tensor(np.asarray(positions, dtype=np.float64))
        named = np.zeros(len(positions), dtype=np.int64) if names is None else names
        return _State(
            x=x, v=torch.zeros_like(x), names=self._tensor(named),
            beads=self._tensor(np.asarray(beads, dtype=np.float64)),
            softness=self._tensor(softness) if softness.any() else None, held=held,
            active=torch.cat([torch.ones_like(held.lengths), counts]), boxes=boxes,
            lattices=lattices, skin=min(self.widest, max(room, self.skin)),
            cell=lattices[0] if across else None,
            step=torch.zeros(1, dtype=torch.int64, device=self.device),
            seen=torch.zeros(3, dtype=torch.float64, device=self.device), check=CHECK,
            rounds=ROUNDS, gradients=WHOLE if held.whole else CUT,
        )  # fmt: skip

    # --- constraints ------------------------------------------------------------------------------

    def _projected(self, s: _State, tolerance: float) -> Projected:
        goals = s.beads[s.held.beads]
        s.x, bonds, beads = h.project(s.held, s.x, goals, s.active, s.cell, tolerance)
        # written so that what is not a number counts as off
        off = torch.stack([~(beads <= tolerance), ~(bonds <= tolerance)]).cpu().numpy()
        strained, broken = (np.flatnonzero(o) for o in off)
        return Projected(s.x.cpu().numpy().copy(), strained, broken)

    def _come_from(self, s: _State, at: Float64[Tensor, "n 3"], tolerance: float) -> None:
        """Moves molecules along the directions of their constraints at given positions, if that is
        enough, and says where strained ones are to have their beads."""
        if not s.held.n_rows:
            return
        u = h.units(s.held, at, s.cell)
        a = h.matrix(s.held, u, s.active)
        goals = h.strained_goals(s.held, at, s.beads[s.held.beads], s.active, s.cell, tolerance)
        x, off = h.shake(
            s.held, a, h.invert(s.held, a), u, s.x, goals, s.cell, MOST_ROUNDS, s.gradients
        )
        there = (h.largest(s.held, off) <= tolerance)[s.held.atom_molecules]
        s.x = torch.where(there[:, None], x, s.x)
        s.beads = s.beads.index_copy(0, s.held.beads, goals)

    def _make_tangent(self, s: _State) -> None:
        """Takes out of velocities what would change a length or move a held bead."""
        if not s.held.n_rows:
            return
        u = h.units(s.held, s.x, s.cell)
        a = h.matrix(s.held, u, s.active)
        off = h.changes(s.held, u, s.v, s.active)
        y = h.solve(s.held, a, h.invert(s.held, a), off, GRADIENTS, SHARP)
        s.v = s.v - h.move(s.held, u, y * s.active)

    # --- forces -----------------------------------------------------------------------------------

    def _parameters(self, softness: float) -> p.Parameters:
        field = self._field(softness)
        return p.Parameters(
            table=self._tensor(field.table.reshape(-1, field.table.shape[-1])),
            soft=softness > 0.0, cutoff=field.cutoff, field=field.field, scale=field.scale,
            charged=field.charged,
        )  # fmt: skip

    def _list_pairs(self, s: _State) -> None:
        """Lists pairs anew, and inverts the constraints' blocks anew."""
        lowest = float(cell_heights(s.boxes).min())
        if lowest < 2.0 * self.reach:
            raise ValueError(
                f"box: expected heights of at least {2.0 * self.reach:g} nm, twice cut-off and "
                f"skin, got {lowest:.4g} nm"
            )
        self._check_finite(s)
        new = p.list_neighbours(s.x, s.boxes, self.cutoff + s.skin, self._pairs)
        lists = p.fitted(new, s.lists)
        if lists is not s.lists:
            s.lists, s.graph = lists, None
        s.count, s.since = s.count + 1, 0

    def _renew_inverses(self, s: _State, anew: bool = False) -> None:
        """Inverses of the constraints' blocks as atoms are now: from those that there are, or
        anew."""
        if not s.held.n_rows:
            return
        a = h.matrix(s.held, h.units(s.held, s.x, s.cell), s.active)
        if s.inverses is None:
            s.inverses = h.invert(s.held, a)
            return
        found = h.invert(s.held, a) if anew else h.improved(s.held, a, s.inverses)
        for inverse, new in zip(s.inverses, found, strict=True):
            inverse.copy_(new)

    def _check_finite(self, s: _State) -> None:
        finite = torch.isfinite(s.x).all(dim=-1)
        if not bool(finite.all()):
            atom = int(torch.nonzero(~finite)[0])
            molecule = int(self._molecules_of[atom]) + 1
            raise LostError(
                f"expected finite positions, got some that are not in molecule {molecule}"
            )

    def _forces(self, s: _State, how: p.Parameters, warmth: Tensor) -> Float64[Tensor, "n 3"]:
        assert s.lists is not None
        f = p.pair_forces(s.x, s.lists, self._pairs, how, s.lattices)
        for listed in self._listed:
            if not listed.rigid:
                _, forces = evaluate(listed, s.x, s.cell)
                f.index_add_(0, listed.atoms.reshape(-1), forces.reshape(-1, 3))
        if s.softness is not None:
            atoms, beads, weights, _ = self._shares
            push = (-warmth * s.softness)[:, None] * self._beads_off(s)
            f.index_add_(0, atoms, weights[:, None] * push[beads])
        if self._others:
            f += forces_of([table for table, _ in self._others], s.x, s.cell)
        if self._between:
            f += forces_of(self._joined, s.x, s.lattices[0])
        return f

    def _beads_off(self, s: _State) -> Float64[Tensor, "nb 3"]:
        """From where beads are given to where the forward map puts them."""
        atoms, beads, weights, firsts = self._shares
        at, found = s.x[atoms], torch.zeros_like(s.beads)
        if s.cell is not None:
            at = minimum_image(at - s.x[firsts], s.cell)
            found[beads] = s.x[firsts]
            found = found.index_add(0, beads, weights[:, None] * at)
            return minimum_image(found - s.beads, s.cell)
        return found.index_add(0, beads, weights[:, None] * at) - s.beads

    def _energies_of(
        self, s: _State, warmth: Tensor, *, shifted: bool = False
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        assert s.lists is not None
        molecules = self.mapping.topology.n_molecules
        found = torch.zeros((len(BONDED) + len(PAIRS), molecules), dtype=torch.float64)
        found = found.to(self.device)
        for listed in self._listed:
            values, _ = evaluate(listed, s.x, s.cell)
            found[BONDED.index(listed.term)].index_add_(0, listed.molecules, values)
        for table, owners in self._others:
            found[BONDED.index(table.term)].index_add_(0, owners, table.energies(s.x, s.cell))
        for table in self._joined:
            share = table.energies(s.x, s.lattices[0]) / table.index.shape[1]
            for atoms in table.index.unbind(-1):
                found[BONDED.index(table.term)].index_add_(0, self._molecules_of[atoms], share)
        if s.softness is not None:
            off = self._beads_off(s)
            values = 0.5 * warmth * s.softness * (off * off).sum(-1)
            offsets = self.mapping.bead_offsets()
            owners = self._tensor(np.repeat(np.arange(molecules), np.diff(offsets)))
            found[BONDED.index("bead")].index_add_(0, owners, values)
        per_atom = self._pair_energies(s, shifted)
        found[len(BONDED) :].index_add_(1, self._molecules_of, per_atom.T)
        return dict(zip(BONDED + PAIRS, found.cpu().numpy(), strict=True))

    def _pair_energies(self, s: _State, shifted: bool) -> Float64[Tensor, "n 4"]:
        assert s.lists is not None
        lj = self._lennard_jones
        c6, c12 = lj.c6.numpy(), lj.c12.numpy()
        end = c12 / self.cutoff**12 - c6 / self.cutoff**6
        table = np.stack([c12, c6, end if shifted else 0.0 * end], axis=-1).astype(np.float32)
        return p.pair_energies(
            s.x, s.lists, self._pairs, self._tensor(table.reshape(-1, 3)), self.cutoff,
            self.field.k, self.field.c, s.lattices,
        )  # fmt: skip

    # --- steps ------------------------------------------------------------------------------------

    def _noise(self, s: _State, step: Int64[Tensor, "*_"]) -> Float64[Tensor, "n 3"]:
        """Normal numbers that atom and step name, as ``mechanics.noise``."""
        bits = hash_counters(s.names, step)
        chosen = torch.stack([(bits >> (BITS * c)) & ((1 << BITS) - 1) for c in range(3)], dim=-1)
        return self._normal[chosen]

    def _step(self, s: _State, how: _How) -> None:
        """One step; nothing in it waits for the host but Newton's method."""
        assert s.lists is not None
        pushed = (s.x - s.lists.listed).square().sum(-1).amax()
        s.step += 1
        warmth = how.warmth[s.step]
        k = self._forces(s, how.parameters, warmth) * (how.timestep / self._masses)
        length = torch.linalg.vector_norm(k, dim=-1, keepdim=True) * how.timestep
        k = k * (how.largest / length.clamp(min=how.largest))
        v = s.v + k
        aim = s.x + 0.5 * how.timestep * v
        v = how.keep * v
        if how.keep < 1.0:
            size = torch.sqrt((1.0 - how.keep**2) * warmth / self._masses)
            v = v + size * self._noise(s, how.first_step + s.step)
        aim = aim + 0.5 * how.timestep * v
        off = torch.zeros((), dtype=torch.float64, device=self.device)
        if s.held.n_rows:
            x, off = self._constrained(s, aim)
            v = v + (x - aim) * (1.0 / how.timestep)
            aim = x
        s.x.copy_(aim)
        s.v.copy_(v)
        how.kinetic[s.step] = 0.5 * (self._masses * v * v).sum()
        now = (s.x - s.lists.listed).square().sum(-1).amax()
        s.seen.copy_(torch.stack([torch.maximum(s.seen[0], pushed), now,
                                  torch.maximum(s.seen[2], off)]))  # fmt: skip

    def _constrained(
        self, s: _State, aim: Float64[Tensor, "n 3"]
    ) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, ""]]:
        """Positions on the constraints, and how far the worst is off."""
        u = h.units(s.held, s.x, s.cell)
        goals = h.strained_goals(s.held, s.x, s.beads[s.held.beads], s.active, s.cell, ON_THE_WAY)
        if not s.rounds:
            x, _, _ = h.project(s.held, aim, goals, s.active, s.cell, ON_THE_WAY)
            return x, torch.zeros((), dtype=x.dtype, device=x.device)
        assert s.inverses is not None
        a = h.matrix(s.held, u, s.active)
        x, off = h.shake(s.held, a, s.inverses, u, aim, goals, s.cell, s.rounds, s.gradients)
        return x, off.abs().amax()

    def _take(self, s: _State, how: _How, count: int) -> None:
        """Takes steps. On a card the first ones go operation by operation; then one is captured,
        and the others are that again, which costs the host next to nothing."""
        can = self.captures and not self._others and s.rounds > 0
        if can and s.warm and s.graph is None:
            self._capture(s, how)
        for _ in range(count):
            if s.graph is None:
                self._step(s, how)
            else:
                s.graph.replay()
        s.warm = True

    def _capture(self, s: _State, how: _How) -> None:
        """Captures a step. The first one is tried: where it is not what the step does, steps go on
        operation by operation."""
        kept = s.x.clone(), s.v.clone(), s.step.clone(), s.seen.clone()
        try:
            s.graph = _captured(lambda: self._step(s, how))
            if self._tried:
                return
            found = []
            for take in (s.graph.replay, lambda: self._step(s, how)):
                take()
                found.append(s.x.clone())
                for tensor, old in zip((s.x, s.v, s.step, s.seen), kept, strict=True):
                    tensor.copy_(old)
            off = float((found[0] - found[1]).abs().max())
            if not off < CAPTURED:
                raise RuntimeError(f"a captured step is {off:.1e} nm off")
            self._tried = True
        except RuntimeError as error:
            s.graph, self.captures = None, False
            warnings.warn(f"steps are not captured on this card: {error}", stacklevel=2)

    def _few_steps(self, s: _State, how: _How, count: int) -> int:
        """Takes at most so many steps; returns how many it were."""
        slack = (0.5 * s.skin) ** 2
        self._renew_inverses(s)
        before = s.x.clone(), s.v.clone(), s.step.clone()
        while True:
            count = min(count, s.check, s.left if s.since else s.check)
            s.seen.zero_()
            self._take(s, how, count)
            pushed, now, off = s.seen.tolist()
            if off <= ON_THE_WAY and (pushed <= slack or (count == 1 and s.since == 0)):
                break
            if not math.isfinite(now):
                self._check_finite(s)
            # taken back
            for tensor, old in zip((s.x, s.v, s.step), before, strict=True):
                tensor.copy_(old)
            self._renew_inverses(s, anew=True)
            s.graph = None
            if s.since:
                self._list_pairs(s)
            elif not pushed <= slack:
                s.check = max(1, count // 2)
            else:
                s.rounds = 2 * s.rounds if s.rounds < MOST_ROUNDS else 0
                s.gradients = 2 * s.gradients
        if not s.rounds:  # Newton's method for these steps alone
            s.rounds, s.graph = MOST_ROUNDS // 2, None
        s.since += count
        # no farther in the steps to come than these lists are good for, at the same speed
        s.left = int(0.5 * s.skin * s.since / max(math.sqrt(now), 1e-9)) - s.since
        if s.left < 2:
            s.since = -1
        return count

    def _go(
        self,
        s: _State,
        how: _How,
        steps: int,
        every: int,
        observe: Callable[[Observation], bool] | None,
    ) -> list[Observation]:
        """Runs of steps, lists when they are due, observations."""
        seen: list[Observation] = []
        step = 0
        while step < steps:
            if s.lists is None or s.since < 0:
                self._list_pairs(s)
            stop = steps if not every else min(steps, (step // every + 1) * every)
            step += self._few_steps(s, how, stop - step)
            if every and (step % every == 0 or step == steps):
                if s.since < 0:
                    self._list_pairs(s)
                energies = self._energies_of(s, how.warmth[step])
                found = Observation(step, energies, functools.cache(lambda: _copied(s.x)))
                if observe is None:
                    _ = found.positions  # before atoms move on
                    seen.append(found)
                elif observe(found):
                    break
        self._check_finite(s)
        return seen


def _captured(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """What a step does to its tensors, to be done again. (``torch.cuda.graph`` would do the same
    and empty the card's memory pool before.)"""
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    aside = torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    here.wait_stream(aside)
    return graph


def _copied(x: Tensor) -> np.ndarray:
    found: np.ndarray = x.cpu().numpy().copy()
    return found


def _parts(table: TermTable) -> list[TermTable]:
    """A table, or those whose sum it is."""
    return [
        TermTable(table.term, kind, table.index[:, atoms], table.parameters[:, chosen])
        for kind, atoms, chosen in PARTS.get(table.kind, ())
    ] or [table]
