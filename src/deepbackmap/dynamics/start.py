"""What every engine does to its arguments before it starts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from deepbackmap.dynamics.containers import Dynamics, Hold
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.mapping.forward import map_positions
from deepbackmap.system import Structure, Topology
from deepbackmap.system.sites import place_sites
from deepbackmap.system.whole import BondTree, make_whole


def whole_start(
    topology: Topology, trees: tuple[BondTree, ...], structure: Structure
) -> Float64[np.ndarray, "n 3"]:
    """Positions of a start with its molecules whole and its virtual sites in their places.

    Args:
        topology: of the structure.
        trees: ``bond_trees(topology)``.
        structure: with a box; molecules may be bonded to their own images.

    Raises:
        InputError: it is not a structure of this topology, or has no box.
    """
    bad = np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))
    if len(bad):
        raise InputError(
            f"structure: expected finite coordinates, found {structure.positions[bad[0]].tolist()} "
            f"for atom {bad[0] + 1}"
        )
    if not structure.box.any():
        raise InputError("structure: expected a periodic box, found none (all zeros)")
    whole = make_whole(structure.positions, structure.box, topology, trees=trees, endless=True)
    return place_sites(whole, structure.box, topology)


def check_dynamics(options: Dynamics, thermostats: tuple[str, ...], engine: str) -> None:
    """Refuses options that no run can have, or this engine cannot.

    Raises:
        InputError: naming the option.
    """
    positive = ("temperature", "timestep", "friction", "every")
    for name in positive:
        value = getattr(options, name)
        if not value > 0:
            raise InputError(f"{name}: expected a number above 0, found {value}")
    for name in ("steps", "frames_every"):
        value = getattr(options, name)
        if value < 0:
            raise InputError(f"{name}: expected a whole number of at least 0, found {value}")
    if options.thermostat not in thermostats:
        raise InputError(
            f"thermostat: expected {' or '.join(thermostats)} with {engine}, "
            f"found '{options.thermostat}'"
        )


def held_beads(
    mapping: SystemMapping | None,
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    hold: Hold,
) -> Float64[np.ndarray, "b 3"]:
    """Where beads are held, each in the periodic image that is nearest to the bead of the start.

    Args:
        mapping: says which atoms make up a bead.
        positions: of the start, molecules whole, nm.
        box: nm.
        hold: the points.

    Raises:
        InputError: there is no mapping, or the number of points is not its number of beads.
    """
    if mapping is None:
        raise InputError("hold: expected a mapping when the engine was opened, found none")
    if len(hold.beads) != mapping.n_beads:
        raise InputError(
            f"hold: expected {mapping.n_beads} beads as in the mapping, found {len(hold.beads)}"
        )
    beads = map_positions(mapping, positions, box)
    return beads + minimum_image(hold.beads - beads, box)
