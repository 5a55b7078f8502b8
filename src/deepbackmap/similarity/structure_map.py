"""The structure map: from samples of structures to points on a plane and figures of overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.similarity.centres import Centres, find_centres
from deepbackmap.similarity.containers import Overlap, StructureMap
from deepbackmap.similarity.options import MapOptions
from deepbackmap.similarity.overlap import Cloud, halves, overlap
from deepbackmap.similarity.rematch import rematch_kernel
from deepbackmap.similarity.sketchmap import Switching, kernel_distances, project
from deepbackmap.similarity.soap import Environments, environments
from deepbackmap.system import Structure, Topology

Sample = Sequence[tuple[int, Structure]]
"""Frames of one sample with their numbers in their file."""

REFERENCE = "reference"
HALVES = "reference (halves)"
LEAST = 4
"""Structures of a sample: two in each half."""


@dataclass(frozen=True)
class Picks:
    """The structures that were drawn from one sample, frame after frame."""

    place: Int64[np.ndarray, " n"]
    """Of the frame in the sample."""
    frame: Int64[np.ndarray, " n"]
    """Number of the frame in its file."""
    molecule: Int64[np.ndarray, " n"]
    """From 1; 0 for a whole frame."""


def map_structures(
    topology: Topology, samples: Mapping[str, Sample], options: MapOptions | None = None
) -> StructureMap:
    """Draws structures from every sample, compares all with all, and lays them out on a plane.

    Args:
        topology: of all samples.
        samples: frames with their numbers by sample; the first is called ``reference``. Molecules
            need not be whole. The same seed draws the same molecules from frames of one number.
        options: of SOAP, REMatch, sketch-map and the test of overlap.

    Returns:
        Points, overlaps and the settings as they were used.

    Raises:
        InputError: the samples do not begin with the reference, one has too few structures or
            another number of atoms, there is nothing to centre environments on, or REMatch does
            not converge.
    """
    options = options or MapOptions()
    names = tuple(samples)
    if names[:1] != (REFERENCE,):
        raise InputError(
            f"structure map: expected the samples to begin with '{REFERENCE}', found "
            f"{', '.join(names) or 'none'}"
        )
    centres = find_centres(topology, options.selection)
    seen = environments(topology, options)
    drawn = {name: _draw(topology, centres, name, samples[name], options) for name in names}
    kernel = _kernel(topology, centres, seen, samples, drawn, options)
    picks = _joined(list(drawn.values()))
    sample = np.repeat(np.arange(len(names)), [len(p.frame) for p in drawn.values()])
    distances = kernel_distances(kernel)
    sigma = options.sigma or _median_distance(distances)
    points, stress = project(
        distances,
        Switching(sigma, *options.high),
        Switching(sigma, *options.low),
        searches=options.searches,
    )
    return StructureMap(
        samples=names,
        sample=sample,
        frame=picks.frame,
        molecule=picks.molecule,
        points=points,
        stress=stress,
        overlap=_overlaps(kernel, names, sample, picks, options),
        settings=_settings(options, topology, centres, seen, kernel, sigma),
    )


def structure_kernel(
    topology: Topology, samples: Mapping[str, Sample], options: MapOptions
) -> Float64[np.ndarray, "n n"]:
    """The kernel alone, between the structures that ``map_structures`` would draw."""
    centres = find_centres(topology, options.selection)
    drawn = {name: _draw(topology, centres, name, samples[name], options) for name in samples}
    seen = environments(topology, options)
    return _kernel(topology, centres, seen, samples, drawn, options)


def _draw(
    topology: Topology, centres: Centres, name: str, sample: Sample, options: MapOptions
) -> Picks:
    """Draws structures evenly over the frames of a sample."""
    for number, structure in sample:
        if structure.n != topology.n_atoms:
            raise InputError(
                f"structure map: expected {topology.n_atoms} atoms in frame {number} of {name} as "
                f"in {topology.source}, found {structure.n}"
            )
    whole = options.unit == "frame"
    has_centres = np.array([len(a) > 0 for a in centres.atoms])
    molecules = 1 + np.flatnonzero(has_centres[topology.molecule_type_index()])
    each = 1 if whole else len(molecules)
    wanted = min(options.structures, each * len(sample))
    if wanted < LEAST:
        raise InputError(
            f"structure map: expected at least {LEAST} structures of {name}, found {wanted} "
            f"({len(sample)} frames{'' if whole else f' of {each} molecules with centres'})"
        )
    # Whole numbers that add up to what is wanted and differ by one at most, spread evenly.
    shares = np.diff(np.arange(len(sample) + 1) * wanted // len(sample))
    chosen = [
        np.zeros(share, dtype=np.int64)
        if whole
        # By the number alone, so that samples of the same frames show the same molecules.
        else np.sort(np.random.default_rng((options.seed, number)).permutation(molecules)[:share])
        for (number, _), share in zip(sample, shares, strict=True)
    ]
    place = np.repeat(np.arange(len(sample)), shares)
    frame = np.array([number for number, _ in sample], dtype=np.int64)[place]
    return Picks(place, frame, np.concatenate(chosen))


def _joined(picks: Sequence[Picks]) -> Picks:
    return Picks(
        np.concatenate([p.place for p in picks]),
        np.concatenate([p.frame for p in picks]),
        np.concatenate([p.molecule for p in picks]),
    )


def _kernel(
    topology: Topology,
    centres: Centres,
    seen: Environments,
    samples: Mapping[str, Sample],
    drawn: Mapping[str, Picks],
    options: MapOptions,
) -> Float64[np.ndarray, "n n"]:
    """REMatch between all drawn structures, sample after sample."""
    frames: list[Structure] = []
    atoms: list[np.ndarray] = []
    sizes: list[int] = []
    offsets, types = topology.molecule_offsets(), topology.molecule_type_index()
    every = 1 + np.arange(topology.n_molecules)
    for name, picks in drawn.items():
        for place in np.unique(picks.place):
            mine = picks.molecule[picks.place == place]
            groups = [every] if options.unit == "frame" else [np.array([m]) for m in mine]
            per_structure = [
                np.concatenate([offsets[m - 1] + centres.atoms[types[m - 1]] for m in group])
                for group in groups
            ]
            frames.append(samples[name][place][1])
            atoms.append(np.concatenate(per_structure))
            sizes.extend(len(a) for a in per_structure)
    features = seen.features(frames, atoms)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return rematch_kernel(features, owner, alpha=options.alpha, zeta=options.zeta)


def _median_distance(distances: Float64[np.ndarray, "n n"]) -> float:
    """Half of the pairs lie on either side of where the switching functions are 1/2."""
    median = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    if not median > 0:
        raise InputError(
            "structure map: expected structures that differ, found most of them to be the same"
        )
    return median


def _overlaps(
    kernel: Float64[np.ndarray, "n n"],
    names: tuple[str, ...],
    sample: Int64[np.ndarray, " n"],
    picks: Picks,
    options: MapOptions,
) -> dict[str, Overlap]:
    """Of the reference's halves, then of every method with the reference."""
    rows = [np.flatnonzero(sample == k) for k in range(len(names))]
    clouds = [Cloud(r, picks.frame[r], picks.molecule[r]) for r in rows]
    pairs = {HALVES: halves(clouds[0])}
    pairs |= {name: (clouds[0], clouds[k]) for k, name in enumerate(names) if k}
    return {
        name: overlap(kernel, *pair, permutations=options.permutations, seed=options.seed)
        for name, pair in pairs.items()
    }


def _settings(
    options: MapOptions,
    topology: Topology,
    centres: Centres,
    seen: Environments,
    kernel: Float64[np.ndarray, "n n"],
    sigma: float,
) -> dict[str, str | float | int]:
    """Everything that shapes the map, as it was used."""
    types = zip(topology.molecule_types, centres.atoms, strict=True)
    with_centres = [f"{m.name} {len(a)}" for m, a in types if len(a)]
    without = [
        m.name for m, a in zip(topology.molecule_types, centres.atoms, strict=True) if not len(a)
    ]
    values = np.linalg.eigvalsh(kernel)
    return {
        "centres": centres.rule,
        "centres a molecule": ", ".join(with_centres),
        "molecules without centres": ", ".join(without) or "none",
        "a structure": options.unit,
        "structures of a sample, at most": options.structures,
        "SOAP species": f"{options.species}: {', '.join(seen.species)}",
        "SOAP cutoff / nm": options.cutoff,
        "SOAP width / nm": options.width,
        "SOAP n_max": options.n_max,
        "SOAP l_max": options.l_max,
        "zeta": options.zeta,
        "REMatch alpha": options.alpha,
        "least eigenvalue of the kernel / greatest": float(values[0] / values[-1]),
        "sketch-map sigma": sigma,
        "sketch-map a, b of the kernel's distances": f"{options.high[0]:g}, {options.high[1]:g}",
        "sketch-map a, b of the map's distances": f"{options.low[0]:g}, {options.low[1]:g}",
        "sketch-map searches": options.searches,
        "seed": options.seed,
    }
