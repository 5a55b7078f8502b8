"""A crew of threads, one at work at a time, for tests of what parts of a box do together."""

import threading
from concurrent.futures import ThreadPoolExecutor


class ThreadCrew:
    """``mechanics.parts.Crew`` without a cluster: compiled loops want to be alone in a process."""

    def __init__(self, parts):
        self.parts, self.engines, self.calls = parts, 0, 0
        self._alone, self._meet = threading.Lock(), threading.Barrier(parts)

    def __call__(self, work, items):
        self._meet.reset()
        self.calls += 1
        said = {}

        def one(number):
            with self._alone:
                try:
                    return work(items[number], _Link(self, said, number))
                except BaseException:
                    self._meet.abort()
                    raise

        with ThreadPoolExecutor(len(items)) as pool:
            futures = [pool.submit(one, k) for k in range(len(items))]
        wrong = [e for f in futures if (e := f.exception()) is not None]
        told = [e for e in wrong if not isinstance(e, threading.BrokenBarrierError)]
        for error in told or wrong:
            raise error
        return [f.result() for f in futures]


class _Link:
    def __init__(self, crew, said, number):
        self._crew, self._said, self._number = crew, said, number

    def exchange(self, flag, sent):
        crew = self._crew
        crew._alone.release()
        try:
            self._said[self._number] = flag, sent
            crew._meet.wait(60)
            any_flag = any(f for f, _ in self._said.values())
            come = {q: s[self._number] for q, (_, s) in self._said.items() if self._number in s}
            crew._meet.wait(60)
        finally:
            crew._alone.acquire()
        return any_flag, come
