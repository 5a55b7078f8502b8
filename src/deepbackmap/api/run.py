"""A run of a verb that makes one structure of each frame: the loop, the output, the record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from deepbackmap.api.bar import FrameBar
from deepbackmap.api.compiling import said_when_compiling
from deepbackmap.api.files import beside
from deepbackmap.api.record import identity, make_record
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import refuse_existing
from deepbackmap.io.trajectory import FrameSource, TrajectoryWriter
from deepbackmap.jobs.journal import open_journal
from deepbackmap.jobs.loop import in_order, open_pool
from deepbackmap.jobs.pool import Pool
from deepbackmap.jobs.task import Job, Task
from deepbackmap.mechanics.parts import steps_taken_by
from deepbackmap.system import Structure


@runtime_checkable
class Summed(Protocol):
    """What comes of a run, for its record."""

    @property
    def engine(self) -> str | None:
        """That ran dynamics, as it names itself; None: there was none."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        ...


S = TypeVar("S", bound=Summed)
S_co = TypeVar("S_co", bound=Summed, covariant=True)


@runtime_checkable
class Totals(Protocol[S_co]):
    """What many frames come to, one after another; their structures are let go."""

    def add(self, job: Job, done: Any) -> Structure:
        """One more frame, of which the structure is written."""
        ...

    def summary(self) -> S_co:
        """Of all frames so far."""
        ...


def frame_jobs(source: FrameSource) -> Iterator[Job]:
    """One job a frame, which is read when its job is asked for."""
    return (Job(k, n, source[k]) for k, n in enumerate(source.frames.tolist()))


@dataclass(frozen=True)
class FrameRun:
    """Which run it is, who works on it, and where it goes."""

    verb: str
    inputs: Mapping[str, object]
    """What was given, by name."""
    output: str | Path
    options: Mapping[str, Any]
    """In force, as recorded."""
    seed: int | None = None
    contents: Mapping[str, object] = field(default_factory=dict)
    """What decides about the results besides inputs and options: hashes of what was read."""
    workers: int = 1
    scheduler: str | None = None
    resume: bool = False
    kept: bool = True
    """Whether frames that are done are kept until all are, so that a run can be resumed."""
    force: bool = False
    progress: bool = True
    parts: int | None = None
    """Into which the last steps of a box are cut, for as many workers of ``scheduler`` together."""

    def __post_init__(self) -> None:
        """Refuses a record that is there; of an output that is there its writer has more to say.

        Raises:
            InputError: it would be replaced, and is not to be.
        """
        refuse_existing(self.record, self.force or Path(self.output).exists())

    @property
    def record(self) -> Path:
        """The file beside the output that says how it was made."""
        return Path(f"{self.output}.json")

    def write(
        self,
        task: Task,
        jobs: Iterable[Job],
        totals: Totals[S],
        writer: TrajectoryWriter,
        bar: FrameBar,
        **recorded: Any,
    ) -> S:
        """Does all jobs, writes their structures in order, and the record last.

        Args:
            task: what is done to a frame.
            jobs: one a frame, in order.
            totals: adds them up.
            writer: of the output, not yet open.
            bar: shows what is done; it knows how many frames there are.
            **recorded: more for the record (``make_record``).

        Returns:
            The summary.

        Raises:
            InputError: a frame cannot be done; then there is no output.
        """
        run = identity(self.verb, self.inputs, {**self.options, "seed": self.seed})
        with (
            said_when_compiling(self.progress),
            self._pool(task) as pool,
            open_journal(
                self.output, {**run, **self.contents}, resume=self.resume,
                frames=bar.frames if self.kept else 0,
            ) as journal,
            beside(self.record) as part,
            writer,
            bar,
        ):  # fmt: skip
            for job, done in in_order(pool, jobs, journal, bar.count):
                writer.write(totals.add(job, done))
                bar.next_frame()
            summary = totals.summary()
            # Inside, so that a record that cannot be written leaves no output either.
            text = make_record(
                self.verb, inputs=self.inputs, output=self.output, options=self.options,
                seed=self.seed, engine=summary.engine, summary=summary.to_dict(), **recorded,
            )  # fmt: skip
            part.write_text(text, encoding="utf-8")
        return summary

    @contextmanager
    def _pool(self, task: Task) -> Iterator[Pool]:
        """Who works on the frames: many at once, or one whose steps workers take together."""
        if self.parts is None:
            with open_pool(task, self.workers, self.scheduler) as pool:
                yield pool
            return
        if self.scheduler is None:
            raise InputError(
                "parts: expected --scheduler, whose workers take a part of the box each, found none"
            )
        from deepbackmap.jobs.crew import Crew

        with (
            Crew(self.scheduler, self.workers, self.parts) as crew,
            steps_taken_by(crew),
            open_pool(task) as pool,
        ):
            if not crew.engines:
                raise InputError(
                    "parts: expected a model that takes steps of the whole box on processors, "
                    "found one that does not"
                )
            yield pool
