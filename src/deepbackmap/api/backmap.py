"""Beads to atoms: a whole trajectory, frame by frame, checked and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from deepbackmap.api import judgement
from deepbackmap.api.devices import choose_device
from deepbackmap.api.files import beside
from deepbackmap.api.finish import Finisher, FinishSummary, finish_options
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model, model_hash
from deepbackmap.api.record import make_record
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import Finding, verdict
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile, load_mapping, mapping_words
from deepbackmap.mapping.match import check_beads
from deepbackmap.mapping.order import bead_order
from deepbackmap.methods import find_options
from deepbackmap.methods.base import Model, Sampler, open_sampler
from deepbackmap.methods.options import SamplingOptions
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure, Topology


@dataclass(frozen=True)
class Summary:
    """What was done and how good it is."""

    frames: int
    atoms: int
    """In each frame."""
    seconds: float
    """From the first frame read to the last one written."""
    atoms_per_second: float
    figures: Figures
    seed: int
    model: str
    model_sha256: str
    method: str
    """Of the model."""
    options: Mapping[str, Any]
    """Of sampling, of the model's method: those that were in force."""
    temperature: float
    """Target temperature, K."""
    accepted: tuple[str, ...] = ()
    """What was accepted of the input though the names are not the mapping's, as sentences."""
    finish: FinishSummary | None = None
    """What was done to the structures after sampling; None: nothing. All other figures are of
    what was written."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against using what was written."""
        return verdict(self.figures, self.temperature)

    def to_text(self) -> str:
        """Some lines for a person."""
        rows = [
            ("written", f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"),
            ("speed", f"{self.atoms_per_second:.0f} atoms/s"),
            *judgement.figure_rows(self.figures, "the pattern of the training data"),
            ("model", f"{self.model}, sha256 {self.model_sha256[:16]}"),
            (
                "sampling",
                ", ".join(
                    [f"method {self.method}", f"seed {self.seed}"]
                    + [f"{name} {value}" for name, value in self.options.items()]
                    + [f"{self.temperature:g} K"]
                ),
            ),
        ]
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += judgement.to_lines(self.findings)
        lines += [f"{'accepted':<20} {note}" for note in self.accepted]
        if self.finish is not None:
            lines += ["", "finish", *(f"  {x}" for x in self.finish.to_text().splitlines()[1:])]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        values = asdict(self) | {"figures": self.figures.to_dict()}
        values["findings"] = [asdict(finding) for finding in self.findings]
        if self.finish is not None:
            values["finish"] = self.finish.to_dict()
        return values


def backmap(
    beads: str | Path,
    trajectory: str | Path | None = None,
    *,
    topology: str | Path,
    output: str | Path,
    model: str | Path = "default",
    mapping: str | Path | Sequence[str | Path] | None = None,
    frames: str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    sweeps: int | None = None,
    candidates: int | None = None,
    choice: str | None = None,
    relaxation: int | None = None,
    block_relaxation: int | None = None,
    cold_start: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    finish_steps: int | None = None,
    keep_defects: bool = False,
    engine: str = "auto",
    by_order: bool = False,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    force: bool = False,
    progress: bool = True,
) -> Summary:
    """Puts the atoms back into a coarse-grained structure or trajectory.

    Frames are read, sampled, checked and written one at a time, so that memory does not grow with
    their number. The random numbers depend on the seed and on a frame's number in its file, so
    that a frame comes out the same whichever others are asked for. ``OUTPUT.json`` beside the
    output records seeds, model, options, versions and the summary.

    Args:
        beads: structure with the names of the beads, in the topology's order.
        trajectory: frames of it; None takes the frames of the structure file.
        topology: GROMACS topology of the atoms.
        output: structure or trajectory of the atoms to write.
        model: file, or the name of a packaged model.
        mapping: mapping files or packaged name, where it is not the model's own.
        frames: which frames, "A:B:C"; all by default.
        seed: of all random numbers.
        temperature: target in K; the training's by default. Where it is given, the relaxation is
            at that temperature; of a voxel model without relaxation one of an ensemble is drawn by
            weight.
        sweeps: Gibbs sweeps after the first pass.
        candidates: of voxel models: ensemble drawn for each sequence of atoms.
        choice: of voxel models: ``lowest``, ``boltzmann`` or ``reweight``, how one is chosen.
        relaxation: of point models: steps of dynamics of the whole box at the end; 0: none.
        block_relaxation: of voxel models: steps of thermal relaxation of each block after each
            sweep; 0: none.
        cold_start: of point models: part of the temperature at which the relaxation begins.
        steps: of point models: along the flow.
        batch: most sequences in one call of the network; bounds memory, changes nothing else.
        options: more options of the model's method, by name.
        device: ``auto``, ``cpu`` or ``cuda``.
        finish_steps: of dynamics with which every frame is finished as ``api.finish`` does, at the
            target temperature, after a little minimisation; None: none.
        keep_defects: whether to write structures in which finishing made a defect.
        engine: of that, as ``dynamics.engines.open_engine`` knows them.
        by_order: whether the beads are in the mapping's order whatever they are called; then, and
            where they are called by type, distances of bonded beads are checked.
        drop: residues of molecules that the beads leave out; so does the output.
        keep: residues of molecules whose beads are their atoms.
        force: whether to replace existing outputs.
        progress: whether to show a bar on standard error.

    Returns:
        The summary.

    Raises:
        InputError: an input is wrong or does not fit the others, or an option is not one of the
            model's method; then no output is left.
    """
    where = choose_device(device)
    record = Path(f"{output}.json")
    path = find_model(model)
    loaded = load_model(path)
    asked = {
        "sweeps": sweeps, "candidates": candidates, "choice": choice, "relaxation": relaxation,
        "block_relaxation": block_relaxation, "cold_start": cold_start, "steps": steps,
        "batch": batch, "temperature": temperature, "seed": seed, **(options or {}),
    }  # fmt: skip
    chosen = sampling_options(loaded.spec, path.stem, asked)
    file = _mapping(mapping, loaded.spec, path).with_selection(drop, keep)
    atoms, left_out = file.without_dropped(read_topology(topology))
    _refuse_kept(file.kept(atoms), path)
    system = file.resolve(atoms)
    with read_frames(beads, trajectory, frames=frames) as source:
        match = check_beads(system, source.table, str(beads), by_order=by_order)
        order = None if match.certain else bead_order(system)
        writer = open_writer(output, atom_table(atoms), force=force)
        if record.exists() and not force:
            raise InputError(f"{record}: expected no file of that name, found one (force replaces)")
        try:
            hands = handedness_of(system, loaded.spec.handedness)
            sampler = open_sampler(loaded, system, chosen, where, hands)
        except InputError as error:  # a type that the model never saw
            raise InputError(f"{topology}: {error}; model {path}") from error
        judge = Judge(atoms, system, hands=KnownHands.by_pattern(system, loaded.spec.handedness))
        figures = Figures()
        finisher = _finisher(atoms, finish_steps, chosen, loaded, engine, keep_defects)
        started = time.perf_counter()
        with (
            beside(record) as part,
            writer,
            _Bar(sampler, len(source), system.n_beads, progress) as bar,
        ):
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                if order is not None:
                    order.check(frame, f"{source.path} frame {number}")
                made = _sample(sampler, frame, number, source, bar.count)
                if finisher is not None:
                    made = finisher.finish(made, number, str(source.path))
                writer.write(made)
                figures = figures + judge.frame(made, frame, number)
                bar.next_frame()
            summary = _summary(
                figures, len(source), atoms, time.perf_counter() - started, chosen,
                loaded, path,
            )  # fmt: skip
            summary = replace(summary, accepted=(*left_out, *match.notes))
            if finisher is not None:
                summary = replace(summary, finish=finisher.summary())
            # Inside, so that a record that cannot be written leaves no output either.
            part.write_text(_record(summary, chosen, beads, trajectory, topology, mapping,
                output, frames, where), encoding="utf-8")  # fmt: skip
    return summary


class _Bar:
    """One bar over all frames that counts beads."""

    def __init__(self, sampler: Sampler, frames: int, beads: int, show: bool) -> None:
        self._per_bead = max(1, sampler.placements // max(1, beads))
        self._beads, self._frames, self._frame, self._count = beads, frames, 0, 0
        self._bar = tqdm(total=frames * beads, unit="bead", disable=not show)
        self._label()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def _label(self) -> None:
        self._bar.set_description(f"frame {min(self._frame + 1, self._frames)}/{self._frames}")

    def count(self, sequences: int) -> None:
        """Some sequences were placed; a bead is done when all of its sequences are."""
        self._count += sequences
        done = self._frame * self._beads + self._count // self._per_bead
        self._bar.update(done - self._bar.n)

    def next_frame(self) -> None:
        """A frame is complete."""
        self._frame, self._count = self._frame + 1, 0
        self._label()


def sampling_options(spec: ModelSpec, source: str, given: Mapping[str, Any]) -> SamplingOptions:
    """Options as given, else the model's own, else the method's.

    Args:
        spec: of the model.
        source: its name, for messages.
        given: by name; None: not given.

    Raises:
        InputError: an option that the method does not have, or options that do not go together.
    """
    return find_options(spec.method).sampling_options(given, spec.defaults, source)


def in_force(options: SamplingOptions) -> dict[str, Any]:
    """Options that say how atoms are placed; seed and temperature stand for themselves."""
    return {k: v for k, v in asdict(options).items() if k not in ("seed", "temperature", "batch")}


def _finisher(
    topology: Topology,
    steps: int | None,
    options: SamplingOptions,
    model: Model,
    engine: str,
    keep_defects: bool,
) -> Finisher | None:
    """What finishes the sampled structures, if that is asked for."""
    if steps is None:
        return None
    temperature = options.temperature or model.spec.temperature
    return Finisher(
        topology, finish_options(temperature, steps=steps), engine=engine, seed=options.seed,
        keep_defects=keep_defects,
    )  # fmt: skip


def _refuse_kept(kept: Sequence[str], model: Path) -> None:
    """A model has learned nothing of atoms that are there already."""
    if kept:
        raise InputError(
            f"{model}: expected a model to place every molecule, found {', '.join(kept)} kept as "
            f"atoms, which no model sees; drop them and put them back afterwards, or take "
            f"'baseline --method backward', which passes them through"
        )


def _mapping(
    given: str | Path | Sequence[str | Path] | None, spec: ModelSpec, model: Path
) -> MappingFile:
    if given is not None:
        return load_mapping(given)
    return MappingFile.from_text(spec.mapping, f"mapping of {model}")


def _sample(
    sampler: Sampler,
    frame: Structure,
    number: int,
    source: FrameSource,
    progress: Callable[[int], None],
) -> Structure:
    try:
        made = sampler.sample(frame, frame=number, progress=progress)
    except InputError as error:
        raise InputError(f"{source.path} {error}") from error
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{source.path} frame {number}: expected the batch to fit the device's memory, found "
            f"it full with batch {sampler.options.batch}; give a smaller one"
        ) from error
    bad = np.flatnonzero(~np.isfinite(made.positions).all(axis=1))
    if len(bad):
        raise InputError(
            f"{source.path} frame {number}: expected finite coordinates from the model, found "
            f"{made.positions[bad[0]].tolist()} for atom {bad[0] + 1}; is the model trained?"
        )
    return made


def _summary(
    figures: Figures,
    frames: int,
    topology: Topology,
    seconds: float,
    options: SamplingOptions,
    model: Model,
    path: Path,
) -> Summary:
    return Summary(
        frames=frames,
        atoms=topology.n_atoms,
        seconds=seconds,
        atoms_per_second=frames * topology.n_atoms / seconds,
        figures=figures,
        seed=options.seed,
        model=path.stem,
        model_sha256=model_hash(path),
        method=model.spec.method,
        options=in_force(options),
        temperature=options.temperature or model.spec.temperature,
    )


def _record(
    summary: Summary,
    options: SamplingOptions,
    beads: str | Path,
    trajectory: str | Path | None,
    topology: str | Path,
    mapping: str | Path | Sequence[str | Path] | None,
    output: str | Path,
    frames: str | None,
    device: torch.device,
) -> str:
    inputs = {
        "beads": beads, "trajectory": trajectory, "topology": topology,
        "mapping": mapping_words(mapping),
    }  # fmt: skip
    return make_record(
        "backmap", inputs=inputs, output=output, options=asdict(options) | {"frames": frames},
        seed=options.seed, device=device.type, threads=torch.get_num_threads(),
        engine=None if summary.finish is None else summary.finish.engine,
        summary=summary.to_dict(),
    )  # fmt: skip
