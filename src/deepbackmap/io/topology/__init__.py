"""Topologies of any format as ``Topology``: ``read_topology`` finds the reader of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.io.topology.base import TopologyFormat, TopologyOptions
from deepbackmap.io.topology.foreign import FOREIGN
from deepbackmap.io.topology.gromacs import read_gromacs
from deepbackmap.system import Topology

__all__ = ["FORMATS", "TopologyFormat", "TopologyOptions", "options_given", "read_topology",
           "reading_topologies"]  # fmt: skip

_HEAD = 4096
"""Bytes from which a format is recognised."""


def _by(module: str, name: str) -> Callable[[Path, TopologyOptions], Topology]:
    """A reader whose module is imported when such a file is read."""

    def read(path: Path, options: TopologyOptions) -> Topology:
        found: Topology = getattr(import_module(f"{__name__}.{module}"), name)(path, options)
        return found

    return read


def _is_gromacs(head: str) -> bool:
    lines = (line.split(";")[0].strip() for line in head.splitlines())
    return any(line.startswith(("[", "#include", "#define", "#if")) for line in lines)


def _is_lammps(head: str) -> bool:
    """A header of counts: so many atoms, so many atom types."""
    words = [line.split("#")[0].split() for line in head.splitlines()[1:]]
    return any(w[1:] == ["atoms"] for w in words) and any(w[1:] == ["atom", "types"] for w in words)


def _is_lammps_script(head: str) -> bool:
    """Commands of an input script: the units or the data file, before anything else."""
    words = [line.split("#")[0].split() for line in head.splitlines()]
    first = {w[0] for w in words if w}
    return (
        len({"units", "atom_style", "pair_style", "read_data", "read_restart"} & first) > 1
        and "[" not in first
    )


def _is_packed(head: str) -> bool:
    """The first bytes of gzip, bzip2, xz and zip; what is no text is a sign of its own there."""
    return head.startswith(("\x1f\ufffd", "BZh", "\ufffd7zXZ", "PK\x03\x04"))


FORMATS: tuple[TopologyFormat, ...] = (
    TopologyFormat(
        "a packed file",
        (".gz", ".bz2", ".xz", ".zip"),
        _is_packed,
        None,
        "unpack it first (gunzip, bunzip2, unxz, unzip); coordinates may stay packed",
    ),
    TopologyFormat(
        "an Amber topology",
        (".prmtop", ".parm7"),
        lambda head: head.lstrip().startswith("%VERSION"),
        _by("openmm", "read_amber"),
    ),
    TopologyFormat(
        "a CHARMM or X-PLOR psf",
        (".psf",),
        lambda head: head.startswith("PSF"),
        _by("openmm", "read_charmm"),
    ),
    TopologyFormat(
        "an OpenMM System",
        (),
        lambda head: "<System" in head and "openmm" in head,
        _by("openmm", "read_system"),
    ),
    TopologyFormat(
        "a GROMACS run input",
        (".tpr",),
        lambda head: "VERSION " in head[:64] and "\0" in head,
        None,
        "give the .top file it was made from",
    ),
    TopologyFormat(
        "a LAMMPS data file", (".data", ".lmp"), _is_lammps, _by("lammps", "read_lammps")
    ),
    TopologyFormat(
        "a LAMMPS input script",
        (".in",),
        _is_lammps_script,
        _by("lammps", "read_lammps_script"),
    ),
    TopologyFormat("a GROMACS topology", (".top", ".itp"), _is_gromacs, read_gromacs),
    *FOREIGN,
)
"""Formats in the order in which they are tried; a new reader is one more entry."""


def read_topology(
    path: str | Path,
    *,
    defines: Mapping[str, str] | None = None,
    include_dirs: Sequence[Path] = (),
    tables: Sequence[Path] = (),
    names: Path | None = None,
    parameters: Sequence[Path] = (),
    inputs: Sequence[Path] = (),
    units: str | None = None,
) -> Topology:
    """Read a topology of any known format, recognised by what it holds, else by its suffix.

    Reading a topology and needing its energies are two things: terms whose energy is not known
    are kept by name (``MoleculeType.unsupported``) and refused by
    ``system.topology.require_energies``.

    Args:
        path: The file.
        defines: GROMACS: macros that are defined from the start, as ``define = -DNAME=value``
            does in run parameters; an empty value only answers ``#ifdef``.
        include_dirs: GROMACS: folders searched for included files after the folder of the
            including file and before those of an installed GROMACS.
        tables: GROMACS: files of tabulated bonded interactions (``table_b0.xvg``), as for
            ``gmx mdrun -tableb``.
        names: OpenMM: a PDB or PDBx file with the names of the atoms of a System; by default the
            one beside it.
        parameters: CHARMM: the files of parameters that belong to a psf.
        inputs: LAMMPS: input scripts with the styles and coefficients of a data file.
        units: LAMMPS: units of a data file, where neither it nor an input says them.

    Raises:
        InputError: the file cannot be read, is of no known format, or is malformed; all
            mistakes of a topology are named at once.
    """
    path = Path(path)
    around = _AROUND.get(TopologyOptions())
    options = TopologyOptions(
        defines={**around.defines, **(defines or {})},
        include_dirs=(*map(Path, include_dirs), *around.include_dirs),
        tables=(*map(Path, tables), *around.tables),
        names=names or around.names,
        parameters=(*map(Path, parameters), *around.parameters),
        inputs=(*map(Path, inputs), *around.inputs),
        units=units or around.units,
    )
    found = _format(path)
    if found.read is None:
        raise InputError(
            f"{path}: expected a topology that can be read ({_readable()}), found {found.name}: "
            f"{found.advice}"
        )
    return found.read(path, options)


_AROUND: ContextVar[TopologyOptions] = ContextVar("topology_options")


@contextmanager
def reading_topologies(options: TopologyOptions) -> Iterator[None]:
    """Topologies are read with these options besides those of each call.

    Args:
        options: such as the folders of a user's force fields.

    Raises:
        InputError: a folder of included files that does not exist.
    """
    for folder in options.include_dirs:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: expected a folder of included files, found none")
    mark = _AROUND.set(options)
    try:
        yield
    finally:
        _AROUND.reset(mark)


def options_given() -> dict[str, object]:
    """What ``reading_topologies`` says, by name, for a record; nothing that is not given."""
    around = _AROUND.get(TopologyOptions())
    found: dict[str, object] = {}
    for name, value in vars(around).items():
        if value:
            if isinstance(value, Mapping):
                found[name] = dict(value)
            else:
                found[name] = list(map(str, value)) if isinstance(value, tuple) else str(value)
    return found


def _format(path: Path) -> TopologyFormat:
    """The format of a file: the first that recognises it, else the one of its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", errors="replace")
    except OSError as problem:
        raise InputError(f"cannot read {path} ({problem.strerror})") from None
    for known in FORMATS:
        if known.recognises(head):
            return known
    for known in FORMATS:
        if path.suffix.lower() in known.suffixes:
            return known
    raise InputError(f"{path}: expected a topology ({_readable()}), found another kind of file")


def _readable() -> str:
    return " or ".join(known.name for known in FORMATS if known.read is not None)
