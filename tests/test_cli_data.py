"""``data fetch`` from a server of our own: the layout, the checksums, and what it refuses."""

import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from cli_systems import command, contents
from deepbackmap.api import data
from deepbackmap.io.tables import ParticleTable
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.system import Structure
from evaluation_systems import reference_folder

BOX = 3.0 * np.eye(3)
TIMES = (6880.0, 900.0, 1350.0)
"""Of the training snapshots, as the names of their files sort."""


class Quiet(SimpleHTTPRequestHandler):
    """Counts what is asked for and says nothing."""

    asked = 0

    def log_message(self, *arguments):
        Quiet.asked += 1


def table(n):
    return ParticleTable(
        names=tuple(f"C{k}" for k in range(n)),
        resnames=("R",) * n,
        resids=np.ones(n, dtype=np.int64),
    )


def frame(n, k, time=0.0):
    """Particles whose place tells the number of the frame."""
    x = 0.1 * np.arange(3 * n).reshape(n, 3) % 3.0
    x[0] = [0.01 * k, 0.0, 0.0]
    return Structure(x, BOX, time)


def write(path, n, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(path, table(n)) as writer:
        for one in frames:
            writer.write(one)


def publish(folder):
    """A repository with the same names as the real one, and an archive with snapshots."""
    paper = folder / data.PAPER.name / data.PAPER.commit / "data"
    for kind, n in (("aa", 5), ("cg", 2)):
        write(paper / f"{kind}.gro", n, [frame(n, 0)])
    (paper / "topol.top").write_text("; topology\n")
    (paper / "topol_PS1.itp").write_text("; molecule\n")
    for t in data.TEMPERATURES:
        for kind in data.KINDS:
            n = 2 if kind == "cg" else 5
            write(paper / f"t{t}" / f"{kind}.xtc", n, [frame(n, k) for k in range(78)])
    archive(folder)


def archive(folder, inside=data.SNAPSHOTS):
    path = folder / data.LATER.name / "archive" / f"{data.LATER.commit}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for kind, n in (("aa", 5), ("cg", 2)):
            for k, time in enumerate(TIMES):
                gro = folder / "one.gro"
                write(gro, n, [frame(n, k, time)])
                content = gro.read_bytes()
                gro.unlink()
                info = tarfile.TarInfo(f"DBM-x/{inside}/{kind}/snap{k}.gro")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The folder that is served, in place of the real hosts."""
    root = tmp_path / "server"
    publish(root)
    files = tuple(data.RemoteFile(f.path) for f in data.PAPER_FILES)
    monkeypatch.setattr(data, "PAPER_FILES", files)
    Quiet.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{served.server_address[1]}"
        hosts = data.Hosts(f"{host}/{{name}}/{{commit}}/{{path}}",
                           f"{host}/{{name}}/archive/{{commit}}.tar.gz")  # fmt: skip
        monkeypatch.setattr(data, "Hosts", lambda: hosts)
        yield root
        served.shutdown()


def fetch(folder):
    return command("data", "fetch", "-o", folder)


def test_layout_and_second_fetch(server, tmp_path):
    out = tmp_path / "data"
    done = fetch(out)
    assert done.code == 0, done.err
    assert "0 downloads checked, 17 taken on first trust" in done.out
    names = {f"test_{t}K_{k}.xtc" for t in (313, 453, 568) for k in data.KINDS.values()}
    names |= {"train_568K_aa.xtc", "train_568K_cg.xtc", "topol.top", "topol_PS1.itp"}
    assert {p.name for p in (out / "sps").iterdir()} == names | {"aa.gro", "cg.gro"}
    with read_frames(out / "sps" / "aa.gro", out / "sps" / "test_568K_aa.xtc") as source:
        assert [f.time for f in source] == data.chosen_frames(568)
        assert [round(100 * f.positions[0, 0]) for f in source] == data.chosen_frames(568)
    for kind, late in (("aa", 1), ("cg", 0), ("paper_deepbackmap", 0), ("paper_baseline", 0)):
        names = out / "sps" / ("cg.gro" if kind == "cg" else "aa.gro")
        with read_frames(names, out / "sps" / f"test_453K_{kind}.xtc") as source:
            found = [round(100 * f.positions[0, 0]) for f in source]
            assert [f.time for f in source] == list(range(0, 77, 2))
            assert found == [k + late for k in range(0, 77, 2)]
    with read_frames(out / "sps" / "cg.gro", out / "sps" / "train_568K_cg.xtc") as source:
        assert [f.time for f in source] == sorted(TIMES)
        assert [round(100 * f.positions[0, 0]) for f in source] == [1, 2, 0]
    asked, kept = Quiet.asked, contents(out)
    assert asked == 17
    again = fetch(out)
    assert "17 downloads checked, 0 taken on first trust" in again.out
    assert Quiet.asked == asked
    assert contents(out) == kept
    # A file that was spoilt here is downloaded again, and is the one it was.
    (out / "published" / "deepbackmap" / "aa.gro").write_text("spoilt")
    assert fetch(out).code == 0
    assert Quiet.asked == asked + 1
    assert contents(out) == kept


def test_other_content_is_refused(server, tmp_path, monkeypatch):
    out = tmp_path / "data"
    assert fetch(out).code == 0
    kept = (out / "checksums.json").read_bytes()
    published = server / data.PAPER.name / data.PAPER.commit / "data"
    (published / "cg.gro").write_text("something else")
    (out / "published" / "deepbackmap" / "cg.gro").unlink()

    def refusal():
        done = fetch(out)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        return done.err

    assert "data/cg.gro: expected a file with SHA-256" in refusal()
    assert not (out / "published" / "deepbackmap" / "cg.gro").exists()
    (published / "cg.gro").unlink()
    assert "data/cg.gro: expected to download it, found: 404" in refusal()
    assert (out / "checksums.json").read_bytes() == kept
    sized = (data.RemoteFile("data/topol_PS1.itp", size=37543),)
    monkeypatch.setattr(data, "PAPER_FILES", sized)
    assert "topol_PS1.itp: expected 37543 bytes, found 11" in refusal()
    (out / "checksums.json").write_text("[")
    assert "checksums.json: expected checksums as JSON" in refusal()


def test_archive_without_snapshots(server, tmp_path):
    archive(server, inside="elsewhere")
    done = fetch(tmp_path / "data")
    assert done.code == 2
    assert f"expected snapshots in {data.SNAPSHOTS}/aa of mstieffe/DBM" in done.err


def test_registry():
    assert json.dumps(data.chosen_frames(313)) == json.dumps(list(range(0, 78, 2)))
    assert len(data.chosen_frames(568)) == 36
    assert not set(data.chosen_frames(568)) & set(data.TRAINING_FRAMES_AT_568)
    for repository in (data.PAPER, data.LATER):
        assert len(repository.commit) == 40
        int(repository.commit, 16)
    assert all(f.path.startswith("data/") for f in data.PAPER_FILES)


@pytest.mark.parametrize("temperature", data.TEMPERATURES)
def test_chosen_frames_are_those_of_the_reference_data(temperature):
    folder = reference_folder()
    trajectory = folder / f"test_{temperature}K_cg.xtc"
    with read_frames(folder / "cg.gro", trajectory) as source:
        times = [f.time for f in source]
    if temperature == 453:  # a part of these was kept for us
        assert times
        assert set(times) <= set(data.chosen_frames(temperature))
    else:
        assert times == data.chosen_frames(temperature)
