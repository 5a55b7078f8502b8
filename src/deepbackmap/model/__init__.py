"""What training writes and sampling reads: one file with everything a model needs."""

from deepbackmap.model.model import (
    Model,
    ModelSpec,
    load_model,
    new_generator,
    read_spec,
    save_model,
)

__all__ = ["Model", "ModelSpec", "load_model", "new_generator", "read_spec", "save_model"]
