"""Hands read from the beads: what the shape of a chain of beads says of its stereocentres.

A bead near a centre does not show its hand, two neighbouring centres together do: the dihedrals of
the beads around a dyad (A-B-A-B in polystyrene) have one sign for one hand and the other for its
mirror image. For every kind of dyad three short tables are learned from frames whose hands are
known: how the odd features (sines of all dihedrals of the beads, which a mirror turns over) tell
the hand of a racemo dyad and of a meso dyad, and how the even ones (cosines, products of sines)
tell meso from racemo. All three are logistic regressions without a term that a mirror would change,
so that a mirrored chain is read exactly as well. A chain's dyads are chained by their common
centres, and the hands of all its centres are summed over exactly (forward-backward algorithm).

| what | where |
|---|---|
| logistic regression by Newton steps, ridge (Bishop 2006, section 4.3.3) | ``_regression`` |
| sums over all hands of a chain (Rabiner, Proc. IEEE 77, 257 (1989)) | ``_marginals`` |
| shares of a mixture by EM (Bishop 2006, section 9.3) | ``_shares`` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry.hands import SOURCES, Hands
from deepbackmap.chemistry.tacticity import Centres
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import Structure

WIDEST = 7
"""Most beads around a dyad that are looked at."""
HARMONICS = 2
"""Sines and cosines of a dihedral up to this multiple."""
RIDGE = 1.0
"""Weight of the squared coefficients: as if so many samples spoke against each."""
ITERATIONS = 30
"""Rounds in which the shares of patterns among chains are found."""
OUTLIERS = 0.1
"""Share of dyads that are taken to look like nothing in training, as some do in beads of a
coarse-grained simulation: bounds what one dyad can say against a hand."""
FEWEST = 100
"""Dyads of one kind and hand from which a table is learned."""


@dataclass(frozen=True)
class DyadTable:
    """Coefficients for one kind of dyad; empty where training had none to learn from."""

    racemo: tuple[float, ...] = ()
    """Of the odd features: log odds that the first centre of a racemo dyad is +."""
    meso: tuple[float, ...] = ()
    """The same of a meso dyad."""
    which: tuple[float, ...] = ()
    """A constant and those of the even features: log likelihood of meso over that of racemo."""


@dataclass(frozen=True)
class BeadStatistics:
    """What training frames say of hands, a small table that a model can carry."""

    tables: Mapping[str, DyadTable] = field(default_factory=dict)
    """By kind of dyad: kinds of the two centres, types of the beads around them."""

    def to_json(self) -> dict[str, Any]:
        """As plain lists, for a model's metadata."""
        return {
            key: {"racemo": list(t.racemo), "meso": list(t.meso), "which": list(t.which)}
            for key, t in self.tables.items()
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> BeadStatistics:
        """What ``to_json`` wrote."""
        return cls({k: DyadTable(**{p: tuple(v) for p, v in t.items()}) for k, t in raw.items()})


@dataclass(frozen=True)
class _Dyads:
    """The dyads of one kind in a molecule type."""

    first: Int64[np.ndarray, "d"]
    """Place of the first centre along the chain; the second is the next one."""
    beads: Int64[np.ndarray, "d w"]
    """Around each, beads of the molecule in the order S."""


@dataclass(frozen=True)
class _Chains:
    """All molecules of one type that have at least two centres."""

    centres: Int64[np.ndarray, "m c"]
    """Centres of each molecule along the chain, by their place in the system's list."""
    first_bead: Int64[np.ndarray, "m"]
    dyads: Mapping[str, _Dyads]


@dataclass(frozen=True)
class Example:
    """Frames of beads of one system, with the hands that their atoms had."""

    mapping: SystemMapping
    centres: Centres
    frames: Sequence[Structure]
    """Beads."""
    signs: Sequence[Int64[np.ndarray, "c"]]
    """Of all centres in each frame (``tacticity.signs`` of the atoms)."""


def learn(examples: Sequence[Example]) -> BeadStatistics:
    """Learns how beads show hands.

    Args:
        examples: training frames of some systems.

    Returns:
        The statistics; empty for systems without dyads.
    """
    odd: dict[str, list[np.ndarray]] = {}
    even: dict[str, list[np.ndarray]] = {}
    hands: dict[str, list[np.ndarray]] = {}
    for example in examples:
        for chains in _all_chains(example.mapping, example.centres):
            for frame, sign in zip(example.frames, example.signs, strict=True):
                along = sign[chains.centres]
                for key, dyads in chains.dyads.items():
                    features = _features(frame, chains.first_bead, dyads.beads)
                    odd.setdefault(key, []).append(features[0])
                    even.setdefault(key, []).append(features[1])
                    pair = np.stack([along[:, dyads.first], along[:, dyads.first + 1]], axis=-1)
                    hands.setdefault(key, []).append(pair.reshape(-1, 2))
    return BeadStatistics(
        {
            key: _table(*(np.concatenate(part[key]) for part in (odd, even, hands)))
            for key in sorted(odd)
        }
    )


def wrongly_read(
    statistics: BeadStatistics,
    examples: Sequence[Example],
    patterns: Sequence[Int64[np.ndarray, "c"]],
    sure: float = 0.0,
) -> float:
    """Share of the centres of known hands that are read wrongly, each frame for itself.

    Args:
        statistics: what ``learn`` found.
        examples: frames to read, best not those that were learned from.
        patterns: of the systems of the examples; what each system's chains may have.
        sure: only centres are counted that are read with at least that probability.

    Returns:
        The share; 0 where nothing is read.
    """
    wrong = counted = 0
    for example, pattern in zip(examples, patterns, strict=True):
        for frame, sign in zip(example.frames, example.signs, strict=True):
            found = from_beads(statistics, example.mapping, example.centres, [frame], [pattern])
            told = (found.sign != 0) & (sign != 0) & (found.sure >= sure)
            wrong += int(np.count_nonzero(told & (found.sign != sign)))
            counted += int(np.count_nonzero(told))
    return wrong / counted if counted else 0.0


def from_beads(
    statistics: BeadStatistics,
    mapping: SystemMapping,
    centres: Centres,
    frames: Sequence[Structure],
    patterns: Sequence[Int64[np.ndarray, "c"]] = (),
    *,
    free: bool = True,
) -> Hands:
    """Reads the hand of every centre from the beads, chain by chain.

    A chain has one of the patterns, or the mirror image of one, or hands without a pattern; all
    are weighed by what they make of the beads, and the hands are summed over all.

    Args:
        statistics: what ``learn`` found.
        mapping: of the system.
        centres: of the system.
        frames: beads, at least one frame; hands do not change, so that more frames say more.
        patterns: signs that chains may have (``tacticity.expected_signs``; 0: not known).
        free: whether hands without a pattern are allowed; only where training had meso and racemo
            dyads.

    Returns:
        The more probable hand of every centre and its probability; 0 where the beads say nothing.
    """
    plus = np.full(len(centres.atoms), 0.5)
    for chains in _all_chains(mapping, centres):
        if any(key in statistics.tables for key in chains.dyads):
            evidence, known = _log_likelihoods(statistics, chains, frames)
            plus[chains.centres] = _read(evidence, known, chains.centres, patterns, free)
    sign = np.where(np.abs(plus - 0.5) < 1e-9, 0, np.where(plus > 0.5, 1, -1)).astype(np.int64)
    source = np.where(sign != 0, SOURCES.index("beads"), 0)
    return Hands(sign, source, np.maximum(plus, 1.0 - plus))


def _read(
    evidence: Float64[np.ndarray, "m d 4"],
    known: bool,
    rows: Int64[np.ndarray, "m c"],
    patterns: Sequence[Int64[np.ndarray, "all"]],
    free: bool,
) -> Float64[np.ndarray, "m c"]:
    """Probability that each centre of each chain is +."""
    weights: list[np.ndarray] = []
    plus: list[np.ndarray] = []
    for pattern in patterns:
        for sign in (pattern[rows], -pattern[rows]):
            state = 2 * (sign[:, :-1] < 0) + (sign[:, 1:] < 0)
            one = np.take_along_axis(evidence, state[..., None], axis=2)[..., 0]
            told = (sign[:, :-1] != 0) & (sign[:, 1:] != 0)
            weights.append(np.where(told, one, 0.0).sum(axis=1))
            plus.append(0.5 + 0.5 * sign)
    if free and known:
        total, marginal = _marginals(evidence)
        weights.append(total)
        plus.append(marginal)
    if not weights:
        return np.full(rows.shape, 0.5)
    chance = _shares(np.array(weights))
    mean: np.ndarray = np.einsum("hm,hmc->mc", chance, np.array(plus))
    return mean


def _shares(evidence: Float64[np.ndarray, "h m"]) -> Float64[np.ndarray, "h m"]:
    """Probability of every hypothesis for every chain.

    How common each is among the chains of a type is found from the chains themselves (expectation
    and maximisation, with one chain's worth of equal shares added): where nearly all chains are
    of one pattern, a chain that the beads leave open is of it as well.
    """
    hypotheses, molecules = evidence.shape
    common = np.full(hypotheses, 1.0 / hypotheses)
    for _ in range(ITERATIONS):
        logs = evidence + np.log(common)[:, None]
        chance: np.ndarray = np.exp(logs - np.logaddexp.reduce(logs, axis=0))
        common = (chance.sum(axis=1) + 1.0 / hypotheses) / (molecules + 1.0)
    return chance


def _all_chains(mapping: SystemMapping, centres: Centres) -> list[_Chains]:
    """The chains of every molecule type."""
    topology = mapping.topology
    index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
    start = np.searchsorted(centres.atoms[:, 0], offsets)
    found = []
    for t, beads in enumerate(mapping.molecules):
        mine = np.flatnonzero(index == t)
        if not len(mine) or start[mine[0] + 1] - start[mine[0]] < 2:
            continue
        rows = slice(int(start[mine[0]]), int(start[mine[0] + 1]))
        local = centres.atoms[rows] - offsets[mine[0]]
        rank = np.empty(beads.n_beads, dtype=np.int64)
        rank[beads.order] = np.arange(beads.n_beads)
        along = np.lexsort((local[:, 0], rank[beads.owner[local[:, 0]]]))
        kinds = [centres.kinds[rows.start + k] for k in along]
        found.append(
            _Chains(
                start[mine][:, None] + along,
                mapping.bead_offsets()[mine],
                _dyads_of(beads, local[along], kinds, rank),
            )
        )
    return found


def _dyads_of(
    beads: MoleculeMapping,
    rows: Int64[np.ndarray, "c 5"],
    kinds: Sequence[str],
    rank: Int64[np.ndarray, "b"],
) -> dict[str, _Dyads]:
    """The dyads of a molecule by kind, with the beads around them."""
    bonded: list[set[int]] = [set() for _ in range(beads.n_beads)]
    for i, j in beads.bead_bonds.tolist():
        bonded[i].add(j)
        bonded[j].add(i)
    found: dict[str, list[tuple[int, list[int]]]] = {}
    for k in range(len(rows) - 1):
        around = {int(b) for b in beads.owner[rows[k : k + 2]].reshape(-1)}
        if len(around) < 4:  # too few for a dihedral: their neighbours as well
            around |= {other for b in around for other in bonded[b]}
        inside = sorted(around, key=lambda b: int(rank[b]))
        spare = max(len(inside) - WIDEST, 0) // 2
        inside = inside[spare : spare + WIDEST]
        if len(inside) >= 4:
            types = " ".join(beads.bead_types[b] for b in inside)
            found.setdefault(f"{kinds[k]} {kinds[k + 1]} | {types}", []).append((k, inside))
    return {
        key: _Dyads(np.array([k for k, _ in d]), np.array([b for _, b in d]))
        for key, d in found.items()
    }


def _features(
    frame: Structure, first_bead: Int64[np.ndarray, "m"], beads: Int64[np.ndarray, "d w"]
) -> tuple[Float64[np.ndarray, "n odd"], Float64[np.ndarray, "n even"]]:
    """Odd and even features of the dyads of one kind, molecule after molecule."""
    index = (first_bead[:, None, None] + beads).reshape(-1, beads.shape[1])
    phi = np.stack(
        [_dihedral(frame, index[:, list(q)]) for q in combinations(range(index.shape[1]), 4)], -1
    )
    sines = [np.sin(h * phi) for h in range(1, HARMONICS + 1)]
    cosines = [np.cos(h * phi) for h in range(1, HARMONICS + 1)]
    i, j = np.triu_indices(phi.shape[1], 1)
    products = sines[0][:, i] * sines[0][:, j]
    return np.concatenate(sines, axis=1), np.concatenate([*cosines, products], axis=1)


def _dihedral(frame: Structure, index: Int64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n"]:
    """Dihedrals of beads, rad, trans = pi (IUPAC); 0 where three beads lie on a line."""
    p = frame.positions[index]
    a, b, c = (minimum_image(p[:, k + 1] - p[:, k], frame.box) for k in range(3))
    left, right = np.cross(a, b), np.cross(b, c)
    y = np.linalg.norm(b, axis=1) * np.einsum("ij,ij->i", a, right)
    phi: np.ndarray = np.arctan2(y, np.einsum("ij,ij->i", left, right))
    return phi


def _table(
    odd: Float64[np.ndarray, "n odd"],
    even: Float64[np.ndarray, "n even"],
    hands: Int64[np.ndarray, "n 2"],
) -> DyadTable:
    """Coefficients for one kind of dyad."""
    dyad = hands[:, 0] * hands[:, 1]
    meso, racemo = dyad > 0, dyad < 0
    which: tuple[float, ...] = ()
    if min(meso.sum(), racemo.sum()) >= FEWEST:
        told = meso | racemo
        one = np.concatenate([np.ones((len(even), 1)), even], axis=1)
        w = _regression(one[told], dyad[told])
        w[0] -= np.log(meso.sum() / racemo.sum())  # likelihoods, not the training's shares
        which = tuple(w.tolist())
    coefficients = [
        tuple(_regression(odd[of], hands[of, 0]).tolist()) if of.sum() >= FEWEST else ()
        for of in (racemo, meso)
    ]
    return DyadTable(coefficients[0], coefficients[1], which)


def _regression(
    features: Float64[np.ndarray, "n k"], sign: Int64[np.ndarray, "n"]
) -> Float64[np.ndarray, "k"]:
    """Coefficients of a logistic regression of signs, with a ridge that keeps them finite."""
    w = np.zeros(features.shape[1])
    for _ in range(25):
        miss = 1.0 / (1.0 + np.exp(np.clip(sign * (features @ w), -50.0, 50.0)))
        slope = features.T @ (sign * miss) - RIDGE * w
        curve = (features * (miss * (1.0 - miss))[:, None]).T @ features
        step = np.linalg.solve(curve + RIDGE * np.eye(len(w)), slope)
        w = w + step
        if np.abs(step).max() < 1e-8:
            break
    return w


def _log_likelihoods(
    statistics: BeadStatistics, chains: _Chains, frames: Sequence[Structure]
) -> tuple[Float64[np.ndarray, "m d 4"], bool]:
    """Log likelihood of the hands (++, +-, -+, --) of every dyad, frames summed up.

    Dyads of a kind without a table are equally likely in all hands. Also whether every dyad is
    known both as meso and as racemo.
    """
    molecules, length = chains.centres.shape
    found = np.zeros((molecules, length - 1, 4))
    known = True
    for key, dyads in chains.dyads.items():
        table = statistics.tables.get(key, DyadTable())
        known &= bool(table.which)
        for frame in frames:
            odd, even = _features(frame, chains.first_bead, dyads.beads)
            one = _of_dyads(table, odd, even).reshape(molecules, -1, 4)
            found[:, dyads.first] += one
    return found, known


def _of_dyads(
    table: DyadTable, odd: Float64[np.ndarray, "n odd"], even: Float64[np.ndarray, "n even"]
) -> Float64[np.ndarray, "n 4"]:
    """Log likelihood of ++, +-, -+, -- up to what is the same for all of them."""

    def log_odds(w: tuple[float, ...], x: np.ndarray) -> np.ndarray:
        return x @ np.array(w) if w else np.zeros(len(x))

    racemo, meso = log_odds(table.racemo, odd), log_odds(table.meso, odd)
    which = log_odds(table.which[1:], even) + (table.which[0] if table.which else 0.0)
    halves = [_log_sigmoid(meso), _log_sigmoid(racemo), _log_sigmoid(-racemo), _log_sigmoid(-meso)]
    kinds = [_log_sigmoid(which), _log_sigmoid(-which), _log_sigmoid(-which), _log_sigmoid(which)]
    inside = np.stack(halves, axis=1) + np.stack(kinds, axis=1) + np.log(4.0 * (1.0 - OUTLIERS))
    bounded: np.ndarray = np.logaddexp(inside, np.log(OUTLIERS))
    return bounded


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


def _marginals(
    evidence: Float64[np.ndarray, "m d 4"],
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m c"]]:
    """Log of the mean likelihood over all hands of a chain, and each centre's chance to be +."""
    molecules, dyads, _ = evidence.shape
    psi = evidence.reshape(molecules, dyads, 2, 2)
    ahead = np.zeros((molecules, dyads + 1, 2))
    behind = np.zeros((molecules, dyads + 1, 2))
    for k in range(dyads):
        ahead[:, k + 1] = np.logaddexp.reduce(ahead[:, k, :, None] + psi[:, k], axis=1)
        last = dyads - 1 - k
        behind[:, last] = np.logaddexp.reduce(psi[:, last] + behind[:, last + 1, None, :], axis=2)
    total = np.logaddexp.reduce(ahead[:, -1], axis=1)
    plus = np.exp(ahead[:, :, 0] + behind[:, :, 0] - total[:, None])
    return total - (dyads + 1) * np.log(2.0), plus
