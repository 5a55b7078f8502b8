"""Several frames of one system on a card at once: one system of boxes that do not see each other.

Frames are independent, and ask for steps one by one, each from a thread of its own (``gather``).
Those who ask for the same number of steps at the same temperature get them together; what they
come to is what each would come to alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import Langevin, Observation, Projected, Trajectory
from deepbackmap.mechanics.gather import Gathering, copies_of
from deepbackmap.mechanics.solver import TOLERANCE


@dataclass(frozen=True)
class _Frame:
    """What is asked for one frame."""

    positions: Float64[np.ndarray, "n 3"]
    beads: Float64[np.ndarray, "nb 3"]
    box: Float64[np.ndarray, "3 3"]
    widths: Float64[np.ndarray, "nb"]
    names: Int64[np.ndarray, "n"] | None = None
    velocities: Float64[np.ndarray, "n 3"] | None = None
    observe: Callable[[Observation], bool] | None = None


class CardFrames(CardMechanics):
    """``CardMechanics`` of one frame, which does what several threads ask for together."""

    def __init__(
        self,
        mapping: SystemMapping,
        *,
        gathering: Gathering,
        device: torch.device | str = "cuda",
        **options: Any,
    ) -> None:
        """Tables of one frame.

        Args:
            mapping: of one frame.
            gathering: of the threads.
            device: to work on.
            options: of ``Mechanics``.
        """
        super().__init__(mapping, device=device, **options)
        self._gathering, self._options = gathering, {**options, "device": device}
        self._wide: dict[int, CardMechanics] = {}
        self._n_atoms, self._n_beads = mapping.topology.n_atoms, mapping.n_beads
        self._n_molecules = mapping.topology.n_molecules

    def project(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        at: Float64[np.ndarray, "n 3"] | None = None,
        tolerance: float = TOLERANCE,
        box: Float64[np.ndarray, "*f 3 3"] | None = None,
    ) -> Projected:
        """As ``Mechanics.project``."""
        alone = super().project
        if at is not None or box is None or self._spans(positions, box):
            return alone(positions, beads, widths, at=at, tolerance=tolerance, box=box)

        def work(asked: list[_Frame]) -> list[Projected]:
            if len(asked) == 1:
                f = asked[0]
                return [alone(f.positions, f.beads, f.widths, tolerance=tolerance, box=f.box)]
            engine, padded = self._engine(asked)
            found = engine.project(
                _joined(padded, "positions"), _joined(padded, "beads"), _joined(padded, "widths"),
                tolerance=tolerance, box=np.stack([f.box for f in padded]),
            )  # fmt: skip
            return [
                Projected(part, self._own(found.strained, k), self._own(found.broken, k))
                for k, part in enumerate(self._parts(found.positions, len(asked)))
            ]

        return self._asked(("project", tolerance), work, _Frame(positions, beads, box,
                           self._widths(widths)))  # fmt: skip

    def energies(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "*f 3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        shifted: bool = False,
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        """As ``Mechanics.energies``."""
        alone, how = super().energies, {"temperature": temperature, "shifted": shifted}

        def work(asked: list[_Frame]) -> list[dict[str, np.ndarray]]:
            if len(asked) == 1:
                f = asked[0]
                return [alone(f.positions, f.beads, f.box, f.widths, **how)]  # type: ignore[arg-type]
            engine, padded = self._engine(asked)
            found = engine.energies(
                _joined(padded, "positions"), _joined(padded, "beads"),
                np.stack([f.box for f in padded]), _joined(padded, "widths"),
                **how,  # type: ignore[arg-type]
            )  # fmt: skip
            return [self._energies_part(found, k) for k in range(len(asked))]

        if self._spans(positions, box):
            return alone(positions, beads, box, widths, **how)  # type: ignore[arg-type]
        return self._asked(("energies", *how.values()), work, _Frame(positions, beads, box,
                           self._widths(widths)))  # fmt: skip

    def run(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "*f 3 3"],
        options: Langevin,
        names: Int64[np.ndarray, "n"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        every: int = 0,
        observe: Callable[[Observation], bool] | None = None,
    ) -> Trajectory:
        """As ``Mechanics.run``; of frames that run together none ends before the others."""
        alone = super().run

        def work(asked: list[_Frame]) -> list[Trajectory]:
            if len(asked) == 1:
                f = asked[0]
                assert f.names is not None
                return [
                    alone(f.positions, f.beads, f.box, options, f.names, f.widths,
                          velocities=f.velocities, every=every, observe=f.observe)
                ]  # fmt: skip
            return self._run_together(asked, options, every)

        frame = _Frame(positions, beads, box, self._widths(widths), names, velocities, observe)
        if self._spans(positions, box):
            return work([frame])[0]
        temperatures = options.temperatures().tobytes()
        key = ("run", replace(options, temperature=0.0), temperatures, every,
               velocities is None, observe is None)  # fmt: skip
        found: Trajectory = self._asked(key, work, frame)
        return found

    def _run_together(self, asked: list[_Frame], options: Langevin, every: int) -> list[Trajectory]:
        engine, padded = self._engine(asked)
        told = asked[0].observe is not None

        def observe(seen: Observation) -> bool:
            ends = [f.observe(self._seen_part(seen, k)) for k, f in enumerate(asked) if f.observe]
            return all(ends)

        found = engine.run(
            _joined(padded, "positions"), _joined(padded, "beads"),
            np.stack([f.box for f in padded]), options, _joined(padded, "names"),
            _joined(padded, "widths"), every=every, observe=observe if told else None,
            velocities=None if asked[0].velocities is None else _joined(padded, "velocities"),
        )  # fmt: skip
        x, v = (self._parts(a, len(asked)) for a in (found.positions, found.velocities))
        return [
            Trajectory(
                positions=x[k], velocities=v[k], kinetic=found.kinetic,
                observed=tuple(self._seen_part(o, k) for o in found.observed),
                strained=self._own(found.strained, k), broken=self._own(found.broken, k),
                lists=found.lists,
            )
            for k in range(len(asked))
        ]  # fmt: skip

    # --- one of several ---------------------------------------------------------------------------

    def _asked(self, key: tuple[Any, ...], work: Callable[..., Any], frame: _Frame) -> Any:
        return self._gathering.ask((id(self), *key), work, frame)

    def _spans(self, positions: np.ndarray, box: np.ndarray) -> bool:
        """Whether a molecule is bonded to its own image; such frames are worked on alone."""
        return bool(self._across(positions, box).any())

    def _widths(self, widths: float | Float64[np.ndarray, "nb"]) -> Float64[np.ndarray, "nb"]:
        return np.broadcast_to(np.asarray(widths, dtype=np.float64), (self._n_beads,)).copy()

    def _engine(self, asked: list[_Frame]) -> tuple[CardMechanics, list[_Frame]]:
        """One for so many frames or more, and the frames with some of them again to fill it."""
        room = min((k for k in self._wide if len(asked) <= k <= 2 * len(asked)), default=0)
        if not room:
            room = len(asked)
            self._wide[room] = CardMechanics(copies_of(self.mapping, room), **self._options)
        return self._wide[room], asked + asked[:1] * (room - len(asked))

    def _parts(self, array: np.ndarray, count: int) -> list[np.ndarray]:
        n = self._n_atoms
        return [array[k * n : (k + 1) * n] for k in range(count)]

    def _own(self, molecules: np.ndarray, k: int) -> np.ndarray:
        """Those of a frame, of some molecules of all."""
        first = k * self._n_molecules
        inside = (molecules >= first) & (molecules < first + self._n_molecules)
        found: np.ndarray = molecules[inside] - first
        return found

    def _energies_part(self, energies: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
        m = self._n_molecules
        return {name: e[k * m : (k + 1) * m] for name, e in energies.items()}

    def _seen_part(self, seen: Observation, k: int) -> Observation:
        n = self._n_atoms
        return Observation(
            seen.step, self._energies_part(seen.energies, k),
            lambda: seen.look()[k * n : (k + 1) * n],
        )  # fmt: skip


def _joined(frames: list[_Frame], name: str) -> np.ndarray:
    return np.concatenate([getattr(f, name) for f in frames])
