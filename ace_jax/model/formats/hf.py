"""Hugging Face weights into sharded parameters, by one checked table.

`model.layers.3.self_attn.q_proj.weight` [out, in] becomes slice 3 of `layers.q_proj.kernel`
[layers, in, out]. A device asks only for its own slice, so no host holds the model twice.
Every name of the checkpoint is used exactly once and every parameter is filled, or nothing is.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError, safe_open

from ace_jax.errors import InputError
from ace_jax.model.formats.descriptions import read_object, reason
from ace_jax.model.quantization import is_quantized, quantize_like
from ace_jax.model.sharding import parameter_path, parameter_sharding

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

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
DTYPES = ("F32", "F16", "BF16")
LAYER_NUMBER = re.compile(r"(?<=[a-z]\.)(\d+)(?=\.)")

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


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class SafetensorsSource:
    """The tensors of a directory as the Hugging Face hub lays them out.

    They are in the shards that `model.safetensors.index.json` names; where there is none, in
    `model.safetensors`; where that is missing too, in whichever `*.safetensors` files there are.

    Raises `InputError` for a missing or damaged file, an index that its shards do not bear out, a
    tensor in two files or of another dtype than float32, float16 and bfloat16.
    """

    def __init__(self, directory: Path):
        shard_of = _read_index(directory)
        self.files = _weight_files(directory, shard_of)
        self._tensors: dict[str, _Stored] = {}
        twice = []
        for file in self.files:
            for name, tensor in _stored_in(file).items():
                if name in self._tensors:
                    twice.append(f"{self._tensors[name].file.name} and {file.name} hold {name}")
                self._tensors[name] = tensor
        if twice:
            raise InputError(f"{directory}: {listed(twice)}; leave the files of one model only")
        lacking = [
            f"{shard} lacks {name}"
            for name, shard in shard_of.items()
            if name not in self._tensors or self._tensors[name].file.name != shard
        ]
        if lacking:
            raise InputError(f"{directory / INDEX}: {listed(lacking)}; fetch both again")
        other = [
            f"{name} is {tensor.dtype}"
            for name, tensor in self._tensors.items()
            if tensor.dtype not in DTYPES
        ]
        if other:
            raise InputError(
                f"{directory}: {listed(other)}; only {', '.join(DTYPES)} are read, "
                "so take the checkpoint that is not quantised"
            )

    def names(self) -> Collection[str]:
        """Returns every tensor's name."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return self._tensors[name].shape

    def read(self, name: str, index: Index) -> np.ndarray:
        """Returns a slice of a tensor."""
        # Opened each time: pages of a mapped file count as this process's until it is closed.
        with safe_open(self._tensors[name].file, framework="numpy") as handle:
            part = handle.get_slice(name)[index]
        # NumPy has no bfloat16: safetensors may hand its bits over as they lie.
        return part.view(ml_dtypes.bfloat16) if part.dtype == np.dtype("V2") else part


def _read_index(directory: Path) -> dict[str, str]:
    """Returns the shard of each tensor, or nothing where there is no index."""
    file = directory / INDEX
    if not file.is_file():
        return {}
    shard_of = read_object(file).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(f"{file}: has no weight_map; fetch it again")
    for shard in shard_of.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{file}: {shard!r:.200} is not the name of a file beside it")
    missing = [s for s in sorted(set(shard_of.values())) if not (directory / s).is_file()]
    if missing:
        raise InputError(f"{file}: {', '.join(missing)} missing beside it; fetch what is missing")
    return shard_of


def _weight_files(directory: Path, shard_of: dict[str, str]) -> tuple[Path, ...]:
    if shard_of:
        return tuple(directory / shard for shard in sorted(set(shard_of.values())))
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    files = tuple(sorted(directory.glob("*.safetensors")))
    if not files:
        raise InputError(f"{directory}: no *.safetensors file (pickled weights are not read)")
    return files


def _stored_in(file: Path) -> dict[str, _Stored]:
    try:
        with safe_open(file, framework="numpy") as handle:
            parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
            return {
                name: _Stored(file, tuple(part.get_shape()), part.get_dtype())
                for name, part in parts.items()
            }
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: truncated or damaged ({reason(error)}); fetch it again"
        ) from None


def load_base(abstract: nnx.State, source: TensorSource, mesh: Mesh) -> nnx.State:
    """Fills the frozen parameters.

    Args:
      abstract: shapes and dtypes of the parameters (no LoRA among them); a kernel whose place a
        quantised one takes is quantised as soon as it is read.
      source: the checkpoint.
      mesh: where they go.

    Returns:
      `abstract` with arrays in its dtypes, sharded as `model/sharding.py` says.

    Raises:
      InputError: names left over or missing, or shapes that differ; all are listed.
    """
    own_tensors(abstract, source)

    def fill(tree_path: Any, leaf: Any) -> Any:
        path = parameter_path(tree_path)
        sharding = parameter_sharding(path, leaf.shape, mesh)
        parts: list[jax.Array] = []
        for index, devices in _places(leaf.shape, sharding):
            part = _read_part(path, leaf, index, source)
            # Waited for, so that the host lets go of one part before it reads the next.
            parts += jax.block_until_ready([jax.device_put(part, device) for device in devices])
        array = jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)
        return quantize_like(array, leaf, path, mesh) if is_quantized(leaf) else array

    return jax.tree_util.tree_map_with_path(fill, abstract, is_leaf=is_quantized)


def fingerprint(source: TensorSource) -> str:
    """Returns an identity of a base model that is quick to compute, however large it is.

    SHA-256 (hex) over each tensor's name, shape and first row in bfloat16, in the order of names;
    so it does not depend on the dtype or the number of files that the values are kept in.
    """
    digest = hashlib.sha256()
    for name in sorted(source.names()):
        shape = source.shape(name)
        first = (slice(0, 1), slice(None)) if len(shape) > 1 else (slice(None),) * len(shape)
        row = source.read(name, first)
        digest.update(f"{name} {shape}\n".encode() + row.astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()


def hf_names(path: tuple[str, ...], layers: int) -> list[str]:
    """Returns the Hugging Face names of a parameter: one, or one a layer."""
    name = PATH_TO_HF[path]
    if path[0] != "layers":
        return [name]
    return [f"model.layers.{layer}.{name}" for layer in range(layers)]


def _places(
    shape: tuple[int, ...], sharding: NamedSharding
) -> list[tuple[Index, list[jax.Device]]]:
    """Returns this host's parts of an array, each with the devices that hold it."""
    places: dict[str, tuple[Index, list[jax.Device]]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        places.setdefault(str(index), (index, []))[1].append(device)
    return list(places.values())


def _read_part(path: tuple[str, ...], leaf: Any, index: Index, source: TensorSource) -> np.ndarray:
    names = hf_names(path, leaf.shape[0])
    if path[0] != "layers":
        return source.read(names[0], index).astype(leaf.dtype, copy=False)
    shape = [len(range(size)[part]) for size, part in zip(leaf.shape, index, strict=True)]
    # Kernels [layers, out, in] as they are stored; JAX turns them when it copies them.
    layers = np.empty((shape[0], *shape[:0:-1]), leaf.dtype)
    for layer, name in zip(layers, names[index[0]], strict=True):
        layer[...] = source.read(name, index[:0:-1])
    return layers.swapaxes(1, -1)


def own_tensors(abstract: nnx.State, source: TensorSource) -> Collection[str]:
    """Returns the Hugging Face names of a model's tensors.

    A RoPE table and a head that is the embedding again are none: both are made of the rest.

    Args:
      abstract: shapes of the frozen parameters.
      source: the checkpoint.

    Raises:
      InputError: names left over or missing, or shapes that differ; all are listed.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract, is_leaf=is_quantized):
        path = parameter_path(tree_path)
        shape = leaf.shape[1:] if path[0] == "layers" else leaf.shape
        for name in hf_names(path, leaf.shape[0]):
            wanted[name] = shape[::-1] if path[-1] == "kernel" else shape
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
        raise InputError(f"checkpoint does not fit its config: {listed(problems)}")
    return wanted.keys()


def listed(problems: Iterable[str]) -> str:
    """Returns problems in one line; what several layers share is said once, `layers.2-31.`."""
    layers_of: dict[tuple[str, ...], list[int]] = {}
    for problem in problems:
        before, *found = LAYER_NUMBER.split(problem, maxsplit=1)
        layers_of.setdefault((before, *found[1:]), []).extend(map(int, found[:1]))
    told = "; ".join(_ranges(layers).join(text) for text, layers in layers_of.items())
    # Names come from a file, and may hold anything.
    return "".join(char if char.isprintable() else "?" for char in told)


def _ranges(numbers: list[int]) -> str:
    """Returns 0-2,5 for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
