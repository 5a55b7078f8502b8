"""One thread a test process: the tests' systems are too small to share, and workers run side by
side (scripts/test.sh)."""

import os

# Before torch is imported, and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
