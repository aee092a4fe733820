"""Where every array lives: logical axis names, and the mesh axes they are spread over.

Two tables say it all. `PARAMETER_AXES` names the axes of each parameter, `RULES` maps a name to
mesh axes. `data` repeats the model, `fsdp` splits its weights, `tensor` splits its matmuls; rows
of a batch are spread over `data` and `fsdp` together.
"""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ace_jax.errors import InputError
from ace_jax.prompts.batches import Scoring

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | tuple[str, ...] | None] = {
    "rows": ("data", "fsdp"),
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "rank": None,
    "channels": None,
}

_INTO = {
    "q_proj": "heads",
    "k_proj": "heads",
    "v_proj": "heads",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}
_BACK = {"o_proj": "heads", "down_proj": "mlp"}

PARAMETER_AXES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("embedding",): ("vocab", "embed"),
    ("head",): ("vocab", "embed"),
    ("norm", "scale"): ("embed",),
    ("layers", "input_norm", "scale"): ("layers", "embed"),
    ("layers", "mlp_norm", "scale"): ("layers", "embed"),
    ("layers", "q_norm", "scale"): ("layers", "channels"),
    ("layers", "k_norm", "scale"): ("layers", "channels"),
    **{("layers", name, "kernel"): ("layers", "embed", axis) for name, axis in _INTO.items()},
    **{("layers", name, "kernel"): ("layers", axis, "embed") for name, axis in _BACK.items()},
    **{("layers", name, "bias"): ("layers", axis) for name, axis in _INTO.items()},
    **{("layers", name, "bias"): ("layers", "embed") for name in _BACK},
    **{("layers", name, "lora", "a"): ("layers", "embed", "rank") for name in _INTO},
    **{("layers", name, "lora", "b"): ("layers", "rank", axis) for name, axis in _INTO.items()},
    **{("layers", name, "lora", "a"): ("layers", axis, "rank") for name, axis in _BACK.items()},
    **{("layers", name, "lora", "b"): ("layers", "rank", "embed") for name in _BACK},
}


def make_mesh(data: int, fsdp: int, tensor: int) -> Mesh:
    """Returns the mesh over all devices; one size may be -1, "whatever is left".

    Raises `InputError` where the sizes do not multiply to the number of devices.
    """
    sizes, devices = [data, fsdp, tensor], jax.device_count()
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = devices // max(1, -math.prod(sizes))
    if min(sizes) < 1 or math.prod(sizes) != devices:
        raise InputError(
            f"mesh: data={data}, fsdp={fsdp}, tensor={tensor} does not fit {devices} device(s); "
            "set mesh.data=-1 to use what is left"
        )
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def row_shards(mesh: Mesh) -> int:
    """Returns over how many devices the rows of a batch are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place_scoring(scoring: Scoring, mesh: Mesh) -> Scoring:
    """Puts a batch on the mesh: what is counted in rows is spread, what in cells is everywhere."""
    rows = NamedSharding(mesh, PartitionSpec(RULES["rows"]))
    return Scoring(
        **{
            name: jax.device_put(value, replicated(mesh) if name == "option_mask" else rows)
            for name, value in vars(scoring).items()
        }
    )


def parameter_path(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns a parameter's names from the root, ("layers", "q_proj", "kernel"), of a tree path."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def parameter_shardings(state: nnx.State, mesh: Mesh) -> Any:
    """Returns a tree like `state` with the `NamedSharding` of each parameter.

    An axis that its mesh axes do not divide is kept whole.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        axes = (RULES[axis] for axis in PARAMETER_AXES[parameter_path(path)])
        spec = (
            axis if axis is None or size % int(np.prod(mesh.shape[axis])) == 0 else None
            for axis, size in zip(axes, leaf.shape, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, state)
