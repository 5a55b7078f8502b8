"""Evaluations made up for the tests of the report: as large and as odd as they may come."""

from dataclasses import replace

import numpy as np

from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.result import (
    Curve,
    Distribution,
    Estimate,
    Evaluation,
    Figure,
    Method,
    MoleculeView,
    Sentence,
)
from deepbackmap.evaluation.usable import Finding
from deepbackmap.similarity.containers import Overlap, StructureMap

WIDTH = {"reference": 1.0, "model": 1.04, "paper": 0.8, "template": 0.94, "baseline": 0.3}
UNIT = {"bonds": "nm", "energies": "kJ/mol", "structure": "nm"}
HOSTILE = '<script>alert("x")</script></script>&amp;\'"é原子 λ/…'


def gaussian(edges, mean, width):
    x = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-0.5 * ((x - mean) / width) ** 2)
    return density / (density.sum() * (edges[1] - edges[0]))


def distribution(name, group, methods, rng, *, floor=True, bins=140):
    edges = np.linspace(80.0, 150.0, bins + 1)
    mean, width = rng.uniform(100, 125), rng.uniform(2.0, 7.0)
    reference = gaussian(edges, mean, width)
    spread = 0.04 * reference + 1e-5 if floor else np.full(bins, np.nan)
    rough = {
        m: np.abs(
            gaussian(edges, mean + rng.normal(0, 0.4), width * WIDTH.get(m, 0.6))
            + rng.normal(0, 4e-4, bins)
        )
        for m in methods
    }
    return Distribution(
        name=name,
        group=group,
        unit=UNIT.get(group, "degree"),
        edges=edges,
        reference=reference,
        band=np.array([reference - spread, reference + spread]),
        methods={m: row / (row.sum() * 0.5) for m, row in rough.items()},
    )


def divergence(name, group, methods, rng, *, floor=True):
    values = {m: 10.0 ** rng.uniform(-3.0 + k, -2.2 + 0.8 * k) for k, m in enumerate(methods)}
    return Figure(
        name=name,
        group=group,
        unit="",
        target=0.0,
        scored=True,
        reference=float("nan"),
        floor=10.0 ** rng.uniform(-3.7, -2.7) if floor else float("nan"),
        methods={m: Estimate(min(v, 0.999), 0.07 * v) for m, v in values.items()},
    )


def figure(name, group, methods, *, unit, target, reference, floor, values, error=0.01):
    return Figure(
        name=name,
        group=group,
        unit=unit,
        target=target,
        scored=False,
        reference=reference,
        floor=floor,
        methods={m: Estimate(v, error) for m, v in zip(methods, values, strict=True)},
    )


def curve(name, methods, rng, *, floor=True):
    r = np.arange(0.005, 1.5, 0.01)

    def g(peak, width):
        shell = np.exp(-0.5 * ((r - peak) / width) ** 2)
        return (1 - np.exp(-((r / 0.42) ** 12))) * (1 + 0.35 * shell)

    reference = g(0.52, 0.06)
    spread = np.full(len(r), 0.01 if floor else np.nan)
    return Curve(
        name=name,
        r=r,
        reference=reference,
        band=np.array([reference - spread, reference + spread]),
        methods={m: g(0.52 + rng.normal(0, 0.02), 0.06 / WIDTH.get(m, 0.6)) for m in methods},
    )


def chain(n_monomers=10, rng=None):
    """A zigzag with six-membered rings at every second carbon, hydrogens on the others."""
    elements, positions, bonds, previous = [], [], [], 0
    for k in range(2 * n_monomers):
        here = np.array([0.127 * k, 0.044 * (-1) ** k, 0.02 * np.sin(k)])
        at = len(elements)
        elements.append("C")
        positions.append(here)
        if k:
            bonds.append((previous, at))
        previous = at
        side = np.array([0.0, (-1.0) ** k, 0.0])
        if k % 2:
            ring = len(elements)
            for j in range(6):
                angle = np.pi / 3 * j
                turn = np.array([np.sin(k) * np.sin(angle), 0, np.cos(k) * np.sin(angle)])
                out = side * (0.29 - 0.14 * np.cos(angle))
                elements.append("C")
                positions.append(here + out + 0.14 * turn)
                bonds.append((ring + j, ring + (j + 1) % 6))
            bonds.append((at, ring))
        for sign in (-1, 1):
            bonds.append((at, len(elements)))
            elements.append("H")
            positions.append(here + 0.06 * side + [0, 0, 0.09 * sign])
    xyz = np.array(positions)
    if rng is not None:
        xyz += rng.normal(0, 0.01, xyz.shape)
    return tuple(elements), xyz, np.array(bonds, dtype=np.int64)


def molecule(method, k, rng, reason=None):
    elements, positions, bonds = chain(10, rng)
    return MoleculeView(
        method=method,
        frame=3 * k,
        molecule=k + 5,
        name="sPS",
        reason=reason or f"LJ +{812 - 90 * k} kJ/mol, {14 - k} reference sd above the mean",
        atom_names=tuple(f"{e}{i + 1}" for i, e in enumerate(elements)),
        elements=elements,
        positions=positions,
        bonds=bonds,
        marked=(20 + k, 41 + k),
    )


VERDICTS = {
    "model": (
        Sentence("good", "No bond passes through a ring and no stereocentre is inverted."),
        Sentence("good", "All 11 scored distributions lie within three times the floor."),
    ),
    "template": (
        Sentence("fair", "LJ per chain is 0.35 reference sd too low."),
        Sentence("good", "No inverted stereocentre, no pierced ring."),
    ),
    "paper": (
        Sentence("bad", "0.8 % of the stereocentres are inverted."),
        Sentence("fair", "Angles carry 0.51 of the energy they should: the structure is too cold."),
        Sentence("good", "No bond passes through a ring."),
    ),
    "baseline": (
        Sentence("bad", "50 % of the stereocentres are inverted."),
        Sentence("bad", "LJ per chain is 8.1 reference sd too low."),
    ),
}


def method(name, rng, n_worst=5):
    return Method(
        name=name,
        source=f"test_568K_{name}.xtc",
        n_frames=36,
        score=Estimate(rng.uniform(0.001, 0.3), 0.001),
        verdict=VERDICTS.get(name, VERDICTS["paper"]),
        worst=tuple(molecule(name, k, rng) for k in range(n_worst)),
        figures=Figures(frames=36),
        findings=(Finding("fine", "nothing found that speaks against it"),),
    )


def evaluation(
    methods=("model", "template", "paper", "baseline"), *, n_distributions=60, floor=True, n_worst=5
):
    """An evaluation as large as the largest that we expect."""
    rng = np.random.default_rng(7)
    groups = ("bonds", "angles", "angles", "dihedrals", "impropers", "energies")
    words = ("bond", "angle", "angle", "dihedral", "improper", "LJ of")
    types = ("C-C-H", "C_AR-C-H", "H-C-H", "C-C_AR-C_AR", "C_AR-C_AR-H_AR", "C-C-C_AR")
    names = []
    for k in range(n_distributions):
        tag = types[k // 6 % 6] + ("" if k < 36 else f" {k}")
        names.append((f"{words[k % 6]} {tag}", groups[k % 6]))
    n = len(methods)
    nan = float("nan")
    zero = 0.0 if floor else nan

    def values(*numbers):
        return [*numbers, *numbers][:n] if n <= 8 else [numbers[k % 4] for k in range(n)]

    plain = [
        figure("LJ per chain, shift of the mean", "energies", methods, unit="reference sd",
               target=0.0, reference=0.0, floor=0.03 if floor else nan,
               values=values(0.04, -0.35, 0.97, -8.1), error=0.02),
        figure("angle energy, ratio", "energies", methods, unit="", target=1.0, reference=1.0,
               floor=1.01 if floor else nan, values=values(1.02, 0.98, 0.51, 0.13)),
        figure("g(r), mean absolute error", "structure", methods, unit="", target=0.0,
               reference=nan, floor=0.0004 if floor else nan,
               values=values(0.0011, 0.0009, 0.0033, 0.0138), error=0.0002),
        figure("smallest distance of a non-bonded pair", "contacts", methods, unit="sigma",
               target=nan, reference=0.76, floor=nan, values=values(0.74, 0.75, 0.67, 0.85)),
        figure("inverted stereocentres", "stereochemistry", methods, unit="%", target=0.0,
               reference=0.0, floor=zero, values=values(0.0, 0.0, 0.8, 50.0), error=0.05),
        figure("bonds through rings", "rings", methods, unit="a frame", target=0.0,
               reference=0.0, floor=zero, values=values(0.0, 0.0, 0.0, 3.8), error=nan),
        figure("re-mapped beads, rms distance", "beads", methods, unit="nm", target=0.0,
               reference=0.0005, floor=nan, values=values(0.0023, 0.0005, 0.0034, 0.095)),
        figure("LJ energy, total", "energies", methods, unit="kJ/mol", target=nan,
               reference=-15048.0, floor=-15020.0 if floor else nan,
               values=values(-15010.2, -15203.0, 3.4e8, nan), error=120.0),
    ]  # fmt: skip
    return Evaluation(
        topology="topol.top",
        reference="test_568K_aa.xtc",
        n_atoms=5832,
        n_molecules=36,
        n_reference=36 if floor else 1,
        temperature=568.0 if floor else None,
        seed=1,
        score_floor=0.0009 if floor else nan,
        methods=tuple(method(m, rng, n_worst) for m in methods),
        figures=(*(divergence(a, g, methods, rng, floor=floor) for a, g in names), *plain),
        distributions=tuple(distribution(a, g, methods, rng, floor=floor) for a, g in names),
        curves=(
            curve("g(r), mean absolute error", methods, rng, floor=floor),
            curve("g(r) of C_AR, mean absolute error", methods, rng, floor=floor),
        ),
        notes=("The topology lacks 1-4 pairs: none are counted.",),
    )


def structure_map(methods=("model", "template", "paper", "baseline"), n=200):
    rng = np.random.default_rng(3)
    samples = ("reference", *methods)
    centres = np.array([[0.0, 0.0], [0.05, 0.02], [0.1, -0.1], [0.5, 0.3], [2.0, -0.8]])
    clouds = [rng.normal(centres[k % 5], [0.5, 0.35], (n, 2)) for k in range(len(samples))]
    overlap = {"reference (halves)": Overlap(-1e-4, 0.61, 1000, 0.001, "frames")}
    overlap |= {m: Overlap(0.002 * 8**k, (0.22, 0.04, 0.001, 0.0)[k % 4], 1000, 0.001, "frames")
                for k, m in enumerate(methods)}  # fmt: skip
    return StructureMap(
        samples=samples,
        sample=np.repeat(np.arange(len(samples)), n),
        frame=np.tile(np.arange(n), len(samples)) // 36,
        molecule=np.tile(np.arange(n), len(samples)) % 36 + 1,
        points=np.concatenate(clouds),
        stress=0.0123,
        overlap=overlap,
        settings={"centres": "C with a side group", "cut-off / nm": 0.5, "n_max": 8, "l_max": 6,
                  "REMatch alpha": 0.01, "library": "dscribe 2.1.1"},
    )  # fmt: skip


def renamed(result, old, new):
    """The evaluation with one method called otherwise."""

    def swap(values):
        return {new if k == old else k: v for k, v in values.items()}

    return replace(
        result,
        methods=tuple(
            replace(m, name=new, source=new, worst=tuple(replace(w, method=new) for w in m.worst))
            if m.name == old
            else m
            for m in result.methods
        ),
        figures=tuple(replace(f, methods=swap(f.methods)) for f in result.figures),
        distributions=tuple(replace(d, methods=swap(d.methods)) for d in result.distributions),
        curves=tuple(replace(c, methods=swap(c.methods)) for c in result.curves),
    )
