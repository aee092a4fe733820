"""The sharding of every array: logical axis names, and the mesh axes that split them.

`PARAMETER_AXES` names the axes of each parameter. `RULES` maps an axis name to mesh axes. `data`
copies the model, `fsdp` splits its weights, and `tensor` splits its matmuls. `data` and `fsdp`
together split the rows of a batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from ace_jax.errors import InputError
from ace_jax.prompts.batches import Scoring

MESH_AXES = ("data", "fsdp", "tensor")

Axes = tuple[str | None, ...]
Rules = dict[str, str | tuple[str, ...] | None]
RULES: Rules = {
    "rows": ("data", "fsdp"),
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "rank": None,
    "channels": None,
}

_INTO = {name: "heads" for name in ("q_proj", "k_proj", "v_proj")}
_INTO |= {name: "mlp" for name in ("gate_proj", "up_proj")}
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


def make_mesh(
    data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns the mesh over the given devices, or over all. One size may be -1, for the rest.

    Raises `InputError` if the product of the sizes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes, count = [data, fsdp, tensor], len(devices)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, -math.prod(sizes))
    if min(sizes) < 1 or math.prod(sizes) != count:
        raise InputError(
            f"mesh: data={data}, fsdp={fsdp}, tensor={tensor} does not fit {count} device(s); "
            "set mesh.data=-1 to use all devices"
        )
    types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=types, devices=devices)


def row_shards(mesh: Mesh) -> int:
    """Returns the number of devices that share the rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def place(value: Shaped[np.ndarray, "..."], sharding: NamedSharding) -> Shaped[Array, "..."]:
    """Puts an array, the same on every process, on the devices of a sharding."""
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def place_scoring(
    scoring: Scoring, mesh: Mesh, put: Callable[[Any, NamedSharding], Any] = place
) -> Scoring:
    """Puts a batch, the same on every process, on the mesh: rows split, the mask of cells whole."""
    rows, whole = NamedSharding(mesh, PartitionSpec(RULES["rows"])), replicated(mesh)
    fields = vars(scoring).items()
    return Scoring(**{k: put(v, whole if k == "option_mask" else rows) for k, v in fields})


def place_everywhere(tree: PyTree, mesh: Mesh) -> Any:
    """Replicates arrays, the same on every process, on every device."""
    return jax.tree.map(lambda value: place(np.asarray(value), replicated(mesh)), tree)


def gathered(state: nnx.State, mesh: Mesh) -> nnx.State:
    """Replicates parameters on every device, so that any process can read them."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(state)


def parameter_path(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the names on a tree path, for example ("layers", "q_proj", "kernel")."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def parameter_shardings(state: nnx.State, mesh: Mesh) -> Any:
    """Returns a tree like `state` with the `NamedSharding` of each parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: parameter_sharding(parameter_path(path), leaf.shape, mesh), state
    )


def parameter_sharding(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of one parameter. An axis that its mesh axes do not divide is whole."""
    return NamedSharding(mesh, _spec(PARAMETER_AXES[path], shape, mesh, RULES))


def gather_layer(weights: nnx.State) -> nnx.State:
    """Gathers one layer's weights along `fsdp`; does nothing outside `use_abstract_mesh`.

    Without this, the partitioner may send activations instead where it estimates them smaller.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return weights
    rules = RULES | {"embed": None}

    def gather(path: tuple[Any, ...], leaf: Array) -> Array:
        axes = PARAMETER_AXES["layers", *parameter_path(path)][1:]
        spec = _spec(axes, leaf.shape, mesh, rules)
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(gather, weights)


def spread_rows(x: Shaped[Array, "R *_"]) -> Shaped[Array, "R *_"]:
    """Keeps a batch split by rows only over devices; does nothing outside `use_abstract_mesh`."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(RULES["rows"]))


def on_each_device(
    function: Callable[..., Any], inputs: Sequence[Axes], outputs: Sequence[Axes], heads: int
) -> Callable[..., Any]:
    """Runs what the partitioner cannot split on each device's share of arguments and results.

    Their axes are named as in `RULES`. An axis of `heads` is whole where `tensor` does not divide
    that number. Does nothing outside `use_abstract_mesh`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    rules = RULES | ({"heads": None} if heads % mesh.shape["tensor"] else {})

    def specs(arrays: Sequence[Axes]) -> tuple[PartitionSpec, ...]:
        return tuple(PartitionSpec(*(axis and rules[axis] for axis in axes)) for axes in arrays)

    return jax.shard_map(
        function, in_specs=specs(inputs), out_specs=specs(outputs), check_vma=False
    )


def _spec(
    axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: Rules
) -> PartitionSpec:
    spread = (rules[axis] for axis in axes)
    return PartitionSpec(
        *(
            axis if axis is None or size % int(np.prod(mesh.shape[axis])) == 0 else None
            for axis, size in zip(spread, shape, strict=True)
        )
    )
