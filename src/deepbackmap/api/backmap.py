"""Beads to atoms: a whole trajectory, frame by frame, checked and summed up."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import MDAnalysis
import numpy as np
import torch
from tqdm import tqdm

import deepbackmap
from deepbackmap.api.checks import Checker, Checks
from deepbackmap.api.devices import choose_device
from deepbackmap.api.files import beside
from deepbackmap.api.finish import Finisher, FinishSummary, finish_options
from deepbackmap.api.models import find_model, model_hash
from deepbackmap.errors import InputError
from deepbackmap.evaluation import tacticity
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, mapping_words
from deepbackmap.mapping.match import check_beads
from deepbackmap.mapping.order import bead_order
from deepbackmap.model import Model, ModelSpec, load_model
from deepbackmap.sampling import (
    Handedness,
    PointSampler,
    Sampler,
    SamplingOptions,
    open_sampler,
)
from deepbackmap.system import Structure, Topology

ENSEMBLE = 16
"""Candidates where a temperature is asked for and their number is not: to choose by weight needs
some to choose from."""
MODEL_DEFAULTS = ("sweeps", "candidates", "choice", "relaxation", "cold_start", "steps", "batch")
"""Options that a model may have defaults for."""


@dataclass(frozen=True)
class Summary:
    """What was done and how good it is."""

    frames: int
    atoms: int
    """In each frame."""
    seconds: float
    """From the first frame read to the last one written."""
    atoms_per_second: float
    checks: Checks
    seed: int
    model: str
    model_sha256: str
    sweeps: int
    candidates: int
    choice: str
    relaxation: int
    cold_start: float
    """Of a point model; without meaning for others."""
    steps: int
    """Along the flow of a point model; without meaning for others."""
    temperature: float
    """Target temperature, K."""
    accepted: tuple[str, ...] = ()
    """What was accepted of the input though the names are not the mapping's, as sentences."""
    finish: FinishSummary | None = None
    """What was done to the structures after sampling; None: nothing. All other figures are of
    what was written."""

    def to_text(self) -> str:
        """Some lines for a person."""
        c = self.checks
        rows = [
            ("written", f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"),
            ("speed", f"{self.atoms_per_second:.0f} atoms/s"),
            ("closest contact", _contact(c)),
            ("stereocentres", _stereo(c)),
            ("bonds through rings", str(c.bonds_through_rings)),
            ("re-mapped beads", f"rms {c.beads_rms:.4f} nm, largest {c.beads_max:.4f} nm"),
            ("model", f"{self.model}, sha256 {self.model_sha256[:16]}"),
            (
                "sampling",
                f"seed {self.seed}, sweeps {self.sweeps}, candidates {self.candidates}, "
                f"choice {self.choice}, relaxation {self.relaxation}, {self.temperature:g} K",
            ),
        ]
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += [f"  through a ring: {name}" for name in c.bonds_through_rings_named]
        lines += [f"  inverted: {name}" for name in c.inverted_named]
        lines += [f"{'accepted':<20} {note}" for note in self.accepted]
        if self.finish is not None:
            lines += ["", "finish", *(f"  {x}" for x in self.finish.to_text().splitlines()[1:])]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        values = asdict(self)
        if not math.isfinite(self.checks.closest_contact):
            values["checks"]["closest_contact"] = None
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
    cold_start: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
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
            at that temperature; without relaxation one of an ensemble is drawn by weight.
        sweeps: Gibbs sweeps after the first pass.
        candidates: ensemble drawn for each sequence of atoms.
        choice: ``lowest``, ``boltzmann`` or ``reweight``, how one of them is chosen.
        relaxation: steps of thermal relaxation, of each block after each sweep (voxel models) or
            of the whole box at the end (point models); 0: none.
        cold_start: part of the temperature at which the relaxation of a point model begins.
        steps: along the flow of a point model.
        batch: most sequences in one call of the network; bounds memory, changes nothing else.
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
        InputError: an input is wrong or does not fit the others; then no output is left.
    """
    where = choose_device(device)
    record = Path(f"{output}.json")
    path = find_model(model)
    loaded = load_model(path)
    options = sampling_options(loaded.spec, str(path), {"sweeps": sweeps, "candidates": candidates,
        "choice": choice, "relaxation": relaxation, "cold_start": cold_start, "steps": steps,
        "batch": batch, "temperature": temperature, "seed": seed})  # fmt: skip
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
            hands = handedness_of(system, loaded.spec)
            sampler = open_sampler(loaded, system, options, where, hands)
        except InputError as error:  # a type that the model never saw
            raise InputError(f"{topology}: {error}; model {path}") from error
        checker = Checker(system, loaded.spec.handedness)
        finisher = _finisher(atoms, finish_steps, options, loaded, engine, keep_defects)
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
                checker.add(made, frame, number)
                bar.next_frame()
            summary = _summary(
                checker.result(), len(source), atoms, time.perf_counter() - started, options,
                loaded, path,
            )  # fmt: skip
            summary = replace(summary, accepted=(*left_out, *match.notes))
            if finisher is not None:
                summary = replace(summary, finish=finisher.summary())
            # Inside, so that a record that cannot be written leaves no output either.
            part.write_text(_record(summary, options, beads, trajectory, topology, mapping,
                output, frames, where), encoding="utf-8")  # fmt: skip
    return summary


class _Bar:
    """One bar over all frames that counts beads."""

    def __init__(
        self, sampler: Sampler | PointSampler, frames: int, beads: int, show: bool
    ) -> None:
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
    """Options as given, else the model's own, else the package's.

    Args:
        spec: of the model.
        source: its name, for messages.
        given: by name; None, or a name that is missing: not given.

    Raises:
        InputError: options that do not go together.
    """
    given = {**dict.fromkeys((*MODEL_DEFAULTS, "temperature")), **given}
    values = {name: spec.defaults[name] for name in MODEL_DEFAULTS if name in spec.defaults}
    values |= {name: value for name, value in given.items() if value is not None}
    # Relaxation is at the temperature asked for, and so are point models; without either only a
    # choice among candidates is.
    fixed = spec.representation != "points" and not values.get("relaxation")
    if given["temperature"] is not None and fixed:
        if given["choice"] is None:
            values["choice"] = "reweight"
        if given["candidates"] is None:
            values["candidates"] = max(int(values.get("candidates", 1)), ENSEMBLE)
        if values["choice"] == "lowest" or values["candidates"] == 1:
            raise InputError(
                "temperature: expected choice boltzmann or reweight among several candidates, "
                f"found choice {values['choice']} among {values['candidates']}, which no "
                "temperature changes"
            )
    try:
        return SamplingOptions(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{error} (options of this run and defaults of {source})") from error


def handedness_of(system: SystemMapping, spec: ModelSpec) -> Handedness | None:
    """The hand of every stereocentre by the pattern of the training data, if there is one."""
    centres = tacticity.find_centres(system)
    sign = tacticity.expected_signs(centres, spec.handedness)
    if not sign.any():
        return None
    return Handedness(torch.from_numpy(centres.atoms), torch.from_numpy(sign))


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
    sampler: Sampler | PointSampler,
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
    checks: Checks,
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
        checks=checks,
        seed=options.seed,
        model=path.stem,
        model_sha256=model_hash(path),
        sweeps=options.sweeps,
        candidates=options.candidates,
        choice=options.choice,
        relaxation=options.relaxation,
        cold_start=options.cold_start,
        steps=options.steps,
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
    content = {
        "program": f"deepbackmap {deepbackmap.__version__} backmap",
        "input": {
            "beads": str(beads),
            "trajectory": None if trajectory is None else str(trajectory),
            "topology": str(topology),
            "mapping": mapping_words(mapping),
            "frames": frames,
        },
        "output": Path(output).name,
        "options": asdict(options),
        "device": device.type,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "MDAnalysis": MDAnalysis.__version__,
        },
        "summary": summary.to_dict(),
    }
    return json.dumps(content, indent=2) + "\n"


def _contact(c: Checks) -> str:
    if not c.closest_pair:
        return "no pair nearer than its sigma"
    pair = " and ".join(c.closest_pair)
    return f"{c.closest_contact:.3f} sigma: {pair}, frame {c.closest_frame}"


def _stereo(c: Checks) -> str:
    text = f"{c.inverted} of {c.stereocentres} inverted against the pattern of the training data"
    if not c.stereocentres:
        return "none" if not c.stereocentres_unknown else (
            f"{c.stereocentres_unknown}, of which the training data tell no pattern"
        )  # fmt: skip
    return text + (f", {c.stereocentres_unknown} not known" if c.stereocentres_unknown else "")
