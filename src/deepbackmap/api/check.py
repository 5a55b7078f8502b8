"""What fits and what does not, before anything is computed: topology, mapping, beads, model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepbackmap.api import judgement
from deepbackmap.api.backmap import NO_MODEL, sampling_options
from deepbackmap.api.fits import refuse_unknown_types, resolve_for, way_out
from deepbackmap.api.hands import find_hands
from deepbackmap.api.models import find_model, models
from deepbackmap.chemistry.double_bonds import double_bonds
from deepbackmap.errors import InputError, InputErrors
from deepbackmap.evaluation.plausible import Bonds, look_at_beads
from deepbackmap.evaluation.usable import Finding
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.mapping.match import check_beads
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.mechanics.engine import CUTOFF, SKIN
from deepbackmap.methods.base import open_sampler
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.file import load_model
from deepbackmap.model.header import read_spec
from deepbackmap.system import Topology
from deepbackmap.system.lean import without_sites
from deepbackmap.system.topology import require_energies

_STUB = ", or put this under 'residues':"
"""Ends a message that has an entry below it."""
NO_EWALD = (
    "Coulomb interactions are cut off, with a reaction field in finish, md and evaluate: sums over "
    "images (PME, PPPM) that a simulation was set up with are not followed"
)
"""Said of topologies with charges."""
PARTS = ("topology", "mapping", "beads", "model")
"""What is looked at, in that order."""


@dataclass(frozen=True)
class Remark:
    """One thing that was found."""

    part: str
    """One of ``PARTS``."""
    severity: str
    """``fits``, ``note`` (worth knowing), ``error`` (a backmap would not run), or ``do`` (a way out
    of the errors before it)."""
    text: str
    """A sentence."""


@dataclass
class CheckReport:
    """Everything that was found, in the order of ``PARTS``."""

    remarks: list[Remark] = field(default_factory=list)
    write: str = ""
    """What is to be copied into the mapping file, if anything."""

    @property
    def fits(self) -> bool:
        """Whether nothing stands against a backmap with what was given."""
        return not any(r.severity == "error" for r in self.remarks)

    def add(self, part: str, severity: str, *texts: str) -> None:
        """One remark more, or several."""
        for text in texts:
            remark = Remark(part, severity, text.removesuffix(_STUB))
            if remark not in self.remarks:
                self.remarks.append(remark)

    @contextmanager
    def catching(self, part: str) -> Iterator[None]:
        """A mistake inside becomes a remark, or several."""
        try:
            yield
        except InputError as error:
            if isinstance(error, InputErrors):
                self.add(part, "error", *error.problems)
                self.add(part, "do", *error.ways)
                more = error.more
            else:
                sentence, _, more = str(error).partition("\n")
                self.add(part, "error", sentence)
                if sentence.endswith(":") and not sentence.endswith(_STUB):  # a list
                    self.remarks.pop()
                    self.add(part, "error", *(line.strip() for line in more.splitlines()))
                    more = ""
            self.write = "\n".join(text for text in (self.write, more) if text)

    def to_text(self) -> str:
        """Lines for a person: what fits, what does not, what to write."""
        words = {"fits": "fits", "note": "note", "error": "DOES NOT FIT", "do": "do"}
        lines = [f"{r.part:<10} {words[r.severity]}: {r.text}" for r in self.remarks]
        if self.write:
            lines += ["", "to write, under 'residues' of the mapping:", self.write]
        count = sum(r.severity == "error" for r in self.remarks)
        end = f"{count} thing{'s' if count != 1 else ''} to put right"
        return "\n".join([*lines, "", end if count else "all that was given fits"]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "fits": self.fits,
            "remarks": [asdict(remark) for remark in self.remarks],
            "write": self.write,
        }


def check(
    *,
    topology: str | Path | None = None,
    mapping: str | Path | Sequence[str | Path] | None = None,
    beads: str | Path | None = None,
    trajectory: str | Path | None = None,
    model: str | Path | None = None,
    temperature: float | None = None,
    frames: str | None = None,
    by_order: bool = False,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> CheckReport:
    """Looks at everything that is given as ``backmap`` would, and says all that does not fit.

    Nothing is placed: a topology of a large box, its mapping and a trajectory take seconds.

    Args:
        topology: of the atoms.
        mapping: mapping files or packaged name; a model's own where it is not given.
        beads: structure with the names of the beads.
        trajectory: frames of it.
        model: file or packaged name; ``none``: the route without a model. None: only what does
            not depend on it is looked at, and which packaged models know the types is said.
        temperature: target in K.
        frames: which frames, "A:B:C"; all by default.
        by_order: whether the beads are in the mapping's order whatever they are called.
        drop: residues of molecules that the beads leave out.
        keep: residues of molecules whose beads are their atoms.

    Returns:
        The report.

    Raises:
        InputError: nothing at all is given.
    """
    if topology is None and mapping is None and beads is None and model is None:
        raise InputError(
            "check: expected a topology, a mapping, beads or a model to look at, found none"
        )
    report = CheckReport()
    atoms = _topology(report, topology, needed=model is not None or beads is not None)
    path, spec = _model(report, model)
    file = _mapping(report, mapping, spec, path, drop, keep)
    if model is not None and str(model) == NO_MODEL:
        _without_model(report, mapping, temperature)
    system = None
    if atoms is not None and file is not None:
        with report.catching("mapping"):
            refuse_absent(atoms, drop=drop, keep=keep)
            system = _system(report, file, atoms, path, own=mapping is None)
    if system is not None and file is not None and file.stereo:
        with report.catching("mapping"):
            _told_by_mapping(report, system, file)
    if system is not None and model is None:
        _known_by(report, system)
    elif system is not None and spec is not None and path is not None:
        with report.catching("model"):
            refuse_unknown_types(spec, system, path)
            _open(path, system)
            report.add("model", "fits", f"{path.stem} knows all types of atoms and beads")
    if beads is not None:
        alone = atoms is None or atoms.n_molecules == 1
        with (
            report.catching("beads"),
            read_frames(beads, trajectory, frames=frames, lone=alone) as source,
        ):
            report.add("beads", "fits", f"{source.path}: {len(source)} frames of "
                       f"{source.table.n} particles")  # fmt: skip
            if system is not None and file is not None:
                _beads(report, source, str(beads), system, file, spec, temperature, by_order)
    report.remarks.sort(key=lambda remark: PARTS.index(remark.part))
    return report


def _topology(report: CheckReport, path: str | Path | None, *, needed: bool) -> Topology | None:
    """The topology, if it can be read, with what is missing for its energies."""
    if path is None:
        return None
    found = None
    with report.catching("topology"):
        found = read_topology(path)
        counts: dict[str, int] = {}
        for index, count in found.blocks:
            name = found.molecule_types[index].name
            counts[name] = counts.get(name, 0) + count
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        report.add("topology", "fits", f"{path}: {found.n_atoms} atoms, {text}")
        report.add("topology", "note", *found.notices)
        sites = int(found.virtual().sum())
        if sites:
            report.add("topology", "note", f"{sites} virtual sites, constructed from the atoms")
        if found.charges().any():
            report.add("topology", "note", NO_EWALD)
        energies = CheckReport()
        with energies.catching("topology"):
            require_energies(found)
        for remark in energies.remarks:
            text = remark.text.removesuffix("; what is asked for needs its energy")
            report.add("topology", "error" if needed else "note",
                       f"{text} ('map' needs no energies, 'backmap' does)")  # fmt: skip
    return found


def _model(report: CheckReport, model: str | Path | None) -> tuple[Path | None, ModelSpec | None]:
    """The model's file, and what it is."""
    if model is None or str(model) == NO_MODEL:
        return None, None
    with report.catching("model"):
        path = find_model(model)
        return path, read_spec(path)
    return None, None


def _open(path: Path, system: SystemMapping) -> None:
    """Prepares the sampler as a backmap does, which finds what the types do not tell.

    Raises:
        InputError: the model cannot be used for that system.
    """
    model = load_model(path)
    try:
        open_sampler(model, system, sampling_options(model.spec, path.stem, {}))
    except InputError as error:
        raise InputError(f"{system.topology.source}: {error}; {way_out(path)}") from error


def _mapping(
    report: CheckReport,
    given: str | Path | Sequence[str | Path] | None,
    spec: ModelSpec | None,
    path: Path | None,
    drop: Sequence[str],
    keep: Sequence[str],
) -> MappingFile | None:
    with report.catching("mapping"):
        if given is not None:
            return load_mapping(given, drop=drop, keep=keep)
        if spec is not None:
            own = MappingFile.from_text(spec.mapping, f"mapping of {path}")
            return own.with_selection(drop, keep)
    return None


def _without_model(
    report: CheckReport,
    mapping: str | Path | Sequence[str | Path] | None,
    temperature: float | None,
) -> None:
    """What the route without a model has to be told."""
    if mapping is None:
        report.add("model", "error", f"model {NO_MODEL}: expected a mapping (--mapping), found "
                   "none; 'deepbackmap mapping draft -p TOPOLOGY' writes a first one")  # fmt: skip
    if temperature is None:
        report.add(
            "model",
            "error",
            f"model {NO_MODEL}: expected a temperature (--temperature), found none",
        )


def _system(
    report: CheckReport, file: MappingFile, topology: Topology, model: Path | None, *, own: bool
) -> SystemMapping:
    """The mapping of what is to be backmapped."""
    atoms, left_out = file.without_dropped(topology)
    report.add("mapping", "note", *left_out)
    kept = file.kept(atoms)
    if kept:
        report.add(
            "mapping",
            "error",
            f"{', '.join(kept)} kept as atoms, which 'backmap' does "
            "not do: drop them ('map' and 'baseline --method backward' keep them)",
        )
    lean = without_sites(atoms)
    system = lean_mapping(resolve_for(file, atoms, model, own=own), lean)
    for index in dict.fromkeys(index for index, count in atoms.blocks if count):
        beads, molecule = system.molecules[index], system.topology.molecule_types[index]
        types = ", ".join(dict.fromkeys(beads.bead_types))
        report.add("mapping", "fits", f"{file.source}: {molecule.name}, {molecule.n_atoms} atoms "
                   f"in {beads.n_beads} beads of types {types}")  # fmt: skip
    return system


def _told_by_mapping(report: CheckReport, system: SystemMapping, file: MappingFile) -> None:
    """What the section ``stereo`` tells, which can be wrong whatever the beads are.

    Raises:
        InputError: an entry fits no molecule, no centre, or not the length of a chain.
    """
    found = find_hands(system, file, None)
    told, bonds = np.count_nonzero(found.hands.sign), np.count_nonzero(found.sides.side)
    report.add("mapping", "fits", f"section stereo: hands of {told} of {len(found.hands.sign)} "
               f"stereocentres, sides of {bonds} double bonds")  # fmt: skip


def _known_by(report: CheckReport, system: SystemMapping) -> None:
    """Packaged models that know every type of a system."""
    fit = []
    for entry in models():
        probe = CheckReport()
        with probe.catching("model"):
            refuse_unknown_types(entry.spec, system, entry.path)
        fit += [entry.name] if probe.fits else []
    text = f"packaged models that know these types: {', '.join(fit)}" if fit else (
        "no packaged model knows these types: --model none does without, docs/training.md says "
        "how to train one"
    )  # fmt: skip
    report.add("model", "note", text)


def _beads(
    report: CheckReport,
    source: FrameSource,
    name: str,
    system: SystemMapping,
    file: MappingFile,
    spec: ModelSpec | None,
    temperature: float | None,
    by_order: bool,
) -> None:
    """Names, order, distances and box of every frame."""
    match = check_beads(system, source.table, name, by_order=by_order)
    how = "by " + ", ".join(dict.fromkeys(match.by))
    report.add("beads", "fits", f"{system.n_beads} beads, recognised {how}")
    report.add("beads", "note", *match.notes)
    bonds = Bonds.of(system)
    least = 2.0 * (CUTOFF + SKIN)
    if spec is not None:
        least = max(least, spec.options.least_height())
    first = None
    for number, frame in zip(source.frames.tolist(), source, strict=True):
        where = f"{source.path} frame {number}"
        first = frame if first is None else first
        if spec is None:
            found = look_at_beads(system, frame, bonds=bonds)
        else:
            asked = spec.temperature if temperature is None else temperature
            found = judgement.of_input(system, frame, bonds, spec, asked)
        _findings(report, found, where)
        lowest = float(np.min(cell_heights(frame.box)))
        if lowest < least:
            report.add("beads", "error", f"{where}: expected a box at least {least:.3f} nm high in "
                       f"every direction, found {lowest:.3f} nm")  # fmt: skip
    with report.catching("beads"):
        hands = find_hands(system, file, spec, beads=first)
        if count := len(hands.centres.atoms):
            said = hands.words(system.topology)
            report.add("beads", "note", f"hands of {count} stereocentres: {said}")
        _findings(report, hands.findings, str(source.path))
        topology = system.topology
        total = sum(len(double_bonds(topology.molecule_types[t])) * n for t, n in topology.blocks)
        unknown = total - int(np.count_nonzero(hands.sides.side))
        if unknown > 0:
            report.add(
                "beads",
                "note",
                f"double bonds: nothing says cis or trans of {unknown}; give --like, or a stereo "
                "section in the mapping",
            )


def _findings(report: CheckReport, findings: tuple[Finding, ...], where: str) -> None:
    """What is suspicious is said once, what cannot be used for its first frame."""
    for finding in findings:
        if finding.severity == "fine":
            continue
        grave = finding.severity == "unusable"
        said = any(finding.sentence in remark.text for remark in report.remarks)
        if not said:
            text = f"{where}: {judgement.one_line((finding,))}"
            report.add("beads", "error" if grave else "note", text)
