"""Llama 3 at full size on the World Values Survey: meshes and batches for six machines.

    python -m ace_jax.train --config configs/llama3.py:8b-v5e-16 --workdir runs/8b
    python -m ace_jax.plan --config configs/llama3.py:8b-v5e-16 --topology v5e:4x4

A variant names a model and its devices, counted in chips. docs/scaling.md shows the plan of each.
A batch holds whole contexts, and neighbouring contexts stay together. All else is as in the paper.
"""

import runpy
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

PAPER = runpy.run_path(str(Path(__file__).with_name("ace.py")))
MODELS = {"8b": "meta-llama/Llama-3.1-8B-Instruct", "70b": "meta-llama/Llama-3.3-70B-Instruct"}


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh axes, and the number of contexts in a batch."""

    data: int
    fsdp: int
    tensor: int
    contexts: int


VARIANTS = {
    "8b-v5e-4": Layout(data=1, fsdp=4, tensor=1, contexts=8),
    "8b-v5e-16": Layout(data=1, fsdp=16, tensor=1, contexts=32),
    "8b-v6e-8": Layout(data=8, fsdp=1, tensor=1, contexts=16),
    "8b-h100-2": Layout(data=2, fsdp=1, tensor=1, contexts=16),
    "70b-v5p-64": Layout(data=4, fsdp=16, tensor=1, contexts=256),
    "70b-v6e-64": Layout(data=1, fsdp=64, tensor=1, contexts=64),
}


def get_config(variant: str = "8b-v5e-16") -> ConfigDict:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"configs/llama3.py has no variant {variant!r}; choose from {known}")
    layout = VARIANTS[variant]
    config = PAPER["get_config"]().unlock()
    config.model.path = MODELS[variant.split("-")[0]]
    config.batch.unit = "context"
    config.batch.size = layout.contexts
    config.batch.neighbours = 8
    config.mesh.data = layout.data
    config.mesh.fsdp = layout.fsdp
    config.mesh.tensor = layout.tensor
    return config.lock()
