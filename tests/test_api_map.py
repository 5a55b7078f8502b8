"""The verb ``map``: the published bead files again, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.api import map_trajectory
from deepbackmap.api.baseline import baseline
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.system import Structure
from test_io_trajectory import reference


@pytest.mark.parametrize(
    ("name", "frames"), [("train_568K", 13), ("test_568K", 36), ("test_313K", 39)]
)
def test_published_beads_come_back(name, frames, tmp_path):
    out = tmp_path / "beads.trr"
    count = map_trajectory(
        reference("aa.gro"),
        reference(f"{name}_aa.xtc"),
        reference("topol.top"),
        "ps-two-bead",
        out,
        progress=False,
    )
    assert count == frames
    worst, components = [], []
    with (
        read_frames(reference("cg.gro"), out) as found,
        read_frames(reference("cg.gro"), reference(f"{name}_cg.xtc")) as published,
    ):
        for a, b in zip(found, published, strict=True):
            assert np.array_equal(a.box, b.box)
            off = minimum_image(a.positions - b.positions, b.box)
            worst.append(np.linalg.norm(off, axis=1).max())
            components.append(np.abs(off))
    # Both files are rounded to 0.001 nm. A few coordinates in ten thousand are off by one step
    # more; the farthest of 63 360 beads by 0.00154 nm.
    assert max(worst) < 0.00155
    assert np.mean(components) < 0.00026
    assert np.mean(np.array(components) > 0.001) < 3e-4


def test_structure_alone_and_bead_names(tmp_path):
    out = tmp_path / "cg.gro"
    map_trajectory(
        reference("aa.gro"), None, reference("topol.top"), "ps-two-bead", out, progress=False
    )
    with read_frames(out) as found, read_frames(reference("cg.gro")) as published:
        assert found.table.names == published.table.names
        assert found.table.resnames == published.table.resnames
        assert np.array_equal(found.table.resids, published.table.resids)
        off = minimum_image(found[0].positions - published[0].positions, published[0].box)
        assert np.abs(off).max() < 0.0016
        assert found[0].time == 40.0


def test_chosen_frames_and_another_mapping(tmp_path):
    arguments = (reference("aa.gro"), reference("train_568K_aa.xtc"), reference("topol.top"))
    two, one = tmp_path / "two.trr", tmp_path / "one.gro"
    assert map_trajectory(*arguments, "ps-two-bead", two, frames="3:9:2", progress=False) == 3
    assert map_trajectory(*arguments, "ps-one-bead", one, frames="3:4", progress=False) == 1
    with read_frames(reference("cg.gro"), two) as source:
        times = [s.time for s in source]
    with read_frames(reference("aa.gro"), arguments[1]) as source:
        assert times == [source[k].time for k in (3, 5, 7)]
    with read_frames(one) as source:
        assert source.table.names[:2] == ("M1", "M2")
        assert source.table.n == 360


def test_refusals_leave_nothing(tmp_path):
    aa, xtc = reference("aa.gro"), reference("test_568K_aa.xtc")
    top, cg = reference("topol.top"), reference("cg.gro")
    out = tmp_path / "out.xtc"

    def run(structure=aa, trajectory=xtc, mapping="ps-two-bead", output=out, **options):
        map_trajectory(structure, trajectory, top, mapping, output, progress=False, **options)

    with pytest.raises(InputError, match=r"cg\.gro: expected atom H1 at position 1 of molecule 1"):
        run(structure=cg, trajectory=None)
    with pytest.raises(InputError, match="expected 720 particles"):
        run(structure=cg)
    with pytest.raises(InputError, match="none: expected a mapping file"):
        run(mapping="none")
    with pytest.raises(InputError, match=r"out\.foo: expected an output ending in"):
        run(output=tmp_path / "out.foo")
    with pytest.raises(InputError, match="to choose some of its 36 frames, found none"):
        run(frames="50:")
    assert list(tmp_path.iterdir()) == []

    cut = tmp_path / "cut.xtc"
    cut.write_bytes(xtc.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.xtc frame 35: expected a whole frame"):
        run(trajectory=cut)
    # Damage in the middle is met on the way; nothing half-done stays.
    with read_frames(aa, xtc, frames=":3") as source:
        frames, table = list(source), source.table
    frames[1].positions[:] = frames[1].positions[::-1].copy()
    torn = tmp_path / "torn.trr"
    with open_writer(torn, table) as writer:
        for structure in frames:
            writer.write(structure)
    with pytest.raises(InputError, match=r"torn\.trr frame 1: expected bonded atoms .* are the"):
        run(trajectory=torn)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.xtc", "torn.trr"]
    run(trajectory=torn, frames="::2")
    out.unlink()
    Path(f"{out}.json").unlink()
    shutil.copy(cut, out)
    with pytest.raises(InputError, match=r"out\.xtc: expected no file of that name"):
        run()
    run(frames=":2", force=True)
    assert out.stat().st_size < cut.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cut.xtc",
        "out.xtc",
        "out.xtc.json",
        "torn.trr",
    ]


def renamed(path, source, names, resnames=None):
    """A structure with other names of its particles."""
    table = replace(source.table, names=tuple(names))
    if resnames is not None:
        table = replace(table, resnames=tuple(resnames))
    with open_writer(path, table) as writer:
        writer.write(source[0])


def test_order_of_atoms_is_trusted_on_request(tmp_path):
    other, out, notes = tmp_path / "aa.gro", tmp_path / "cg.gro", []
    with read_frames(reference("aa.gro")) as source:
        renamed(other, source, ["X"] * source.table.n)
        turned = replace(source[0], positions=source[0].positions[::-1].copy())
        with open_writer(tmp_path / "turned.gro", source.table) as writer:
            writer.write(turned)
    arguments = (reference("topol.top"), "ps-two-bead", out)
    with pytest.raises(
        InputError, match=r"found X, which is no atom .* --by-order takes the atoms"
    ):
        map_trajectory(other, None, *arguments, progress=False)
    map_trajectory(other, None, *arguments, by_order=True, progress=False, note=notes.append)
    assert notes == ["atoms are taken in the file's order"]
    with read_frames(out) as found, read_frames(reference("cg.gro")) as published:
        off = minimum_image(found[0].positions - published[0].positions, published[0].box)
    assert np.abs(off).max() < 0.0016
    with pytest.raises(InputError, match=r"turned\.gro .* in the order of .*topol\.top\?"):
        map_trajectory(tmp_path / "turned.gro", None, *arguments, by_order=True, force=True,
                       progress=False)  # fmt: skip


MIXTURE = """[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
CH3 6 15.035 0.0 A 0.375 0.8148
CH2 6 14.027 0.0 A 0.395 0.3825
OW 8 15.9994 -0.8 A 0.315 0.636
HW 1 1.008 0.4 A 0.1 0.1
[ moleculetype ]
PRO 3
[ atoms ]
1 CH3 1 PRO C1 1 0 15.035
2 CH2 1 PRO C2 2 0 14.027
3 CH3 1 PRO C3 3 0 15.035
[ bonds ]
1 2 1 0.154 260000
2 3 1 0.154 260000
[ angles ]
1 2 3 1 114 520
[ moleculetype ]
SOL 2
[ atoms ]
1 OW 1 SOL OW 1 -0.8 15.9994
2 HW 1 SOL HW1 1 0.4 1.008
3 HW 1 SOL HW2 1 0.4 1.008
[ bonds ]
1 2 1 0.1 300000
1 3 1 0.1 300000
[ angles ]
2 1 3 1 109.47 380
[ system ]
propane and water
[ molecules ]
PRO 4
SOL 3
"""
PROPANE = "residues:\n  PRO:\n    beads: [{name: P, type: P, atoms: [C1, C2, C3]}]\n"


@pytest.fixture
def mixture(tmp_path):
    """Four propanes, turned at random, and three waters: files, and the atoms' positions."""
    (tmp_path / "mix.top").write_text(MIXTURE)
    (tmp_path / "map.yaml").write_text(PROPANE)
    shape = np.array([[0, 0, 0], [0.154, 0, 0], [0.217, 0.141, 0]])
    rng = np.random.default_rng(3)
    rows = [shape @ np.linalg.qr(rng.normal(size=(3, 3))).Q + rng.uniform(0.5, 2.5, size=3)
            for _ in range(7)]  # fmt: skip
    rows[4:] = [0.6 * r + 0.5 for r in rows[4:]]
    frame = Structure(np.round(np.concatenate(rows), 3), np.eye(3) * 4.0)
    with open_writer(
        tmp_path / "aa.gro", atom_table(read_topology(tmp_path / "mix.top"))
    ) as writer:
        writer.write(frame)
    return tmp_path, frame.positions


def test_dropped_and_kept_molecules(mixture):
    folder, x = mixture
    arguments = (folder / "aa.gro", None, folder / "mix.top", folder / "map.yaml")
    with pytest.raises(InputError, match=r"entry for residue SOL .* '--drop SOL', or put this"):
        map_trajectory(*arguments, folder / "no.gro", progress=False)
    notes = []
    map_trajectory(*arguments, folder / "less.gro", drop=["SOL"], progress=False,
                   note=notes.append)  # fmt: skip
    assert notes == ["left out: 3 molecules SOL (9 atoms)"]
    map_trajectory(*arguments, folder / "kept.gro", keep=["SOL"], progress=False)
    with read_frames(folder / "less.gro") as less, read_frames(folder / "kept.gro") as kept:
        assert less.table.names == ("P",) * 4
        assert kept.table.names == ("P",) * 4 + ("OW", "HW1", "HW2") * 3
        assert np.allclose(kept[0].positions[:4], less[0].positions)
        assert np.allclose(kept[0].positions[4:], x[12:], atol=1e-6)
    options = {"topology": folder / "mix.top", "mapping": folder / "map.yaml",
               "method": "backward", "minimise": False, "progress": False,
               "keep_defects": True}  # fmt: skip
    found = baseline(folder / "kept.gro", output=folder / "b.gro", keep=["SOL"], **options)
    assert found.atoms == 21
    with read_frames(folder / "b.gro") as back:
        assert np.allclose(back[0].positions[12:], x[12:], atol=1e-6)
    found = baseline(folder / "less.gro", output=folder / "c.gro", drop=["SOL"], **options)
    assert (found.atoms, found.accepted) == (12, ("left out: 3 molecules SOL (9 atoms)",))


def test_templates_of_a_single_molecule_serve_all(mixture):
    folder, x = mixture
    map_trajectory(folder / "aa.gro", None, folder / "mix.top", folder / "map.yaml",
                   folder / "cg.gro", drop=["SOL"], progress=False)  # fmt: skip
    one = folder / "one.gro"
    one.write_text(
        "one\n    3\n"
        + "".join(f"    1PRO     C{k + 1}{k + 1:5d}" + "".join(f"{v:8.3f}" for v in x[k]) + "\n"
                  for k in range(3))
        + "   4.00000   4.00000   4.00000\n"
    )  # fmt: skip
    baseline(
        folder / "cg.gro", topology=folder / "mix.top", mapping=folder / "map.yaml", drop=["SOL"],
        method="template", structure=one, minimise=False, progress=False, output=folder / "t.gro",
    )  # fmt: skip
    with read_frames(folder / "t.gro") as found, read_frames(folder / "cg.gro") as beads:
        made = found[0].positions.reshape(4, 3, 3)
        lengths = np.linalg.norm(made[:, 1:] - made[:, :-1], axis=2)
        assert np.allclose(lengths, 0.154, atol=0.003)
        masses = np.array([15.035, 14.027, 15.035])
        assert np.allclose(np.average(made, axis=1, weights=masses), beads[0].positions, atol=2e-3)
    wrong = folder / "two.gro"
    wrong.write_text(one.read_text().replace("C3", "C9"))
    with pytest.raises(InputError, match=r"two\.gro: expected atom C3 at position 3"):
        baseline(folder / "cg.gro", topology=folder / "mix.top", mapping=folder / "map.yaml",
                 drop=["SOL"], method="template", structure=wrong, minimise=False, progress=False,
                 output=folder / "u.gro")  # fmt: skip


def test_baseline_takes_beads_by_type_and_refuses_another_order(tmp_path):
    typed, swapped = tmp_path / "typed.gro", tmp_path / "swapped.gro"
    with read_frames(reference("cg.gro")) as source:
        n = source.table.n // 2
        numbers = [k % 10 + 1 for k in range(n)]
        names = [f"{t}{k}" for k in numbers for t in "AB"]
        renamed(typed, source, names, ["PSR"] * source.table.n)
        frame = source[0]
        across = frame.positions.reshape(-1, 2, 3)[:, ::-1].reshape(-1, 3)
        with open_writer(swapped, replace(source.table, names=tuple(names))) as writer:
            writer.write(replace(frame, positions=across.copy()))
    options = {"topology": reference("topol.top"), "mapping": "ps-two-bead",
               "method": "backward", "minimise": False, "progress": False,
               "keep_defects": True}  # fmt: skip
    found = baseline(typed, output=tmp_path / "a.gro", **options)
    assert found.accepted == (
        "beads of PS1 go by their numbered types: A1 for B1, B1 for S1, ...",
        "residues called PSR in the file are taken as PS1",
    )
    baseline(reference("cg.gro"), output=tmp_path / "b.gro", **options)
    assert (tmp_path / "a.gro").read_text() == (tmp_path / "b.gro").read_text()
    refused = {**options, "keep_defects": False}
    with pytest.raises(InputError, match=r"swapped\.gro frame 0: expected bonded .* in the order"):
        baseline(swapped, output=tmp_path / "c.gro", **refused)
    assert not (tmp_path / "c.gro").exists()
    kept = baseline(swapped, output=tmp_path / "c.gro", **options)
    assert any("in the order and of the types" in f.sentence for f in kept.findings)
