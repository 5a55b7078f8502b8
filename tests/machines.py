"""A Dask cluster whose scheduler and workers are processes of their own."""

import os
import subprocess
import sys
import time

WORKERS = 3
RUN = "import sys; sys.path[:] = {path!r}; from deepbackmap.cli.main import run; run()"


def environment():
    path = os.pathsep.join(p for p in sys.path if p)
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


def started(*words):
    return subprocess.Popen(
        [sys.executable, "-m", *words], env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


class Machines:
    """A scheduler and some workers, as they would be on machines of their own."""

    def __init__(self, folder):
        self.file, self._folder = folder / "scheduler.json", folder
        self._scheduler = started(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(self.file),
        )  # fmt: skip
        while not self.file.exists():
            time.sleep(0.05)
        self.workers = []
        self.fill()

    def fill(self):
        """As many workers as there are to be."""
        self.workers = [w for w in self.workers if w.poll() is None]
        while len(self.workers) < WORKERS:
            self.workers.append(
                started(
                    "distributed.cli.dask_worker", "--scheduler-file", str(self.file),
                    "--no-nanny", "--nthreads", "1", "--no-dashboard",
                    "--local-directory", str(self._folder),
                )
            )  # fmt: skip

    def end(self):
        for process in [*self.workers, self._scheduler]:
            process.kill()
            process.wait()
