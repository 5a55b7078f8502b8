"""What methods that place whole boxes have in common: the last steps, and how beads are held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64

from deepbackmap.blocks.index import whole_beads
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_heights, minimum_image
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.geometry.frame_noise import ANEW, PLACEMENTS, turn_of
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.mechanics.gather import Gathering
from deepbackmap.mechanics.settle import FIRST_WIDTH, Anew, Settled, SettleOptions, Settler
from deepbackmap.methods.options import SettlingOptions, correlation_time
from deepbackmap.system import Structure

AGAIN = PLACEMENTS - 2
"""Times that atoms are placed anew where something wrong stays; they may be so once before."""
_THERMAL = 18
"""Stream of random numbers."""


class BeadDistances:
    """How far bonded beads of a system may be apart, as a training had them."""

    def __init__(self, mapping: SystemMapping, known: Mapping[str, tuple[float, float]]) -> None:
        """Bonds of the system with their shortest and longest length.

        Args:
            mapping: of the system.
            known: by types of the two beads, as "A-B", nm; bonds of others are not looked at.
        """
        index, offsets = mapping.topology.molecule_type_index(), mapping.bead_offsets()[:-1]
        pairs, bounds = [np.zeros((0, 2), dtype=np.int64)], [np.zeros((0, 2))]
        for t, beads in enumerate(mapping.molecules):
            kinds = [
                "-".join(sorted((beads.bead_types[a], beads.bead_types[b])))
                for a, b in beads.bead_bonds.tolist()
            ]
            rows = [k for k, kind in enumerate(kinds) if kind in known]
            first = offsets[index == t]
            pairs.append((beads.bead_bonds[rows] + first[:, None, None]).reshape(-1, 2))
            bounds += [np.array([known[kinds[k]] for k in rows]).reshape(-1, 2)] * len(first)
        self._pairs, self._bounds = np.concatenate(pairs), np.concatenate(bounds)

    def outside(self, beads: Structure) -> float:
        """Share of the bonds that are shorter or longer; 0 where none is known."""
        a, b = self._pairs.T
        apart = np.linalg.norm(
            minimum_image(beads.positions[b] - beads.positions[a], beads.box), axis=1
        )
        low, high = self._bounds.T
        return float(np.mean((apart < low) | (apart > high))) if len(apart) else 0.0


class LastSteps:
    """Placed atoms of the frames of one system made a draw at a temperature."""

    def __init__(
        self,
        mapping: SystemMapping,
        options: SettlingOptions,
        temperature: float,
        *,
        rigid: bool = True,
        device: torch.device | str = "cpu",
        gathering: Gathering | None = None,
    ) -> None:
        """Tables of the system.

        Args:
            mapping: of the system.
            options: of the run.
            temperature: K.
            rigid: whether all bonds are held at their lengths.
            device: that the steps are taken on.
            gathering: of threads with a frame each, which a card works on together.
        """
        self._mapping, self._options = mapping, options
        self._settler = Settler(
            mapping, rigid=rigid, threads=torch.get_num_threads(), device=device,
            gathering=gathering,
        )  # fmt: skip
        self._settle = SettleOptions(
            temperature, options.relaxation, options.bead_tolerance, options.cold_start
        )

    def check_box(self, beads: Structure, frame: int) -> None:
        """Refuses a box that is smaller than the forces' reach allows.

        Raises:
            InputError: it is lower than twice the reach in some direction.
        """
        lowest, reach = float(cell_heights(beads.box).min()), self._settler.mechanics.reach
        if self._options.relaxation != 0 and lowest < 2 * reach:
            raise InputError(
                f"frame {frame}: expected a box at least {2 * reach:.3f} nm high in every "
                f"direction (twice the relaxation's cut-off), found {lowest:.3f} nm; "
                "relaxation 0 does without"
            )

    def until_right(
        self,
        place: Callable[[Structure, int, float], Float64[np.ndarray, "n 3"]],
        wrong: Callable[[Float64[np.ndarray, "n 3"]], bool],
        beads: Structure,
        frame: int,
        *,
        placed_for: float | None = None,
    ) -> Settled:
        """The atoms of a frame, placed anew where the last steps leave something that stays wrong.

        Beads that no atoms can have mislead a placement: some centre may come out with the wrong
        hand. Settled atoms have beads that atoms can have, near those that were given, and what is
        placed on these comes out right; it is then held to the beads that were given. Who is told
        how far beads are off needs no others.

        Args:
            place: makes atoms for beads; the number tells one attempt's random numbers from
                another's, the width (nm) how far beads are off those that atoms can have.
            wrong: whether positions hold what dynamics never mends.
            beads: as given.
            frame: its number.
            placed_for: width (nm) to begin with where ``place`` goes by it; None: it does not.
        """

        def on(
            positions: Float64[np.ndarray, "n 3"], attempt: int, widths: Mapping[str, float]
        ) -> Float64[np.ndarray, "n 3"]:
            if placed_for is not None and any(widths.values()):
                width = float(np.sqrt(np.mean(np.square([*widths.values()]))))
                return place(beads, attempt, min(width, FIRST_WIDTH))
            near = replace(beads, positions=map_positions(self._mapping, positions, beads.box))
            return place(near, attempt, 0.0)

        if placed_for is not None and self._options.bead_tolerance is not None:
            placed_for = self._options.bead_tolerance
        made = self(
            place(beads, 0, placed_for or 0.0), beads, frame,
            anew=lambda x, widths: on(x, AGAIN + 1, widths), placed_for=placed_for,
        )  # fmt: skip
        for attempt in range(1, 1 + AGAIN):
            if not wrong(made.positions):
                break
            placed = on(made.positions, attempt, {} if attempt == AGAIN else made.widths)
            again = self(placed, beads, frame + attempt * ANEW, made.widths)
            made = replace(again, evaluations=made.evaluations + again.evaluations)
        return made

    def __call__(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Structure,
        frame: int,
        widths: Mapping[str, float] | None = None,
        anew: Anew | None = None,
        placed_for: float | None = None,
    ) -> Settled:
        """The atoms of a frame.

        Args:
            positions: as placed, nm, molecules whole.
            beads: as given.
            frame: its number, which names the random numbers together with the seed.
            widths: of the bead types, nm, where they are known already.
            anew, placed_for: as for ``Settler.settle``.
        """
        whole = whole_beads(beads.positions, beads.box, self._mapping)
        if self._options.relaxation == 0:
            made = self._settler.mechanics.project(positions, whole, box=beads.box)
            return Settled(made.positions, 0, strained=made.strained)
        atoms = torch.arange(len(positions))
        turn = turn_of(frame, beads.time, correlation_time(self._options.noise))
        keys = hash_counters(self._options.seed, turn.number, _THERMAL, atoms)
        names = turn.renewed(keys).numpy()
        how = self._settle if widths is None else replace(self._settle, bead_tolerance=widths)
        return self._settler.settle(positions, whole, beads.box, names, how, anew, placed_for)
