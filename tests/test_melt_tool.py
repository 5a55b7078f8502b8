"""The tool that makes our own melt, and the sample data it made.

The reference is other people's and is not in the repository: its tests run where the folder that
DEEPBACKMAP_DATA names (or ../shared/data beside the repository) holds it.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from MDAnalysis.lib.formats.libmdaxdr import XTCFile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from melt import build, structure, tacticity  # noqa: E402
from melt.analyse import frames, torsions  # noqa: E402
from melt.package import inside  # noqa: E402
from melt.run import check, stages  # noqa: E402

REFERENCE = Path(os.environ.get("DEEPBACKMAP_DATA", ROOT.parent / "shared" / "data")) / "sps"
PACKAGED = ROOT / "src" / "deepbackmap" / "packaged" / "melt"

needs_reference = pytest.mark.skipif(
    not (REFERENCE / "PS1.itp").exists(), reason="the published reference data is not here"
)


def sections(path):
    """The rows of each section of a GROMACS topology file, split into fields."""
    found, rows = {}, []
    for line in path.read_text().splitlines():
        text = line.split(";")[0].strip()
        if text.startswith("["):
            rows = found.setdefault(text.strip("[] "), [])
        elif text and not text.startswith("#"):
            rows.append([_number(field) for field in text.split()])
    return found


def _number(field):
    try:
        return float(field)
    except ValueError:
        return field


def terms(rows, size):
    """Bonded terms without regard to the direction in which they are written."""
    return Counter(min(tuple(r[:size]), tuple(r[size - 1 :: -1])) + tuple(r[size:]) for r in rows)


@pytest.fixture
def ten(tmp_path):
    build.write_topology(tmp_path / "topol.top", 10, 36)
    return sections(tmp_path / "PS.itp"), sections(tmp_path / "topol.top")


@needs_reference
@pytest.mark.parametrize(
    "title, size", [("bonds", 2), ("angles", 3), ("dihedrals", 4), ("exclusions", 2)]
)
def test_ten_mer_has_the_terms_of_the_reference(ten, title, size):
    theirs = sections(REFERENCE / "PS1.itp")
    assert terms(ten[0][title], size) == terms(theirs[title], size)


@needs_reference
def test_ten_mer_has_the_atoms_of_the_reference(ten):
    theirs = sections(REFERENCE / "PS1.itp")
    masses = {row[0]: row[1] for row in sections(REFERENCE / "topol.top")["atomtypes"]}
    assert ten[0]["moleculetype"] == theirs["moleculetype"]
    assert [row[:7] for row in ten[0]["atoms"]] == theirs["atoms"]
    assert [row[7] for row in ten[0]["atoms"]] == [masses[row[1]] for row in theirs["atoms"]]
    assert "pairs" not in ten[0] and "pairs" not in theirs


@needs_reference
@pytest.mark.parametrize("title", ["defaults", "atomtypes", "bondtypes", "angletypes", "molecules"])
def test_force_field_is_that_of_the_reference(ten, title):
    def as_set(rows):
        return {tuple(row) for row in rows}

    assert as_set(ten[1][title]) == as_set(sections(REFERENCE / "topol.top")[title])


@needs_reference
@pytest.mark.parametrize("name", ["train_568K_aa.xtc", "test_313K_aa.xtc"])
def test_table_of_signs_is_that_of_every_reference_chain(name):
    for _, chains, _ in frames([REFERENCE / name], 10, stride=5):
        for chain in chains:
            np.testing.assert_array_equal(build.chain_signs(chain), build.expected_signs(10))


@needs_reference
def test_beads_are_those_of_the_reference():
    atoms = frames([REFERENCE / "train_568K_aa.xtc"], 10)
    with XTCFile(str(REFERENCE / "train_568K_cg.xtc")) as mapped:
        for (_, chains, box), step in zip(atoms, mapped, strict=True):
            off = structure.beads(chains).reshape(-1, 3) - step.x
            off -= np.round(off @ np.linalg.inv(box)) @ box
            assert np.abs(off).max() <= 0.0015


@pytest.mark.parametrize("n", [2, 3, 10, 20])
def test_counts_grow_with_the_chain(n):
    chain = build.chain_topology(n)
    assert len(chain.types) == len(set(chain.names)) == 16 * n + 2
    assert len(chain.bonds) == 17 * n + 1
    assert len(chain.angles) == 30 * n
    assert len(chain.propers) == 2 * n - 3 + 2
    assert len(chain.impropers) == 12 * n
    assert len(chain.exclusions) == 28 * n
    assert sum(chain.charges) == pytest.approx(0.0, abs=1e-12)


def test_too_short_a_chain_is_refused():
    with pytest.raises(ValueError, match="n_monomers: expected at least 2, got 1"):
        build.chain_topology(1)


def test_no_chains_are_refused(tmp_path):
    with pytest.raises(ValueError, match="n_chains: expected at least 1, got 0"):
        build.write_topology(tmp_path / "topol.top", 10, 0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_built_chain_has_the_right_geometry(n):
    x = build.build_chain(n, np.random.default_rng(n))
    chain = build.chain_topology(n)
    for i, j in chain.bonds:
        a, b = sorted((chain.types[i], chain.types[j]))
        assert np.linalg.norm(x[i] - x[j]) == pytest.approx(build.LENGTHS[a, b], abs=1e-9)
    for i, j, k in chain.angles:
        key = (chain.types[i], chain.types[j], chain.types[k])
        ideal = build.ANGLES.get(key) or build.ANGLES[key[::-1]]
        u, v = x[i] - x[j], x[k] - x[j]
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert np.degrees(np.arccos(cosine)) == pytest.approx(ideal[0], abs=0.2)
    flat = torsions(x[None], np.array(chain.impropers))
    assert np.minimum(np.abs(flat), 180 - np.abs(flat)).max() < 1e-4


@pytest.mark.parametrize("n", [2, 3, 10])
def test_built_chain_is_syndiotactic_and_its_mirror_image_is_not_ours(n):
    x = build.build_chain(n, np.random.default_rng(n))
    assert build.chain_signs(x)[: n - 1].tolist() == [-1, 1, -1, 1, -1, 1, -1, 1, -1][: n - 1]
    np.testing.assert_array_equal(build.chain_signs(x), build.expected_signs(n))
    np.testing.assert_array_equal(build.chain_signs(-x), -build.expected_signs(n))


def drawn(word, monomers=10, chains=1, seed=0):
    return tacticity.chain_hands(word, monomers, chains, np.random.default_rng(seed))


def test_words_of_tacticity_are_dyads():
    for word, meso in (("syndiotactic", 0), ("isotactic", 1), ("mmrmrrmr", None)):
        hands = drawn(word)[0]
        dyads = hands[1:] * hands[:-1]
        expected = [1 if c == "m" else -1 for c in word] if meso is None else [2 * meso - 1] * 8
        assert dyads.tolist() == expected


def test_first_sign_can_be_asked_for():
    assert drawn("syndiotactic")[0].tolist() == [-1, 1, -1, 1, -1, 1, -1, 1, -1]
    assert drawn("syndiotactic+")[0].tolist() == [1, -1, 1, -1, 1, -1, 1, -1, 1]
    assert drawn("mr-", 4)[0].tolist() == [-1, -1, 1]
    assert drawn("+--+", 5)[0].tolist() == [1, -1, -1, 1]
    assert {int(drawn("isotactic-", seed=s)[0, 0]) for s in range(8)} == {-1}


def test_atactic_chains_are_half_meso_and_no_two_alike():
    hands = drawn("atactic", 50, 60)
    dyads = hands[:, 1:] * hands[:, :-1]
    assert (dyads == 1).mean() == pytest.approx(0.5, abs=0.04)  # 3 sd of 2 880 dyads: 0.028
    assert len(np.unique(hands, axis=0)) == 60
    assert (drawn("atactic", 50, 60) == hands).all()
    assert (drawn("atactic", 50, 60, seed=1) != hands).any()


def test_chains_of_several_tacticities_share_a_melt():
    hands = drawn("syndiotactic+:2,syndiotactic-:1,isotactic+:1", 4, 4)
    assert hands.tolist() == [[1, -1, 1], [1, -1, 1], [-1, 1, -1], [1, 1, 1]]


@pytest.mark.parametrize(
    "word, message",
    [
        ("heterotactic", "expected syndiotactic, isotactic, atactic, or a string"),
        ("mr", "expected 8 letters for a chain, got 'mr'"),
        ("+-+", "expected 9 letters for a chain, got"),
        ("isotactic:2,atactic:2", "expected word:number for 3"),
        ("isotactic,atactic", "expected word:number for 3"),
    ],
)
def test_tacticity_that_means_nothing_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        drawn(word, 10, 3)


def test_file_of_hands_comes_back_and_without_one_chains_are_the_reference(tmp_path):
    hands = drawn("atactic", 10, 5)
    assert (tacticity.read_hands(tmp_path, 10, 5) == drawn("syndiotactic", 10, 5)).all()
    tacticity.write_hands(tmp_path, hands)
    np.testing.assert_array_equal(tacticity.read_hands(tmp_path, 10, 5), hands)
    with pytest.raises(ValueError, match="a line of \\+ and - for each of 6 chains"):
        tacticity.read_hands(tmp_path, 10, 6)


@pytest.mark.parametrize("word", ["isotactic", "atactic", "rrmm+"])
def test_chain_of_any_tacticity_is_built_with_its_hands(word):
    hands = drawn(word, 6, seed=4)[0]
    x = build.build_chain(6, np.random.default_rng(9), hands=hands)
    np.testing.assert_array_equal(build.chain_signs(x)[:5], hands)
    np.testing.assert_array_equal(build.chain_signs(x), build.expected_signs(6, hands))
    chain = build.chain_topology(6)
    lengths = [np.linalg.norm(x[i] - x[j]) for i, j in chain.bonds]
    kinds = [tuple(sorted((chain.types[i], chain.types[j]))) for i, j in chain.bonds]
    np.testing.assert_allclose(lengths, [build.LENGTHS[kind] for kind in kinds], atol=1e-9)
    assert build.count_wrong_signs(x[None], hands[None]) == 0
    assert build.count_wrong_signs(x[None], -hands[None]) == 5


def test_run_checks_every_chain_against_its_own_hands(tmp_path):
    rng = np.random.default_rng(12)
    hands = drawn("+--:1,---:1", 4, 2)
    placed = build.place_chains(build.build_chains(4, 2, rng, hands), 5.0, rng)
    build.write_gro(tmp_path / "start.gro", placed, np.full(3, 5.0), "two chains")
    tacticity.write_hands(tmp_path, hands)
    check(tmp_path / "start.gro")
    tacticity.write_hands(tmp_path, hands[::-1])
    with pytest.raises(RuntimeError, match=r"start.gro: 2 wrong signs, pierced rings \[\]"):
        check(tmp_path / "start.gro")


def test_same_seed_same_chain_and_other_seed_another():
    one, again, other = (build.build_chain(4, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_long_chain_grows_with_the_right_handedness_and_apart_from_itself():
    n = 24
    x = build.build_chain(n, np.random.default_rng(11))
    chain = build.chain_topology(n)
    np.testing.assert_array_equal(build.chain_signs(x), build.expected_signs(n))
    assert build.pierced_rings(x[None], n, None) == []
    lengths = [np.linalg.norm(x[i] - x[j]) for i, j in chain.bonds]
    kinds = [tuple(sorted((chain.types[i], chain.types[j]))) for i, j in chain.bonds]
    np.testing.assert_allclose(lengths, [build.LENGTHS[kind] for kind in kinds], atol=1e-9)
    far = np.triu(np.ones((len(x), len(x)), dtype=bool), build.ATOMS_PER_MONOMER * 4)
    far[:, -2:] = False  # hydrogens of both ends, numbered last
    assert _distances(x)[far].min() >= 0.16


def test_too_few_tries_for_a_long_chain_are_reported():
    with pytest.raises(RuntimeError, match="no self-avoiding conformer of 24 monomers in 2 tries"):
        build.build_chain(24, np.random.default_rng(11), max_tries=2)


def test_placed_chains_are_apart_across_the_boundary_and_rigid():
    rng = np.random.default_rng(3)
    chains = build.build_chains(3, 4, rng)
    edge = 3.0
    placed = build.place_chains(chains, edge, rng)
    for i, a in enumerate(placed):
        for b in placed[:i]:
            delta = a[:, None] - b[None]
            delta -= edge * np.round(delta / edge)
            assert np.linalg.norm(delta, axis=-1).min() > build.BOX_MARGIN
    np.testing.assert_allclose(_distances(placed[0]), _distances(chains[0]), atol=1e-9)
    assert build.pierced_rings(placed, 3, np.full(3, edge)) == []


def test_box_that_is_too_small_is_refused():
    chains = build.build_chains(3, 9, np.random.default_rng(3))
    with pytest.raises(RuntimeError, match=r"box of 1\.0 nm too full"):
        build.place_chains(chains, 1.0, np.random.default_rng(1), max_tries=5)


def _distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


@pytest.mark.parametrize("shift", [0.0, 3.0, -6.0])
def test_bond_through_a_ring_is_found_across_the_boundary(shift):
    chains = build.build_chains(2, 2, np.random.default_rng(5))
    ring = chains[0, build.ring(1)]
    normal = np.cross(ring[1] - ring[0], ring[2] - ring[0])
    normal /= np.linalg.norm(normal)
    bond = chains[1, 17] - chains[1, 4]
    axis = np.cross(bond / np.linalg.norm(bond), normal)
    turn = _rotation(axis / np.linalg.norm(axis), np.arcsin(np.linalg.norm(axis)), bond, normal)
    chains[1] = (chains[1] - chains[1, [4, 17]].mean(axis=0)) @ turn.T
    chains[1] += ring.mean(axis=0) + np.array([shift, 0, 0])
    found = build.pierced_rings(chains, 2, np.full(3, 3.0))
    assert (0, 1, 1, (4, 17)) in found
    chains[1] += 1.2 * axis / np.linalg.norm(axis)
    assert (0, 1, 1, (4, 17)) not in build.pierced_rings(chains, 2, np.full(3, 3.0))


def _rotation(axis, angle, source, target):
    """The rotation about axis that takes source along target."""
    if source @ target < 0:
        angle = np.pi - angle
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def test_whole_undoes_wrapping_in_a_skewed_box():
    chains = build.build_chains(4, 2, np.random.default_rng(7))
    box = np.array([[2.6, 0, 0], [0.0, 2.5, 0], [1.2, 0.0, 2.4]])
    fractions = chains @ np.linalg.inv(box)
    wrapped = (fractions - np.floor(fractions)) @ box
    mended = structure.whole(wrapped, box)
    np.testing.assert_allclose(mended - mended[:, :1], chains - chains[:, :1], atol=1e-9)


def test_gro_round_trip(tmp_path):
    chains = build.build_chains(2, 3, np.random.default_rng(8))
    edges = np.array([2.5, 3.0, 3.5])
    build.write_gro(tmp_path / "x.gro", chains, edges, "title")
    again, box = structure.read_gro(tmp_path / "x.gro")
    np.testing.assert_allclose(again, chains, atol=0.00051)
    np.testing.assert_allclose(box, edges)


def test_bead_weights_sum_to_one_and_name_the_right_groups():
    weights = structure.bead_weights(3)
    assert weights.shape == (6, 50)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert np.flatnonzero(weights[0]).tolist() == [1]
    assert np.flatnonzero(weights[2]).tolist() == [3, 4, 16, 17, 18, 19, 20]
    assert weights[2, 17] == pytest.approx(0.4441, abs=5e-5)
    assert np.flatnonzero(weights[5]).tolist() == list(range(37, 48))
    assert structure.bead_names(2) == ("B1", "S1", "B2", "S2")


def test_protocol_ends_with_the_asked_production_at_568_k():
    last = stages(equilibration=1.0, production=2.0, seed=1)[-1]
    assert last.name == "prod"
    assert float(last.settings["dt"]) * int(last.settings["nsteps"]) == pytest.approx(2000.0)
    assert last.settings["ref-t"] == "568.0"
    assert last.settings["constraints"] == "all-bonds"


def test_stages_before_equilibration_can_be_shortened():
    def times(**lengths):
        found = stages(equilibration=1.0, production=2.0, seed=1, **lengths)
        at = {s.name: float(s.settings.get("dt", 0)) * int(s.settings["nsteps"]) for s in found}
        lengths = pytest.approx([at["relax"], at["compress"], at["anneal"]])
        return lengths, found[2].settings["ref-p"], found[3].settings["annealing-time"]

    assert times() == ([20, 120, 400], "500", "0 150 400")
    short = times(relaxation=5, compression=60, pressure=2e3, hot_time=100, cooling=60)
    assert short == ([5, 60, 160], "2000", "0 100 160")


def test_inside_moves_whole_chains():
    chains = np.array([[[3.1, -0.2, 0.5], [3.3, -0.4, 0.5]]])
    moved = inside(chains, np.array([3.0, 3.0, 3.0]))
    np.testing.assert_allclose(moved, [[[0.1, 2.8, 0.5], [0.3, 2.6, 0.5]]])


def packaged_frames(kind, size):
    with XTCFile(str(PACKAGED / f"{kind}.xtc")) as steps:
        return [
            (step.x.reshape(12, size, 3).astype(np.float64), np.diag(step.box).astype(np.float64))
            for step in steps
        ]


def test_packaged_topology_is_what_the_tool_writes(tmp_path):
    build.write_topology(tmp_path / "topol.top", 10, 12)
    for name in ("topol.top", "PS.itp"):
        assert (PACKAGED / name).read_text() == (tmp_path / name).read_text()


def test_packaged_atoms_are_sound():
    chain = build.chain_topology(10)
    bonds = np.array(chain.bonds)
    kinds = [sorted((chain.types[i], chain.types[j])) for i, j in bonds]
    ideal = np.array([build.LENGTHS[a, b] for a, b in kinds])
    found = packaged_frames("aa", 162)
    assert len(found) == 5
    for chains, edges in found:
        assert edges.min() > 2.4
        lengths = np.linalg.norm(chains[:, bonds[:, 0]] - chains[:, bonds[:, 1]], axis=-1)
        assert np.abs(lengths - ideal).max() < 0.0018  # two positions rounded to 0.001 nm
        for x in chains:
            np.testing.assert_array_equal(build.chain_signs(x), build.expected_signs(10))
        assert build.pierced_rings(chains, 10, edges) == []


def test_packaged_beads_are_those_of_the_packaged_atoms():
    atoms, mapped = packaged_frames("aa", 162), packaged_frames("cg", 20)
    assert len(atoms) == len(mapped)
    for (chains, edges), (points, box) in zip(atoms, mapped, strict=True):
        np.testing.assert_allclose(edges, box)
        assert np.abs(structure.beads(chains) - points).max() < 0.00052


@pytest.mark.parametrize("kind, size", [("aa", 162), ("cg", 20)])
def test_packaged_gro_is_the_first_frame(kind, size):
    chains, edges = structure.read_gro(PACKAGED / f"{kind}.gro")
    first, box = packaged_frames(kind, size)[0]
    assert chains.shape == (12, size, 3)
    np.testing.assert_allclose(chains, first, atol=2e-5)
    np.testing.assert_allclose(edges, box, atol=1e-5)


def test_packaged_data_stays_small():
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) < 1.5e6
