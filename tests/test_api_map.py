"""The verb ``map``: the published bead files again, and what it refuses."""

import shutil

import numpy as np
import pytest

from deepbackmap.api import map_trajectory
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.trajectory import open_writer, read_frames
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
    with pytest.raises(InputError, match=r"torn\.trr frame 1: expected bonds shorter than half"):
        run(trajectory=torn)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.xtc", "torn.trr"]
    run(trajectory=torn, frames="::2")
    out.unlink()
    shutil.copy(cut, out)
    with pytest.raises(InputError, match=r"out\.xtc: expected no file of that name"):
        run()
    run(frames=":2", force=True)
    assert out.stat().st_size < cut.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.xtc", "out.xtc", "torn.trr"]
