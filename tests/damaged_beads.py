"""Beads as users bring them by mistake: every kind of damage follows from its number alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deepbackmap.system import Structure

MONOMERS, CHAINS = 10, 12
"""Of the packaged melt, which is what is damaged; two beads a monomer, A and B in turn."""
PER_CHAIN = 2 * MONOMERS


@dataclass(frozen=True)
class Damage:
    """One damaged frame."""

    kind: str
    beads: Structure
    words: str
    """What the refusal says; empty: it may come out right, or must be spoken of."""
    right: bool = False
    """Whether nothing is wrong with it, so that it must come out right."""
    mirrored: bool = False
    temperature: str = "568"


Kind = Callable[[Structure, np.random.Generator], Damage]


def make_damage(number: int, beads: Structure) -> Damage:
    """The damage of a number.

    Args:
        number: from 0; kinds take turns.
        beads: undamaged.
    """
    rng = np.random.default_rng(number)
    made = KINDS[number % len(KINDS)](beads, rng)
    return replace(made, kind=f"{KINDS[number % len(KINDS)].__name__} {made.kind}".strip())


def _at(beads: Structure, positions: np.ndarray) -> Structure:
    return replace(beads, positions=np.ascontiguousarray(positions))


def _chains(beads: Structure) -> np.ndarray:
    return beads.positions.reshape(CHAINS, MONOMERS, 2, 3)


def unit(beads: Structure, rng: np.random.Generator) -> Damage:
    """Angstrom, tenths of nm, or the sigma of a Lennard-Jones fluid where nm are meant."""
    factor = float(rng.choice([10.0, 0.1, 1 / 0.35, 1 / 0.3, 0.1 / 0.35]))
    scaled = replace(beads, positions=factor * beads.positions, box=factor * beads.box)
    words = {10.0: "is the file in Å?", 0.1: "is the file in nm?"}.get(factor, "(sigma)?")
    return Damage(f"{factor:.3g}", scaled, words)


def only_beads_in_another_unit(beads: Structure, rng: np.random.Generator) -> Damage:
    """The cell is in nm, the beads are in Angstrom."""
    return Damage("", _at(beads, 10.0 * beads.positions), "in one unit?")


def jump(beads: Structure, rng: np.random.Generator) -> Damage:
    """A bead far from where it was."""
    moved, way = beads.positions.copy(), rng.normal(size=3)
    bead = int(rng.integers(beads.n))
    moved[bead] += rng.uniform(1.2, 2.0) * way / np.linalg.norm(way)
    return Damage(f"bead {bead}", _at(beads, moved), "where it should be?")


def shift(beads: Structure, rng: np.random.Generator) -> Damage:
    """A bead somewhat off, as its bonds may well allow."""
    moved, way = beads.positions.copy(), rng.normal(size=3)
    size = rng.uniform(0.02, 0.4)
    moved[rng.integers(beads.n)] += size * way / np.linalg.norm(way)
    return Damage(f"{size:.2f} nm", _at(beads, moved), "")


def one_point(beads: Structure, rng: np.random.Generator) -> Damage:
    """All beads in one place, or all of one molecule."""
    moved = _chains(beads).copy()
    some = slice(None) if rng.uniform() < 0.5 else slice(0, int(rng.integers(1, CHAINS)))
    moved[some] = moved[0, 0, 0]
    return Damage("", _at(beads, moved.reshape(-1, 3)), "in one place")


def same_place(beads: Structure, rng: np.random.Generator) -> Damage:
    """A bead where its neighbour is."""
    moved, bead = beads.positions.copy(), 2 * int(rng.integers(beads.n // 2))
    moved[bead + 1] = moved[bead]
    return Damage("", _at(beads, moved), "in one place")


def types_swapped(beads: Structure, rng: np.random.Generator) -> Damage:
    """B before A in every monomer of a chain or of all."""
    moved = _chains(beads).copy()
    some = slice(None) if rng.uniform() < 0.5 else slice(0, int(rng.integers(1, CHAINS)))
    moved[some] = moved[some, :, ::-1]
    return Damage("", _at(beads, moved.reshape(-1, 3)), "in the order and of the types")


def types_apart(beads: Structure, rng: np.random.Generator) -> Damage:
    """All A of a chain, then all B."""
    moved = _chains(beads).transpose(0, 2, 1, 3).reshape(-1, 3)
    return Damage("", _at(beads, moved), "in the order")


def reversed_order(beads: Structure, rng: np.random.Generator) -> Damage:
    """The last bead first."""
    whole = rng.uniform() < 0.5
    moved = beads.positions[::-1] if whole else _chains(beads)[:, ::-1].reshape(-1, 3)
    return Damage("beads" if whole else "monomers", _at(beads, moved), "")


def shuffled(beads: Structure, rng: np.random.Generator) -> Damage:
    """In no order at all."""
    return Damage("", _at(beads, beads.positions[rng.permutation(beads.n)]), "in the order")


def exchanged(beads: Structure, rng: np.random.Generator) -> Damage:
    """Two beads of different chains for one another."""
    moved = beads.positions.copy()
    i = int(rng.integers(PER_CHAIN))
    j = int(rng.integers(PER_CHAIN)) + PER_CHAIN * int(rng.integers(1, CHAINS))
    moved[[i, j]] = moved[[j, i]]
    return Damage(f"{i} and {j}", _at(beads, moved), "")


def noisy(beads: Structure, rng: np.random.Generator) -> Damage:
    """Noise on all, from harmless to hopeless."""
    size = float(rng.choice([0.02, 0.05, 0.1, 0.2, 0.4]))
    moved = beads.positions + rng.normal(0.0, size, beads.positions.shape)
    return Damage(f"{size:g} nm", _at(beads, moved), "")


def one_chain_on_another(beads: Structure, rng: np.random.Generator) -> Damage:
    """A chain in the place of another."""
    moved = _chains(beads).copy()
    moved[1] = moved[0]
    return Damage("", _at(beads, moved.reshape(-1, 3)), "is a molecule there twice?")


def small_box(beads: Structure, rng: np.random.Generator) -> Damage:
    """A cell in another unit."""
    return Damage("", replace(beads, box=0.1 * beads.box), "expected a box for")


def temperature(beads: Structure, rng: np.random.Generator) -> Damage:
    """What is no temperature of a melt."""
    asked = str(rng.choice(["100000", "0", "-5", "29500", "nan"]))
    return Damage(asked, beads, "temperature", temperature=asked)


def mirror_image(beads: Structure, rng: np.random.Generator) -> Damage:
    """No damage: the other hand."""
    flipped = replace(beads, positions=beads.positions * [-1, 1, 1])
    return Damage("", flipped, "", right=True, mirrored=True)


def wrapped(beads: Structure, rng: np.random.Generator) -> Damage:
    """No damage: bead by bead in some image, the origin elsewhere."""
    moved = beads.positions + rng.uniform(-5.0, 5.0, 3)
    moved = moved + rng.integers(-1, 2, beads.positions.shape) @ beads.box
    return Damage("", _at(beads, moved), "", right=True)


KINDS: tuple[Kind, ...] = (
    unit, jump, shift, one_point, same_place, types_swapped, types_apart, reversed_order, shuffled,
    exchanged, noisy, one_chain_on_another, small_box, temperature, mirror_image, wrapped,
    only_beads_in_another_unit,
)  # fmt: skip
