"""Beads to atoms: a whole trajectory, frame by frame, checked and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from deepbackmap.api import judgement
from deepbackmap.api.compiling import said_when_compiling
from deepbackmap.api.devices import choose_device
from deepbackmap.api.files import beside, spare_inputs, spare_inputs_beside
from deepbackmap.api.finish import Finisher, FinishSummary, finish_options
from deepbackmap.api.hands import find_hands
from deepbackmap.api.held import Held, moved_beads
from deepbackmap.api.models import find_model, model_hash
from deepbackmap.api.record import make_record
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.plausible import BeadBonds
from deepbackmap.evaluation.usable import Finding, ordered, verdict, worst
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, mapping_words
from deepbackmap.mapping.match import check_beads
from deepbackmap.mapping.order import bead_order
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.methods import find_options
from deepbackmap.methods.base import Model, Sampler, open_sampler
from deepbackmap.methods.options import SamplingOptions
from deepbackmap.methods.physics.method import no_model
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure, Topology
from deepbackmap.system.topology import require_energies

ATTEMPTS = 3
"""Times that a frame is drawn, until it can be used."""
ANEW = 1 << 40
"""Added to the number of a frame that is drawn anew, for other random numbers."""
NO_MODEL = "none"
"""Name of the route that needs no model: topology, mapping, beads and physics."""


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
    drawn_anew: int = 0
    """Frames that could not be used as they were drawn first."""
    hands: str = "not known"
    """Where the hands of the stereocentres are known from."""
    held: Held = field(default_factory=Held)
    """How beads were held, and what the last steps came to."""
    input_findings: tuple[Finding, ...] = ()
    """What the beads that were given look like; empty where nothing speaks against them."""
    finish: FinishSummary | None = None
    """What was done to the structures after sampling; None: nothing. All other figures are of
    what was written."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against using what was written, and against the beads that were given."""
        return ordered((*self.input_findings, *verdict(self.figures, self.temperature)))

    def to_text(self) -> str:
        """Some lines for a person."""
        rows = [
            ("written", f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"),
            ("speed", f"{self.atoms_per_second:.0f} atoms/s"),
            *judgement.figure_rows(self.figures, f"those {self.hands}"),
            *self.held.to_rows(),
            (
                "model",
                self.model + (f", sha256 {self.model_sha256[:16]}" * bool(self.model_sha256)),
            ),
            (
                "sampling",
                ", ".join(
                    [f"method {self.method}", f"seed {self.seed}"]
                    + [f"{name} {value}" for name, value in self.options.items()]
                    + [f"{self.temperature:g} K"]
                ),
            ),
        ]
        if self.drawn_anew:
            rows.append(("drawn anew", f"{self.drawn_anew} frames, until they could be used"))
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
        values["held"] = self.held.to_dict()
        del values["input_findings"]
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
    bead_tolerance: float | None = None,
    like: str | Path | None = None,
    labels: str | Path | None = None,
    moved: str | Path | None = None,
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
        topology: of the atoms, in any format that ``io.topology`` reads.
        output: structure or trajectory of the atoms to write.
        model: file, or the name of a packaged model; ``none``: conformations of single molecules,
            by the force field alone, for any topology (needs ``mapping`` and ``temperature``).
        mapping: mapping files or packaged name, where it is not the model's own.
        frames: which frames, "A:B:C"; all by default.
        seed: of all random numbers.
        temperature: target in K; the training's by default. Where it is given, the relaxation is
            at that temperature; of a voxel model without relaxation one of an ensemble is drawn by
            weight.
        sweeps: Gibbs sweeps after the first pass.
        candidates: of voxel models: ensemble drawn for each sequence of atoms.
        choice: of voxel models: ``lowest``, ``boltzmann`` or ``reweight``, how one is chosen.
        relaxation: steps of dynamics of the whole box at the end; 0: none; None: the model's own
            number, or as many as are needed.
        bead_tolerance: standard deviation of a coordinate of a bead about where it was given, nm;
            0: exactly there; None: found out from the beads.
        like: a structure, of the system or of one of its molecules, whose stereocentres have the
            hands that are wanted.
        labels: text file with one label a bead whose last letter says the hand (docs/hands.md).
        moved: .pdb of the beads to write, with how far (in Angstrom) each was moved in the column
            of temperature factors, by which viewers colour.
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
    read = (beads, trajectory, topology, model, mapping, like, labels)
    spare_inputs(output, *read)
    if moved is not None:
        spare_inputs_beside(moved, output, *read)
    where = choose_device(device)
    record = Path(f"{output}.json")
    asked = {
        "sweeps": sweeps, "candidates": candidates, "choice": choice, "relaxation": relaxation,
        "block_relaxation": block_relaxation, "cold_start": cold_start, "steps": steps,
        "batch": batch, "temperature": temperature, "seed": seed,
        "bead_tolerance": bead_tolerance, **(options or {}),
    }  # fmt: skip
    path = None if str(model) == NO_MODEL else find_model(model)
    trained = None if path is None else load_model(path)
    file = _mapping(mapping, trained, path).with_selection(drop, keep)
    everything = read_topology(topology)
    refuse_absent(everything, drop=drop, keep=keep)
    atoms, left_out = file.without_dropped(everything)
    _refuse_kept(file.kept(atoms), path)
    system = file.resolve(atoms)
    loaded = _without_model(atoms, system, file, temperature) if trained is None else trained
    named = NO_MODEL if path is None else path.stem
    chosen = sampling_options(loaded.spec, named, asked)
    with read_frames(beads, trajectory, frames=frames) as source:
        match = check_beads(system, source.table, str(beads), by_order=by_order)
        order = None if match.certain else bead_order(system)
        writer = open_writer(output, atom_table(atoms), force=force, topology=atoms)
        if record.exists() and not force:
            raise InputError(f"{record}: expected no file of that name, found one (force replaces)")
        hands = find_hands(
            system, file, loaded.spec, like=like, labels=labels,
            beads=source[0] if len(source) else None,
        )  # fmt: skip
        try:
            with said_when_compiling(progress):
                sampler = open_sampler(loaded, system, chosen, where, hands.handedness)
        except InputError as error:  # a type that the model never saw
            raise InputError(f"{topology}: {error}{_way_out(path)}") from error
        warmth = chosen.temperature or loaded.spec.temperature
        judge = Judge(atoms, system, hands=hands.known)
        figures, held, drawn_anew = Figures(), Held(), 0
        bonds = BeadBonds.of(system)
        doubts: dict[str, Finding] = {}
        finisher = _finisher(atoms, finish_steps, chosen, loaded, engine, keep_defects)
        started = time.perf_counter()
        with (
            beside(record) as part,
            writer,
            moved_beads(moved, judge, system, force) as show_moved,
            _Bar(sampler, len(source), system.n_beads, progress) as bar,
            said_when_compiling(progress),
        ):
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                if order is not None:
                    order.check(frame, f"{source.path} frame {number}")
                place = f"{source.path} frame {number}"
                seen = judgement.of_input(system, frame, bonds, loaded.spec, warmth)
                judgement.refuse(place, seen, keep_defects=keep_defects)
                doubts |= {f.sentence: f for f in seen if f.severity != "fine"}
                for attempt in range(ATTEMPTS):
                    made = _sample(sampler, frame, number + attempt * ANEW, source, bar.count)
                    if finisher is not None:
                        made = finisher.finish(made, number, str(source.path))
                    found = judge.frame(made, frame, number)
                    found_wrong = verdict(found, warmth)
                    if worst(found_wrong) != "unusable":
                        break
                judgement.refuse(place, found_wrong, keep_defects=keep_defects)
                drawn_anew += bool(attempt)
                if sampler.settled is not None:
                    held = held + Held.of(sampler.settled)
                writer.write(made)
                show_moved(made, frame, number)
                figures = figures + found
                bar.next_frame()
            summary = _summary(
                figures, len(source), atoms, time.perf_counter() - started, chosen,
                loaded, path,
            )  # fmt: skip
            summary = replace(
                summary, accepted=(*left_out, *match.notes), held=held, hands=hands.words(),
                drawn_anew=drawn_anew,
                input_findings=tuple(doubts.values()),
            )  # fmt: skip
            if finisher is not None:
                summary = replace(summary, finish=finisher.summary())
            # Inside, so that a record that cannot be written leaves no output either.
            inputs = {
                "beads": beads, "trajectory": trajectory, "topology": topology,
                "mapping": mapping_words(mapping), "like": like, "labels": labels,
            }  # fmt: skip
            text = _record(summary, chosen, inputs, output, frames, where)
            part.write_text(text, encoding="utf-8")
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


def _refuse_kept(kept: Sequence[str], model: Path | None) -> None:
    """A model has learned nothing of atoms that are there already."""
    if kept:
        raise InputError(
            f"{model or NO_MODEL}: expected every molecule to be placed, found {', '.join(kept)} "
            "kept as atoms, which the others would not see; drop them and put them back "
            "afterwards, or take 'baseline --method backward', which passes them through"
        )


def _mapping(
    given: str | Path | Sequence[str | Path] | None, model: Model | None, path: Path | None
) -> MappingFile:
    if given is not None:
        return load_mapping(given)
    if model is None:
        raise InputError(
            f"model {NO_MODEL}: expected a mapping (--mapping), found none; without a model "
            "nothing else says which atoms a bead stands for"
        )
    return MappingFile.from_text(model.spec.mapping, f"mapping of {path}")


def _without_model(
    topology: Topology, system: SystemMapping, file: MappingFile, temperature: float | None
) -> Model:
    """What stands for a model where there is none."""
    if temperature is None:
        raise InputError(
            f"model {NO_MODEL}: expected a temperature (--temperature), found none; without a "
            "model nothing else says how hot the atoms should be"
        )
    if not 0 < temperature < 1e5:
        raise InputError(
            f"temperature: expected a positive number below 100000 K, found {temperature}"
        )
    require_energies(topology)
    return no_model(topology, system, file.to_text(), temperature)


def _way_out(path: Path | None) -> str:
    """What to do about a topology that a model does not know."""
    if path is None:
        return ""
    return (
        f"; model {path}: train one of your own (docs/training.md), or do without: --model "
        f"{NO_MODEL} --mapping FILE --temperature KELVIN"
    )


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
    path: Path | None,
) -> Summary:
    return Summary(
        frames=frames,
        atoms=topology.n_atoms,
        seconds=seconds,
        atoms_per_second=frames * topology.n_atoms / seconds,
        figures=figures,
        seed=options.seed,
        model=NO_MODEL if path is None else path.stem,
        model_sha256="" if path is None else model_hash(path),
        method=model.spec.method,
        options=in_force(options),
        temperature=options.temperature or model.spec.temperature,
    )


def _record(
    summary: Summary,
    options: SamplingOptions,
    inputs: Mapping[str, object],
    output: str | Path,
    frames: str | None,
    device: torch.device,
) -> str:
    return make_record(
        "backmap", inputs=inputs, output=output, options=asdict(options) | {"frames": frames},
        seed=options.seed, device=device.type, threads=torch.get_num_threads(),
        engine=None if summary.finish is None else summary.finish.engine,
        summary=summary.to_dict(),
    )  # fmt: skip
