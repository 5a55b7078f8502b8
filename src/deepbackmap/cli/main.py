"""The verbs as commands.

Everything heavy is imported inside the commands, so that help and mistakes are quick.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

import deepbackmap
from deepbackmap.errors import InputError, Notice

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Puts the atoms back into coarse-grained structures with a generative model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Public reference data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
mapping_app = typer.Typer(help="Mapping files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(mapping_app, name="mapping")

Topology = Annotated[
    Path,
    typer.Option("--topology", "-p", help="Of the atoms: .top, or LAMMPS, Amber, CHARMM, OpenMM."),
]
Frames = Annotated[str | None, typer.Option(help="Which frames, A:B:C; all by default.")]
ByOrder = Annotated[
    bool,
    typer.Option("--by-order", help="Take the file's order whatever names say; check distances."),
]
Drop = Annotated[
    list[str] | None, typer.Option(help="Residue whose molecules are left out; may be repeated.")
]
Keep = Annotated[
    list[str] | None, typer.Option(help="Residue whose atoms are beads; may be repeated.")
]
Mappings = Annotated[
    list[str],
    typer.Option("--mapping", help="Mapping file or packaged name; may be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")]
Engine = Annotated[
    str,
    typer.Option(help="auto, internal, openmm, openmm-cpu, openmm-cuda, openmm-opencl, gromacs."),
]
Threads = Annotated[int | None, typer.Option(help="Of the engine; all that are there by default.")]
Format = Annotated[
    str | None,
    typer.Option(help="Of coordinate files whose names do not tell: dump, data, gro, pdb, ..."),
]
Include = Annotated[
    list[Path] | None,
    typer.Option("--include", "-I", help="GROMACS: folder of included files; may be repeated."),
]
Define = Annotated[
    list[str] | None,
    typer.Option("--define", "-D", help="GROMACS: NAME or NAME=VALUE, a macro; may be repeated."),
]
Tables = Annotated[
    list[Path] | None,
    typer.Option(help="GROMACS: table of a bonded interaction (.xvg); may be repeated."),
]
Parameters = Annotated[
    list[Path] | None,
    typer.Option(help="CHARMM: parameters of a psf (.prm, .rtf, .str); may be repeated."),
]
LengthUnit = Annotated[
    str | None,
    typer.Option(
        help="Of the files worked on, whatever their format says, and of all LAMMPS and GSD files: "
        "nm, A, or its length in nm."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
KeepDefects = Annotated[
    bool,
    typer.Option("--keep-defects", help="Write structures that cannot be used too."),
]
Workers = Annotated[
    int, typer.Option(help="Processes that share the frames, or jobs of --scheduler's system.")
]
SomeWorkers = Annotated[
    int | None,
    typer.Option(
        help="Processes that share the frames (as many as threads, where there are frames enough), "
        "or jobs of --scheduler's system."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Dask cluster: address, scheduler file, or slurm, pbs, sge, lsf, ..."),
]
Parts = Annotated[
    int | None,
    typer.Option(help="Cut the steps of one large box into so many, for workers of --scheduler."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from what an interrupted run has left.")
]


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"deepbackmap {deepbackmap.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Called before every verb."""


@app.command("map")
def map_(
    structure: Annotated[Path, typer.Argument(help="Atoms with names (.gro, .pdb, ...).")],
    trajectory: Annotated[Path | None, typer.Argument(help="Frames of them.")] = None,
    *,
    topology: Topology,
    mapping: Mappings,
    output: Annotated[Path, typer.Option("--output", "-o", help="Beads to write.")],
    frames: Frames = None,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    by_order: ByOrder = False,
    drop: Drop = None,
    keep: Keep = None,
    keep_defects: KeepDefects = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Map atoms to beads."""

    def note(sentence: str) -> None:
        warning = sentence.startswith("WARNING")
        if warning or not quiet:
            typer.echo(sentence, err=warning)

    with (
        _edge(),
        _reading(format, length_unit, structure, trajectory),
        _topology(include, define, tables, parameters),
    ):
        with _uncollected():
            from deepbackmap.api.map import map_trajectory

        count = map_trajectory(
            structure, trajectory, topology, mapping, output,
            frames=frames, by_order=by_order, drop=drop or (), keep=keep or (),
            keep_defects=keep_defects, force=force, progress=_progress(quiet), note=note,
        )  # fmt: skip
        if not quiet:
            typer.echo(f"{output}: {count} frames of beads")


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="YAML file or preset (paper, small, tiny).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Options on top, as training.batch=36.")
    ] = None,
    *,
    run_folder: Annotated[Path, typer.Option("--run", help="Folder of the run.")],
    devices: Annotated[int, typer.Option(help="Workers that share each step.")] = 1,
    device: Device = "auto",
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    quiet: Quiet = False,
) -> None:
    """Train a model; a second call with the same folder goes on."""
    with _edge(), _topology(include, define, tables, parameters):
        from deepbackmap.api.train import train as run_training

        finished = run_training(
            config, overrides or (), run_folder=run_folder, devices=devices, device=device,
            progress=_progress(quiet),
        )  # fmt: skip
        if not finished:
            raise KeyboardInterrupt(f"{run_folder} keeps a checkpoint, the same command goes on")
        if not quiet:
            typer.echo(f"{run_folder / 'model.safetensors'}: the trained model")


@app.command()
def backmap(
    beads: Annotated[Path, typer.Argument(help="Beads with names (.gro, .pdb, ...).")],
    trajectory: Annotated[Path | None, typer.Argument(help="Frames of them.")] = None,
    *,
    topology: Topology,
    output: Annotated[Path, typer.Option("--output", "-o", help="Atoms to write.")],
    model: Annotated[
        str,
        typer.Option(
            help="Model file or packaged name; none: by the force field alone, for any topology."
        ),
    ] = "default",
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            help="Mapping file or packaged name, may be repeated; the model's by default."
        ),
    ] = None,
    frames: Frames = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Target temperature in K, of the relaxation or of the choice by weight."),
    ] = None,
    sweeps: Annotated[
        int | None, typer.Option(help="Gibbs sweeps after the first pass; the model's by default.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Voxel models: candidates for each sequence; the model's.")
    ] = None,
    choice: Annotated[
        str | None, typer.Option(help="Voxel models: lowest, boltzmann or reweight of them.")
    ] = None,
    relaxation: Annotated[
        int | None,
        typer.Option(
            help="Steps of dynamics of the whole box at the end; as many as needed by default."
        ),
    ] = None,
    bead_tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far beads may be moved, nm (standard deviation of a coordinate); 0: exactly "
            "where they are; by default found out from the beads."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Atoms of the system, or of one molecule, with the hands wanted."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels of the beads, one a line; the last letter, u or d, is the hand."),
    ] = None,
    moved: Annotated[
        Path | None,
        typer.Option(help="Beads to write as .pdb, with how far each was moved (Angstrom)."),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Random numbers of frames: frame (each its own), shared, or ou:TAU (correlated "
            "over TAU ps); for trajectories whose frames are close in time."
        ),
    ] = None,
    block_relaxation: Annotated[
        int | None,
        typer.Option(help="Voxel models: steps of relaxation of each block after each sweep."),
    ] = None,
    cold_start: Annotated[
        float | None,
        typer.Option(help="Point models: part of the temperature at which relaxation begins."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Point models: steps along the flow; the model's.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Most sequences at once; bounds memory only.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, another option of the model's method.")
    ] = None,
    device: Device = "auto",
    finish: Annotated[
        bool, typer.Option("--finish", help="Equilibrate afterwards, as the verb finish does.")
    ] = False,
    finish_steps: Annotated[
        int | None, typer.Option(help="Of dynamics, with --finish; 100 by default.")
    ] = None,
    keep_defects: KeepDefects = False,
    engine: Engine = "auto",
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    by_order: ByOrder = False,
    drop: Drop = None,
    keep: Keep = None,
    workers: SomeWorkers = None,
    scheduler: Scheduler = None,
    parts: Parts = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Put the atoms back into beads."""
    with (
        _edge(),
        _reading(format, length_unit, beads, trajectory, others=(like,)),
        _topology(include, define, tables, parameters),
    ):
        steps_after = _finishing(finish, finish_steps, engine)
        with _uncollected():
            from deepbackmap.api.backmap import backmap as run_backmapping

        summary = run_backmapping(
            beads, trajectory, topology=topology, output=output, model=model,
            mapping=mapping or None, frames=frames, seed=seed, temperature=temperature,
            sweeps=sweeps, candidates=candidates, choice=choice, relaxation=relaxation,
            block_relaxation=block_relaxation, cold_start=cold_start, steps=steps, batch=batch,
            bead_tolerance=bead_tolerance, noise=noise, like=like, labels=labels, moved=moved,
            options=_options_of_method(option), device=device,
            finish_steps=steps_after, keep_defects=keep_defects,
            engine=engine, by_order=by_order, drop=drop or (), keep=keep or (),
            workers=workers, scheduler=scheduler, parts=parts, resume=resume, force=force,
            progress=_progress(quiet),
        )  # fmt: skip
        _warn(summary.findings, quiet)
        if not quiet:
            typer.echo(summary.to_text(), nl=False)


@app.command()
def baseline(
    beads: Annotated[Path, typer.Argument(help="Beads with names (.gro, .pdb, ...).")],
    trajectory: Annotated[Path | None, typer.Argument(help="Frames of them.")] = None,
    *,
    topology: Topology,
    mapping: Mappings,
    method: Annotated[str, typer.Option(help="backward (the paper's baseline) or template.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Atoms to write.")],
    modifiers: Annotated[
        Path | None, typer.Option(help="backward: file of geometric modifiers.")
    ] = None,
    kick: Annotated[float, typer.Option(help="backward: random displacement, nm.")] = 0.0,
    templates: Annotated[
        Path | None, typer.Option(help="template: .npz file; the packaged ones by default.")
    ] = None,
    templates_from: Annotated[
        Path | None, typer.Option(help="template: atoms to learn from, with --structure.")
    ] = None,
    structure: Annotated[
        Path | None, typer.Option(help="template: names of the atoms to learn from.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="template: draw at this temperature, K; lowest energy by default."),
    ] = None,
    frames: Frames = None,
    engine: Annotated[str, typer.Option(help="auto, internal, openmm or gromacs.")] = "auto",
    minimise: Annotated[
        bool, typer.Option("--minimise/--no-minimise", help="Minimise after placing.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    keep_defects: KeepDefects = False,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    by_order: ByOrder = False,
    drop: Drop = None,
    keep: Keep = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Put the atoms back without a model: the paper's baseline, or rigid templates."""
    others = (templates_from, structure)
    with (
        _edge(),
        _reading(format, length_unit, beads, trajectory, others=others),
        _topology(include, define, tables, parameters),
    ):
        with _uncollected():
            from deepbackmap.api.baseline import baseline as run_baseline

        summary = run_baseline(
            beads, trajectory, topology=topology, mapping=mapping, output=output, method=method,
            modifiers=modifiers, kick_size=kick, templates=templates,
            templates_from=templates_from, structure=structure, temperature=temperature,
            frames=frames, engine=engine, minimise=minimise, seed=seed,
            keep_defects=keep_defects, by_order=by_order, drop=drop or (), keep=keep or (),
            workers=workers, scheduler=scheduler, resume=resume, force=force,
            progress=_progress(quiet),
        )  # fmt: skip
        _warn(summary.findings, quiet)
        if not quiet:
            typer.echo(summary.to_text(), nl=False)


@app.command("finish")
def finish_(
    structure: Annotated[Path, typer.Argument(help="Placed atoms with names (.gro, .pdb, ...).")],
    trajectory: Annotated[Path | None, typer.Argument(help="Frames of them.")] = None,
    *,
    topology: Topology,
    output: Annotated[Path, typer.Option("--output", "-o", help="Atoms to write.")],
    temperature: Annotated[
        float | None, typer.Option(help="Of the dynamics in K; must be given.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of dynamics, 1 fs each.")] = 100,
    minimise: Annotated[
        int, typer.Option(help="Steps of minimisation before, more while atoms are too close.")
    ] = 10,
    friction: Annotated[float, typer.Option(help="Of the dynamics, 1/ps.")] = 20.0,
    frames: Frames = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Go on until every term's energy has settled.")
    ] = False,
    max_steps: Annotated[
        int | None, typer.Option(help="Most steps, with --until-settled; 20000 by default.")
    ] = None,
    hold_beads: Annotated[
        bool, typer.Option("--hold-beads", help="Hold the beads of --mapping where they are.")
    ] = False,
    mapping: Annotated[
        str | None, typer.Option(help="Mapping file or packaged name, with --hold-beads.")
    ] = None,
    beads: Annotated[
        Path | None, typer.Option(help="Where beads are held; where the atoms have them else.")
    ] = None,
    hold_constant: Annotated[
        float | None, typer.Option(help="Of the hold, kJ mol-1 nm-2; 100000 by default.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Structure whose stereocentres are right; else the majority is."),
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is suspicious as well.")
    ] = False,
    keep_defects: KeepDefects = False,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Equilibrate placed atoms: a little minimisation, constrained dynamics."""
    others = (beads, reference)
    with (
        _edge(),
        _reading(format, length_unit, structure, trajectory, others=others),
        _topology(include, define, tables, parameters),
    ):
        with _uncollected():
            from deepbackmap.api.finish import finish

        summary = finish(
            structure, trajectory, topology=topology, output=output, temperature=temperature,
            steps=steps, minimise=minimise, friction=friction, frames=frames,
            until_settled=until_settled, max_steps=max_steps, hold_beads=hold_beads,
            mapping=mapping, beads=beads, hold_constant=hold_constant, reference=reference,
            engine=engine, threads=threads, seed=seed, strict=strict,
            keep_defects=keep_defects,
            workers=workers, scheduler=scheduler, resume=resume, force=force,
            progress=_progress(quiet),
        )  # fmt: skip
        _warn(summary.findings, quiet)
        if not quiet:
            typer.echo(summary.to_text(), nl=False)


@app.command("md")
def md_(
    *,
    start: Annotated[list[str], typer.Option(help="NAME=FILE of a start; once for each of them.")],
    topology: Topology,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    temperature: Annotated[float | None, typer.Option(help="In K; must be given.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Frames in equilibrium, for the band of energies.")
    ] = None,
    structure: Annotated[
        Path | None, typer.Option("--structure", "-s", help="Names for files without (.xtc).")
    ] = None,
    reference_frames: Annotated[
        str | None, typer.Option(help="Which of the reference, A:B:C; all by default.")
    ] = None,
    frame: Annotated[int, typer.Option(help="Which frame of the starts' files, from 0.")] = 0,
    time: Annotated[float, typer.Option(help="Of each run in ps.")] = 10.0,
    pressure: Annotated[str, typer.Option(help="In bar; none: constant volume.")] = "1.01325",
    minimise: Annotated[
        int, typer.Option(help="Force evaluations with stiff bonds before each run.")
    ] = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of velocities and thermostat.")] = 0,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run dynamics from several starts and watch where their energies begin."""
    others = (reference, structure)
    with (
        _edge(),
        _reading(format, length_unit, *_files_of(start), others=others),
        _topology(include, define, tables, parameters),
    ):
        from deepbackmap.api.md import md

        summary = md(
            _named_files("start", start), topology=topology, temperature=temperature,
            output=output, reference=reference, structure=structure,
            reference_frames=reference_frames, frame=frame, time=time,
            pressure=_number_or_none("pressure", pressure), minimise=minimise, engine=engine,
            threads=threads, seed=seed, resume=resume, force=force, progress=_progress(quiet),
        )  # fmt: skip
        _warn(summary.findings, quiet)
        if not quiet:
            typer.echo(summary.to_text(), nl=False)


@app.command("evaluate")
def evaluate_(
    *,
    reference: Annotated[Path, typer.Option(help="Frames that are right.")],
    generated: Annotated[
        list[str], typer.Option(help="NAME=FILE of frames to judge; once for each method.")
    ],
    topology: Topology,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    structure: Annotated[
        Path | None, typer.Option("--structure", "-s", help="Names for files without (.xtc).")
    ] = None,
    beads: Annotated[
        Path | None, typer.Option(help="Beads that the generated frames were made from.")
    ] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Mapping file or packaged name; with --beads.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="Which generated frames, A:B:C; all by default.")
    ] = None,
    reference_frames: Annotated[
        str | None, typer.Option(help="Which reference frames, A:B:C; all by default.")
    ] = None,
    bead_frames: Annotated[
        str | None, typer.Option(help="Which bead frames; the generated frames' by default.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the reference in K.")] = None,
    seed: Annotated[int, typer.Option(help="Of halves, bootstrap and map.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
    scheduler: Scheduler = None,
    resume: Resume = False,
    no_map: Annotated[bool, typer.Option("--no-map", help="Leave out the structure map.")] = False,
    map_centres: Annotated[
        str | None,
        typer.Option(help="Atoms the map looks around, as 'name CH'; side-group carriers."),
    ] = None,
    map_unit: Annotated[
        str, typer.Option(help="What one point of the map is: molecule or frame.")
    ] = "molecule",
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Judge generated structures against a reference: figures, a verdict, a report."""
    others = (reference, structure, beads)
    with (
        _edge(),
        _reading(format, length_unit, *_files_of(generated), others=others),
        _topology(include, define, tables, parameters),
    ):
        with _uncollected():
            from deepbackmap.api.evaluate import evaluate, to_text

        found = evaluate(
            reference, _named_files("generated", generated), structure=structure,
            topology=topology, output=output, beads=beads, mapping=mapping, frames=frames,
            reference_frames=reference_frames, bead_frames=bead_frames, temperature=temperature,
            seed=seed, workers=workers, scheduler=scheduler, resume=resume,
            structure_map=not no_map, map_centres=map_centres,
            map_unit=map_unit, force=force, progress=_progress(quiet),
        )  # fmt: skip
        if not quiet:
            typer.echo(to_text(found), nl=False)
            typer.echo(f"\n{output / 'report.html'}: the report")
        _warn(found.findings, quiet)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path(
        "deepbackmap-demo"
    ),
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Backmap the packaged polystyrene melt and compare it with its atoms."""
    with _edge():
        from deepbackmap.api.demo import demo as run_demo

        made = run_demo(output, force=force, progress=_progress(quiet))
        if not quiet:
            typer.echo(made.to_text(), nl=False)


@app.command("check")
def check_(
    *,
    topology: Annotated[
        Path | None, typer.Option("--topology", "-p", help="Of the atoms, in any format.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(help="Mapping file or packaged name, may be repeated; else the model's."),
    ] = None,
    beads: Annotated[Path | None, typer.Option(help="Beads with names (.gro, .pdb, ...).")] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Frames of them.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model file or packaged name; none: without a model.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Target temperature in K.")] = None,
    frames: Frames = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    format: Format = None,
    length_unit: LengthUnit = None,
    by_order: ByOrder = False,
    drop: Drop = None,
    keep: Keep = None,
) -> None:
    """Say what fits, what does not and what to write, before anything is computed."""
    with (
        _edge(),
        _reading(format, length_unit, beads, trajectory),
        _topology(include, define, tables, parameters),
    ):
        from deepbackmap.api.check import check

        report = check(
            topology=topology, mapping=mapping or None, beads=beads, trajectory=trajectory,
            model=model, temperature=temperature, frames=frames, by_order=by_order,
            drop=drop or (), keep=keep or (),
        )  # fmt: skip
        if as_json:
            import json

            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            typer.echo(report.to_text(), nl=False)
        if not report.fits:
            raise typer.Exit(BAD_INPUT)


@app.command()
def models() -> None:
    """List the packaged models."""
    with _edge():
        from deepbackmap.api.models import models as list_models

        found = list_models()
        for entry in found:
            typer.echo(entry.to_text(), nl=False)
        if not found:
            raise InputError("models: expected packaged models, found none")


@data_app.command()
def fetch(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path(
        "deepbackmap-data"
    ),
    quiet: Quiet = False,
) -> None:
    """Download the public data of the method's authors."""
    with _edge():
        from deepbackmap.api.data import fetch as fetch_data

        report = fetch_data(output, progress=_progress(quiet))
        if not quiet:
            typer.echo(report.to_text(), nl=False)


def _finishing(finish: bool, steps: int | None, engine: str) -> int | None:
    """Steps of finishing; None: without. Options of it do nothing without it and are refused."""
    if finish:
        return 100 if steps is None else steps
    given = {"finish-steps": steps is not None, "engine": engine != "auto"}
    for name in (name for name, there in given.items() if there):
        raise InputError(f"{name}: expected --finish with it, found it alone")
    return None


def _files_of(given: list[str]) -> list[str]:
    """Files of NAME=FILE."""
    return [entry.partition("=")[2] for entry in given if "=" in entry]


def _named_files(option: str, given: list[str]) -> dict[str, Path]:
    """NAME=FILE as often as it is given, in that order."""
    files: dict[str, Path] = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option}: expected NAME=FILE, found '{entry}'")
        if name in files:
            raise InputError(f"{option}: expected each name once, found '{name}' again")
        files[name] = Path(path)
    return files


def _options_of_method(given: list[str] | None) -> dict[str, float | int | str]:
    """NAME=VALUE as often as it is given; numbers where they are some."""
    found: dict[str, float | int | str] = {}
    for entry in given or []:
        name, equals, text = entry.partition("=")
        if not (name and equals and text):
            raise InputError(f"option: expected NAME=VALUE, found '{entry}'")
        if name in found:
            raise InputError(f"option: expected each name once, found '{name}' again")
        found[name] = text
        for kind in (float, int):
            with suppress(ValueError):
                found[name] = kind(text)
    return found


def _number_or_none(option: str, text: str) -> float | None:
    """A number, or the word none."""
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{option}: expected a number or none, found '{text}'") from error


@mapping_app.command("infer")
def infer_(
    atoms: Annotated[Path, typer.Argument(help="Atoms with names (.gro, .pdb, ...).")],
    beads: Annotated[Path, typer.Argument(help="Beads of the same frames.")],
    *,
    topology: Topology,
    atoms_trajectory: Annotated[Path | None, typer.Option(help="Frames of the atoms.")] = None,
    beads_trajectory: Annotated[Path | None, typer.Option(help="Frames of the beads.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML to write; shown by default.")
    ] = None,
    frames: Frames = None,
    by_order: ByOrder = False,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Find the mapping that leads from atoms to beads of the same frames."""
    with _edge(), _topology(include, define, tables, parameters):
        from deepbackmap.api.mappings import infer_mapping

        found = infer_mapping(
            atoms, beads, topology=topology, atoms_trajectory=atoms_trajectory,
            beads_trajectory=beads_trajectory, output=output, frames=frames, by_order=by_order,
            force=force, progress=_progress(quiet),
        )  # fmt: skip
        if output is None:
            typer.echo(found.text, nl=False)
        if not quiet:
            for name, rms in found.rows:
                typer.echo(f"{name}: rms {rms:.4f} nm", err=True)


@mapping_app.command("draft")
def draft_(
    *,
    topology: Topology,
    by: Annotated[
        str, typer.Option(help="residue: a bead a residue or monomer; graph: rings and pieces.")
    ] = "residue",
    size: Annotated[
        int | None, typer.Option(help="graph: heavy atoms of a piece; 4 by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML to write; shown by default.")
    ] = None,
    include: Include = None,
    define: Define = None,
    tables: Tables = None,
    parameters: Parameters = None,
    force: Force = False,
) -> None:
    """Write a first mapping of a topology, to be edited."""
    with _edge(), _topology(include, define, tables, parameters):
        from deepbackmap.api.mappings import draft_mapping

        text = draft_mapping(topology, way=by, size=size, output=output, force=force)
        if output is None:
            typer.echo(text, nl=False)


def _progress(quiet: bool) -> bool:
    """Bars are for people; logs and pipes get none."""
    return not quiet and sys.stderr.isatty()


@contextmanager
def _edge() -> Iterator[None]:
    """Turns a user's mistake, a limit of the machine and an interruption into one line.

    A bug stays a traceback.
    """
    warnings.filterwarnings("ignore", module=r"MDAnalysis(\..*)?")
    warnings.filterwarnings("ignore", module=r"lightning(_fabric)?(\..*)?")
    warnings.filterwarnings("ignore", module=r"openmm(\..*)?")
    with _signals(), warnings.catch_warnings():
        warnings.showwarning = _show  # type: ignore[assignment]
        try:
            yield
        except InputError as error:
            _say(str(error))
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            _say(f"interrupted{f': {error}' if str(error) else ''}")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            limit = _limit(error)
            if limit is None:
                raise
            _say(limit)
            raise typer.Exit(BAD_INPUT) from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Imports: what they make stays, and looking for garbage in it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _reading(
    format: str | None,
    length_unit: str | None,
    *files: str | Path | None,
    others: Sequence[Path | None] = (),
) -> Iterator[None]:
    """Coordinate files are read as the user says: those worked on, and others beside them."""
    if format is None and length_unit is None:
        yield
        return
    from deepbackmap.io.trajectory import reading_as

    with reading_as(format, length_unit, files=files, others=others):
        yield


@contextmanager
def _topology(
    include: list[Path] | None,
    define: list[str] | None,
    tables: list[Path] | None,
    parameters: list[Path] | None,
) -> Iterator[None]:
    """Topologies are read with what the user gives besides them."""
    if not (include or define or tables or parameters):
        yield
        return
    from deepbackmap.io.topology import TopologyOptions, reading_topologies

    defines = {}
    for word in define or []:
        name, _, value = word.partition("=")
        if not name.isidentifier():
            raise InputError(f"define: expected NAME or NAME=VALUE, found '{word}'")
        defines[name] = value
    options = TopologyOptions(
        defines=defines, include_dirs=tuple(include or ()), tables=tuple(tables or ()),
        parameters=tuple(parameters or ()),
    )  # fmt: skip
    with reading_topologies(options):
        yield


@contextmanager
def _signals() -> Iterator[None]:
    """A job that is told to end, or whose terminal closes, cleans up as after Ctrl-C."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # ValueError: not in the main thread, where signals cannot be set. A signal that is
        # ignored (nohup) stays ignored.
        with suppress(ValueError):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limit(error: Exception) -> str | None:
    """What to say of an error that the machine's limits make, or numbers out of all bounds."""
    from deepbackmap.io.atomic import disk_refuses

    said = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or any(word in said for word in _OUT_OF_MEMORY):
        return (
            "expected the work to fit into memory, found too little of it"
            f"{f' ({said})' if said else ''}: are the sizes in the inputs right? Fewer particles, "
            "or a smaller --batch, need less"
        )
    if isinstance(error, RecursionError):
        return "expected inputs that nest a few levels deep, found more than can be followed"
    if isinstance(error, OverflowError):
        return f"expected numbers of reasonable size in the inputs, found one too large ({said})"
    if disk_refuses(error):
        name = getattr(error, "filename", None)
        return f"{f'{name}: ' if name else ''}expected a disk with space to write, found: {said}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"expected file names that the system takes, found one too long ({said:.120}...)"
    if isinstance(error, ValueError) and "embedded null" in said:
        return f"expected file names that the system takes, found one with a zero byte ({said})"
    return None


_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
"""Words of torch, CUDA and the system."""


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _warn(findings: tuple[Any, ...], quiet: bool) -> None:
    """The one line about a structure that was written although something speaks against it."""
    from deepbackmap.api.judgement import warning

    line = warning(findings, quiet=quiet)
    if line:
        _say(line)


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any
) -> None:
    """Notices are for the user; other warnings look as ever."""
    if issubclass(category, Notice):
        _say(str(message))
    else:
        typer.echo(warnings.formatwarning(message, category, filename, lineno), err=True, nl=False)


def _say(text: str) -> None:
    """One line on standard error, and below it what is to be copied into a file, if anything."""
    sentence, _, more = text.partition("\n")
    typer.echo(f"deepbackmap: {' '.join(sentence.split())}", err=True)
    if more:
        typer.echo(more, err=True)


def run() -> None:
    """The console command."""
    # Before torch is imported: idle threads sleep instead of spinning. Where other programs use
    # the cores as well, spinning made the demo seven times slower (24 s and 159 s a frame).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What imports make stays: looking for garbage in it takes a tenth of their time.
    gc.set_threshold(100_000)
    try:
        app()
    except KeyboardInterrupt:  # outside of a verb: while Python was still importing
        _say("interrupted")
        sys.exit(INTERRUPTED)
