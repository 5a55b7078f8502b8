"""Whether a topology, a mapping and a model go together, and what to do where they do not."""

from __future__ import annotations

from pathlib import Path

from deepbackmap.errors import InputError, InputErrors, together
from deepbackmap.mapping import MappingFile, SystemMapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.system import Topology


def resolve_for(
    file: MappingFile, topology: Topology, model: Path | None, *, own: bool
) -> SystemMapping:
    """The mapping of a system that a model is to backmap.

    Args:
        file: the mapping.
        topology: of the system.
        model: its file; None: there is none.
        own: whether the mapping is the model's own.

    Raises:
        InputError: it does not fit; where it is the model's own, with the ways out.
    """
    try:
        return file.resolve(topology)
    except InputError as error:
        if not own or model is None:
            raise
        sentence = str(error).split("\n", maxsplit=1)[0]
        problems = error.problems if isinstance(error, InputErrors) else (sentence,)
        known = ", ".join(dict.fromkeys(rule.pattern for rule in file.rules))
        raise InputErrors(
            f"{topology.source}: expected a system that the model knows (residues {known})",
            tuple(p.split("; leave it out with")[0] for p in problems),
            ways=(
                "for the same molecules under other names: a mapping of your own (--mapping) with "
                "the model's bead types",
                way_out(model),
            ),
        ) from error


def refuse_unknown_types(spec: ModelSpec, system: SystemMapping, model: Path) -> None:
    """Refuses types of atoms and beads that a model never saw, all of them at once.

    Args:
        spec: of the model.
        system: to be backmapped.
        model: its file, for the message.

    Raises:
        InputError: which types in which molecules, and the ways out.
    """
    topology, errors = system.topology, []
    for index in dict.fromkeys(index for index, count in topology.blocks if count):
        molecule, beads = topology.molecule_types[index], system.molecules[index]
        for what, names, known in (
            ("atom type", molecule.atom_types, spec.atom_types),
            ("bead type", beads.bead_types, spec.bead_types),
        ):
            missing = sorted(set(names) - set(known))
            if missing:
                errors.append(InputError(
                    f"{topology.source}: molecule '{molecule.name}': {what} {', '.join(missing)} "
                    f"is unknown to the model, which was trained on {', '.join(known)}"
                ))  # fmt: skip
    if not errors:
        return
    found = together(f"{topology.source}: expected types that the model knows", errors)
    if isinstance(found, InputErrors):
        head = f"{topology.source}: expected types that the model knows, found others"
        raise InputErrors(head, found.problems, ways=(way_out(model),))
    raise InputError(f"{found}; {way_out(model)}")


def way_out(model: Path) -> str:
    """What to do about a system that a model does not know."""
    return (
        f"model {model}: train one of your own (docs/training.md), or do without: --model none "
        "--mapping FILE --temperature KELVIN"
    )
