"""Dask workers that are processes of their own: what they make, and what it takes to stop them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401 (its defaults, before they are changed)
import pytest

from cli_systems import write_model, write_system
from deepbackmap.errors import InputError
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.jobs import cluster
from deepbackmap.jobs.journal import NoJournal, journal_of
from deepbackmap.jobs.loop import in_order, open_pool
from deepbackmap.jobs.pool import Failure, Here
from job_tasks import Shake, jobs
from machines import RUN, Machines, environment

FRAMES = 24
ENTRY = 1200
"""Bytes of a frame of small systems in a journal, at least."""
SPS = Path(os.environ.get("DEEPBACKMAP_DATA", Path(__file__).parents[2] / "shared/data")) / "sps"
REAL, REAL_ENTRY = 9, 5832 * 24
"""Frames of the reference data, and bytes of one in a journal, at least."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    found = Machines(tmp_path_factory.mktemp("machines"))
    yield found
    found.end()


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    """Many frames of a few chains."""
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    with read_frames(folder / "cg.gro", folder / "cg.xtc") as source:
        few = list(source)
        with open_writer(folder / "many.xtc", source.table) as writer:
            for k in range(FRAMES):
                writer.write(few[k % len(few)])
    return folder


@pytest.fixture(scope="module")
def backmapped(melt):
    """Bytes of the serial run."""
    assert run(melt, "serial.xtc").wait(timeout=200) == 0
    return (melt / "serial.xtc").read_bytes()


def run(folder, output, *more):
    words = "backmap cg.gro many.xtc -p topol.top --model model.safetensors -q".split()  # noqa: SIM905
    words += ["--sweeps", "0", "--keep-defects", "--device", "cpu"]
    program = RUN.format(path=[p for p in sys.path if p])
    return subprocess.Popen(
        [sys.executable, "-c", program, *words, "-o", output, *more], cwd=folder,
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


SHAKE = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from deepbackmap.jobs.journal import open_journal
from deepbackmap.jobs.loop import in_order, open_pool
from job_tasks import Shake, jobs
output, scheduler = sys.argv[1:3]
with (
    open_pool(Shake(0.05), 1, scheduler) as pool,
    open_journal(output, {{}}, resume=True, frames={frames}) as journal,
):
    found = in_order(pool, jobs({frames}, 50), journal)
    Path(output).write_bytes(b"".join(result.positions.tobytes() for _, result in found))
"""


def shake(folder, output, _, scheduler, *more):
    """A run that does next to nothing with its frames."""
    program = SHAKE.format(path=[p for p in sys.path if p], frames=FRAMES)
    return subprocess.Popen(
        [sys.executable, "-c", program, output, scheduler], cwd=folder, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def calamity(machines, folder, seed, run, expected, frames=FRAMES, entry=ENTRY):
    """A run whose client is killed when some frames are done, and one of whose workers is killed at
    some moment before or after."""
    rng, output = random.Random(seed), f"out{seed}.xtc"
    machines.fill()
    journal = journal_of(folder / output)
    enough, worker_too = entry * rng.randrange(1, frames - 4), rng.random() < 0.5
    client = run(folder, output, "--scheduler", str(machines.file), "--resume")
    while client.poll() is None and not (journal.exists() and journal.stat().st_size > enough):
        time.sleep(0.01)
        if worker_too and journal.exists() and rng.random() < 0.02:
            rng.choice(machines.workers).kill()
            worker_too = False
    killed = client.poll() is None
    client.send_signal(signal.SIGKILL)
    client.communicate()
    assert not killed or not (folder / output).exists()
    second = run(folder, output, "--scheduler", str(machines.file), "--resume", "--force")
    if worker_too:
        time.sleep(rng.uniform(0.0, 5.0))
        rng.choice(machines.workers).kill()
    _, said = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert (folder / output).read_bytes() == expected
    assert not journal.exists()
    return killed


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_workers_and_clients_change_no_byte(machines, tmp_path, seed):
    work = Shake().open()
    expected = [work(job, lambda n: None).positions.tobytes() for job in jobs(FRAMES, 50)]
    calamity(machines, tmp_path, seed, shake, b"".join(expected))


@pytest.mark.slow
def test_backmapping_twenty_times(machines, melt, backmapped):
    killed = sum(calamity(machines, melt, seed, run, backmapped) for seed in range(100, 120))
    assert killed > 10  # or the runs were too short to be killed


def run_real(folder, output, *more):
    """Frames of 5 832 atoms by the default model, with its last steps."""
    words = ["backmap", SPS / "cg.gro", SPS / "test_568K_cg.xtc", "-p", SPS / "topol.top"]
    words += ["--frames", f":{REAL}", "-q", "--device", "cpu", "-o", output, *more]
    program = RUN.format(path=[p for p in sys.path if p])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], cwd=folder, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_backmapping_real_frames_twenty_times(machines, tmp_path):
    if not (SPS / "test_568K_cg.xtc").exists():
        pytest.skip(f"{SPS} is absent")
    assert run_real(tmp_path, "serial.xtc").wait(timeout=600) == 0
    expected = (tmp_path / "serial.xtc").read_bytes()
    killed = sum(
        calamity(machines, tmp_path, seed, run_real, expected, REAL, REAL_ENTRY)
        for seed in range(200, 220)
    )
    assert killed == 20


def made(pool, count):
    with pool:
        found = in_order(pool, jobs(count), NoJournal())
        return [(job.index, result.positions.tobytes()) for job, result in found]


def test_bad_frames_and_bad_tasks_are_told(machines):
    machines.fill()
    file = str(machines.file)
    assert made(open_pool(Shake(), 1, file), 12) == made(Here(Shake()), 12)
    with pytest.raises(InputError, match="frame 30: expected a good one"):
        made(open_pool(Shake(bad=(30,)), 1, file), 6)
    with pytest.raises(InputError, match="no such type"):
        made(open_pool(Shake(unusable="no such type"), 1, file), 2)


def test_a_frame_over_which_workers_end_is_given_up_and_no_other(machines, tmp_path):
    """Frames that waited beside it are made, whatever Dask says of them."""
    deadly = Shake(deadly=(10,), deaths=str(tmp_path), most_deaths=99)
    ended = threading.Event()

    def replace():
        while not ended.wait(0.1):
            machines.fill()

    replacing = threading.Thread(target=replace)
    replacing.start()
    expected = dict(made(Here(Shake()), 6))
    try:
        pool = open_pool(deadly, 1, str(machines.file))
        with pool:
            for job in jobs(6):
                pool.submit(job)
            found = [pool.next() for _ in range(6)]
    finally:
        ended.set()
        replacing.join()
    bad = {index: result.error for index, result in found if isinstance(result, Failure)}
    assert list(bad) == [1]
    assert str(bad[1]).startswith("frame 10: expected a worker to finish it")
    good = {i: r.positions.tobytes() for i, r in found if not isinstance(r, Failure)}
    assert good == {i: expected[i] for i in range(6) if i != 1}


def test_nothing_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9: expected one that answers"):
        open_pool(Shake(), 1, "tcp://127.0.0.1:9")


@pytest.mark.parametrize("text", ["[ system ]", "{}", "[1]", '"x"'])
def test_a_file_that_no_scheduler_wrote_is_named(tmp_path, text):
    path = tmp_path / "topol.top"
    path.write_text(text)
    with pytest.raises(InputError, match=r"--scheduler-file writes it, found another in .*topol"):
        open_pool(Shake(), 1, str(path))


def test_a_batch_system_runs_the_workers(tmp_path, monkeypatch):
    """Dask's stand-in for one, whose jobs are processes of this machine."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"jobqueue.local.cores": 1, "jobqueue.local.memory": "1GB"}):
        assert made(open_pool(Shake(), 2, "local"), 9) == made(Here(Shake()), 9)
    with (
        dask.config.set({"jobqueue.slurm.cores": None}),
        pytest.raises(InputError, match="scheduler slurm: expected its section"),
    ):
        open_pool(Shake(), 2, "slurm")
