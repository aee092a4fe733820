"""Hugging Face weights into sharded parameters, by one checked table.

`model.layers.3.self_attn.q_proj.weight` [out, in] becomes slice 3 of `layers.q_proj.kernel`
[layers, in, out]. A device asks only for its own slice, so no host holds the model twice.
Every name of the checkpoint is used exactly once and every parameter is filled, or nothing is.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError, safe_open

from ace_jax.errors import InputError
from ace_jax.model.sharding import parameter_path, parameter_shardings

TOP = {
    "model.embed_tokens.weight": ("embedding",),
    "model.norm.weight": ("norm", "scale"),
    "lm_head.weight": ("head",),
}
LAYER = {
    "input_layernorm.weight": ("layers", "input_norm", "scale"),
    "self_attn.q_proj.weight": ("layers", "q_proj", "kernel"),
    "self_attn.k_proj.weight": ("layers", "k_proj", "kernel"),
    "self_attn.v_proj.weight": ("layers", "v_proj", "kernel"),
    "self_attn.o_proj.weight": ("layers", "o_proj", "kernel"),
    "post_attention_layernorm.weight": ("layers", "mlp_norm", "scale"),
    "mlp.gate_proj.weight": ("layers", "gate_proj", "kernel"),
    "mlp.up_proj.weight": ("layers", "up_proj", "kernel"),
    "mlp.down_proj.weight": ("layers", "down_proj", "kernel"),
    # Qwen 2 has some of these biases, Qwen 3 the norms, LLaMA either all or none.
    "self_attn.q_norm.weight": ("layers", "q_norm", "scale"),
    "self_attn.k_norm.weight": ("layers", "k_norm", "scale"),
    "self_attn.q_proj.bias": ("layers", "q_proj", "bias"),
    "self_attn.k_proj.bias": ("layers", "k_proj", "bias"),
    "self_attn.v_proj.bias": ("layers", "v_proj", "bias"),
    "self_attn.o_proj.bias": ("layers", "o_proj", "bias"),
    "mlp.gate_proj.bias": ("layers", "gate_proj", "bias"),
    "mlp.up_proj.bias": ("layers", "up_proj", "bias"),
    "mlp.down_proj.bias": ("layers", "down_proj", "bias"),
}
PATH_TO_HF = {path: name for name, path in (TOP | LAYER).items()}

Index = tuple[slice, ...]


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors of a checkpoint, under their Hugging Face names and in [out, in] order."""

    def names(self) -> Collection[str]:
        """Returns every tensor's name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""

    def read(self, name: str, index: Index) -> np.ndarray:
        """Returns a slice of a tensor, reading no more of it than needed."""


class SafetensorsSource:
    """The tensors of a directory's `*.safetensors` files.

    Raises `InputError` for a missing, truncated or damaged file.
    """

    def __init__(self, directory: Path):
        self.files = tuple(sorted(directory.glob("*.safetensors")))
        if not self.files:
            raise InputError(f"{directory}: no *.safetensors file (pickled weights are not read)")
        self._slices: dict[str, Any] = {}
        for file in self.files:
            try:
                handle = safe_open(file, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{file}: truncated or damaged ({error}); fetch it again"
                ) from None
            self._slices |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a dict

    def names(self) -> Collection[str]:
        """Returns every tensor's name."""
        return self._slices.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: Index) -> np.ndarray:
        """Returns a slice of a tensor."""
        part = self._slices[name][index]
        # NumPy has no bfloat16: safetensors hands its bits over as they lie.
        return part.view(ml_dtypes.bfloat16) if part.dtype == np.dtype("V2") else part


def load_base(abstract: nnx.State, source: TensorSource, mesh: Mesh) -> nnx.State:
    """Fills the frozen parameters.

    Args:
      abstract: shapes and dtypes of the parameters (no LoRA among them).
      source: the checkpoint.
      mesh: where they go.

    Returns:
      `abstract` with arrays in its dtypes, sharded as `model/sharding.py` says.

    Raises:
      InputError: names left over or missing, or shapes that differ; all are listed.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = parameter_path(tree_path)
        shape = leaf.shape[1:] if path[0] == "layers" else leaf.shape
        for name in hf_names(path, leaf.shape[0]):
            wanted[name] = shape[::-1] if path[-1] == "kernel" else shape
    _check(wanted, source)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        read = _reader(parameter_path(path), leaf.shape, leaf.dtype, source)
        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree_util.tree_map_with_path(fill, abstract, parameter_shardings(abstract, mesh))


def hf_names(path: tuple[str, ...], layers: int) -> list[str]:
    """Returns the Hugging Face names of a parameter: one, or one a layer."""
    name = PATH_TO_HF[path]
    if path[0] != "layers":
        return [name]
    return [f"model.layers.{layer}.{name}" for layer in range(layers)]


def _reader(
    path: tuple[str, ...], shape: tuple[int, ...], dtype: jnp.dtype, source: TensorSource
) -> Callable[[Index | None], np.ndarray]:
    names = hf_names(path, shape[0])
    transposed = path[-1] == "kernel"

    def read_one(name: str, index: Index) -> np.ndarray:
        part = source.read(name, index[::-1] if transposed else index)
        return (part.T if transposed else part).astype(dtype)

    def read(index: Index | None) -> np.ndarray:
        index = index or (slice(None),) * len(shape)
        if path[0] != "layers":
            return read_one(names[0], index)
        return np.stack([read_one(name, index[1:]) for name in names[index[0]]])

    return read


def _check(wanted: dict[str, tuple[int, ...]], source: TensorSource) -> None:
    # Older Llama-2 exports carry the RoPE table, and tied ones may repeat the embedding as head.
    derived = {name for name in source.names() if name.endswith("rotary_emb.inv_freq")}
    if "lm_head.weight" not in wanted:
        derived.add("lm_head.weight")
    found = set(source.names()) - derived
    problems = [f"missing {name}" for name in sorted(wanted.keys() - found)]
    problems += [f"unknown {name}" for name in sorted(found - wanted.keys())]
    problems += [
        f"{name} has shape {source.shape(name)}, config.json says {wanted[name]}"
        for name in sorted(wanted.keys() & found)
        if source.shape(name) != wanted[name]
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"checkpoint does not fit its config: {'; '.join(problems[:5])}{more}")
