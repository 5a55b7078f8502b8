"""What the metric factor of held beads would change: rigid bonds are part of the reference, beads
are conditions on it.

    python benchmarks/metric_factor.py            # the reference box (seconds a frame)
    python benchmarks/metric_factor.py --smoke    # the packaged melt, for CI

Dynamics with rigid bonds samples ``sqrt(det Zb) exp(-U/kT)``, Zb = J M^-1 J^T of the bonds; given
its beads, so do its frames. Dynamics with bonds and beads rigid samples the same with Z of both
(Fixman, Proc. Natl. Acad. Sci. USA 71, 3050, 1974). What is missing is the energy
``F = kT/2 ln(det Z / det Zb)``: its variation over frames, and over draws with the same beads, is
printed here, and what weights exp(F/kT) of draws with the same beads do to torsions and angles.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

import deepbackmap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MoleculeMapping, SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics.constraints import rigid_bonds
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import MoleculeType
from deepbackmap.system.whole import make_whole

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = Path(deepbackmap.__file__).parent / "packaged" / "melt"
LIGHTEST = 3.0


def bond_matrix(
    molecule: MoleculeType, masses: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the bonds' directions in coordinates scaled by masses, and scaled again to length 1."""
    atoms, _ = rigid_bonds(molecule, bonds=True)
    vectors = positions[atoms[:, 0]] - positions[atoms[:, 1]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.zeros((len(atoms), len(masses), 3))
    number = np.arange(len(atoms))
    rows[number, atoms[:, 0]], rows[number, atoms[:, 1]] = vectors, -vectors
    return (rows / np.sqrt(masses)[:, None]).reshape(len(atoms), -1), atoms


def factor(
    molecule: MoleculeType,
    mapping: MoleculeMapping,
    positions: np.ndarray,
    lightest: float = 0.0,
) -> float:
    """Half of ln(det Z / det Zb), of one molecule; atoms as heavy as ``lightest`` in Z alone."""
    real, moved = molecule.masses, np.maximum(molecule.masses, lightest)
    bonds, _ = bond_matrix(molecule, real, positions)
    both, _ = bond_matrix(molecule, moved, positions)
    shares = np.zeros((mapping.n_beads, len(moved)))
    shares[mapping.weight_beads, mapping.weight_atoms] = mapping.weights
    beads = np.kron(shares / np.sqrt(moved), np.eye(3))
    joint = np.concatenate([both, beads])
    return 0.5 * float(
        np.linalg.slogdet(joint @ joint.T)[1] - np.linalg.slogdet(bonds @ bonds.T)[1]
    )


def backbone(molecule: MoleculeType) -> np.ndarray:
    """Torsions whose atoms are all of the type of the chain: four in a row without hydrogens and
    rings."""
    kind = molecule.terms["proper"].atoms
    types = np.array(molecule.atom_types)
    return np.unique(kind[(types[kind] == "C").all(axis=1)], axis=0)


def torsions(positions: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    a, b, c, d = (positions[atoms[:, k]] for k in range(4))
    first, axis, last = b - a, c - b, d - c
    m, n = np.cross(first, axis), np.cross(axis, last)
    return np.arctan2(np.linalg.norm(axis, axis=1) * (first * n).sum(1), (m * n).sum(1))


def angles(positions: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    a, b, c = (positions[atoms[:, k]] for k in range(3))
    u, v = a - b, c - b
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon, of counts."""
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)
    parts = [np.where(a > 0, a * np.log(np.where(a > 0, a, 1.0) / np.where(middle > 0, middle, 1)), 0)
             for a in (p, q)]  # fmt: skip
    return 0.5 * float(sum(part.sum() for part in parts))


def slope(factors: np.ndarray, trans: np.ndarray) -> tuple[float, float]:
    """Of F/kT against the number of trans torsions of a chain, and the correlation."""
    return float(np.polyfit(trans, factors, 1)[0]), float(np.corrcoef(trans, factors)[0, 1])


def describe(name: str, factors: np.ndarray, trans: np.ndarray) -> None:
    steep, correlation = slope(factors, trans)
    print(
        f"{name}: F/kT a chain {factors.mean():.2f}, sd {factors.std():.3f}; "
        f"{steep:+.4f} kT a trans torsion (correlation {correlation:+.2f})"
    )


def drawn(
    system: SystemMapping, whole: np.ndarray, box: np.ndarray, temperature: float, steps: int
) -> list[np.ndarray]:
    """Draws with the same beads."""
    engine = Mechanics(system, lightest=LIGHTEST)
    beads = map_positions(system, whole)
    run = engine.run(
        whole, beads, box, Langevin(steps, temperature, friction=10.0), np.arange(len(whole)),
        every=20,
    )  # fmt: skip
    return [seen.positions for seen in run.observed[5:]]


def reweighted(
    frames: list[np.ndarray], factors: np.ndarray, values: np.ndarray, bins: np.ndarray
) -> tuple[float, float]:
    """Divergence between a distribution over draws and the one with weights exp(F/kT), chain by
    chain, and that between two halves of the draws.

    Args:
        frames: how many there are.
        factors: F/kT (frames, chains).
        values: (frames, chains, k).
        bins: edges.
    """
    weights = np.exp(factors - factors.mean(axis=0))
    weights /= weights.mean(axis=0)
    flat = np.broadcast_to(weights[..., None], values.shape)
    plain, _ = np.histogram(values, bins)
    heavy, _ = np.histogram(values, bins, weights=flat)
    half = len(frames) // 2
    halves = [np.histogram(part, bins)[0] for part in (values[:half], values[half:])]
    return divergence(plain, heavy), divergence(*halves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--temperature", type=int, default=568)
    options = parser.parse_args()
    shared = Path(os.environ.get("DEEPBACKMAP_DATA", ROOT.parent / "shared" / "data")) / "sps"
    small = options.smoke or not shared.exists()
    folder = PACKAGED if small else shared
    name = "aa.xtc" if small else f"test_{options.temperature}K_aa.xtc"
    topology = read_topology(folder / "topol.top")
    system = load_mapping("ps-two-bead").resolve(topology)
    molecule, mapping = topology.molecule_types[0], system.molecules[0]
    four, n = backbone(molecule), molecule.n_atoms

    def of(positions: np.ndarray, lightest: float) -> np.ndarray:
        return np.array([factor(molecule, mapping, x, lightest) for x in positions])

    def trans(chains: np.ndarray) -> np.ndarray:
        found = np.array([torsions(x, four) for x in chains])
        return np.count_nonzero(np.abs(found) > 2 * np.pi / 3, axis=1)

    with read_frames(folder / "aa.gro", folder / name) as source:
        few = [source[k] for k in range(min(options.frames, len(source)))]
    chains = np.concatenate(
        [make_whole(f.positions, f.box, topology).reshape(-1, n, 3) for f in few]
    )
    print(f"{folder.name}, {options.temperature} K: {len(chains)} chains of {len(four)} torsions")
    describe("reference, real masses", of(chains, 0.0), trans(chains))
    describe(f"reference, lightest {LIGHTEST:g} u in Z", of(chains, LIGHTEST), trans(chains))
    whole = chains[: topology.n_molecules].reshape(-1, 3)
    frames = drawn(system, whole, few[0].box, options.temperature, options.steps)
    split = [f.reshape(-1, n, 3) for f in frames]
    three = np.unique(molecule.terms["angle"].atoms, axis=0)
    wanted = {
        "backbone torsion": (torsions, four, np.linspace(-np.pi, np.pi, 73)),
        "angles": (angles, three, np.linspace(1.5, 2.6, 111)),
    }
    for label, lightest in (("real masses", 0.0), (f"lightest {LIGHTEST:g} u", LIGHTEST)):
        factors = np.array([of(chains, lightest) for chains in split])
        own = factors - factors.mean(axis=0)
        print(
            f"{len(split)} draws with the same beads, {label}: sd of F/kT a chain {own.std():.3f}"
        )
        for title, (function, atoms, bins) in wanted.items():
            values = np.array([[function(x, atoms) for x in chains] for chains in split])
            changed, floor = reweighted(frames, factors, values, bins)
            print(
                f"  {title}: divergence with and without {changed:.6f}, of two halves {floor:.6f}"
            )


if __name__ == "__main__":
    main()
