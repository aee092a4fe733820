"""Hugging Face weights into sharded parameters.

`model.layers.3.self_attn.q_proj.weight` [out, in] becomes slice 3 of `layers.q_proj.kernel`
[layers, in, out]. Each device reads only its own slice, so no host holds the model twice.
Loading uses every tensor of the checkpoint exactly once and fills every parameter, or fails.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from ace_jax.errors import InputError
from ace_jax.files import read_object, reason
from ace_jax.model.lora import ATTENTION_TARGETS, MLP_TARGETS
from ace_jax.model.quantization import is_quantized, quantize_like
from ace_jax.model.sharding import parameter_path, parameter_sharding

TOP = {
    ("embedding",): "model.embed_tokens.weight",
    ("norm", "scale"): "model.norm.weight",
    ("head",): "lm_head.weight",
}
# The Hugging Face name of each part of a layer. Qwen 3 alone has norms of queries and keys.
MODULES = {
    "input_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"self_attn.{name}" for name in (*ATTENTION_TARGETS, "q_norm", "k_norm")},
    **{name: f"mlp.{name}" for name in MLP_TARGETS},
}

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
DTYPES = ("F32", "F16", "BF16")
SHOWN = 8  # problems in a message
ROWS = 1 << 13  # of an embedding that are compared at once

Index = tuple[slice, ...]


class Stored(NamedTuple):
    """A tensor in its file: `place` is what finds it there."""

    shape: tuple[int, ...]
    dtype: str
    place: Any


class TensorSource:
    """Named tensors of a checkpoint, under their Hugging Face names and in [out, in] order."""

    files: tuple[Path, ...]
    stored: dict[str, Stored]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return self.stored[name].shape

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Returns a slice of a tensor, or all of it, reading no more than needed.

        Raises `InputError` where it holds a value that is not finite.
        """
        part = self._read(name, index or (slice(None),) * len(self.shape(name)))
        with np.errstate(over="ignore", invalid="ignore"):
            total = part.sum(dtype=np.float32)  # finite where all is; quicker, and needs no memory
        if not (np.isfinite(total) or np.isfinite(part).all()):
            where = self.files[0] if len(self.files) == 1 else self.files[0].parent
            raise InputError(f"{where}: {listed([name])} holds NaN or infinity; fetch it again")
        return part

    def _read(self, name: str, index: Index) -> np.ndarray:
        raise NotImplementedError


class SafetensorsSource(TensorSource):
    """The tensors of a directory as the Hugging Face hub lays them out, or of the files given.

    A directory's files are the shards that `model.safetensors.index.json` names. Without an index
    it is `model.safetensors`, and without that all `*.safetensors` files. Raises `InputError` for a
    missing or damaged file, a tensor in two files, or a dtype that is not one of `DTYPES`.
    """

    def __init__(self, directory: Path, files: tuple[Path, ...] = ()):
        self.files = files or _weight_files(directory)
        found = [each for file in self.files for each in _stored_in(file).items()]
        self.stored = dict(found)
        doubled = [
            f"{tensor.place.name} and {self.stored[name].place.name} hold {name}"
            for name, tensor in found
            if tensor is not self.stored[name]
        ]
        other = [
            f"{name} is {tensor.dtype}" for name, tensor in found if tensor.dtype not in DTYPES
        ]
        if doubled:
            raise InputError(f"{directory}: {listed(doubled)}; leave the files of one model only")
        if other:
            raise InputError(
                f"{directory}: {listed(other)}; only {', '.join(DTYPES)} are read, "
                "so take the checkpoint that is not quantised"
            )

    def _read(self, name: str, index: Index) -> np.ndarray:
        # Opened for each read: the pages of a mapped file count as this process's memory.
        with safe_open(self.stored[name].place, framework="numpy") as handle:
            part = handle.get_slice(name)[index]
        # NumPy has no bfloat16, so safetensors may return its bits as V2.
        return part.view(ml_dtypes.bfloat16) if part.dtype == np.dtype("V2") else part


def _weight_files(directory: Path) -> tuple[Path, ...]:
    index = directory / INDEX
    if index.is_file():
        shard_of = read_object(index, "a model directory").get("weight_map")
        if not isinstance(shard_of, dict) or not shard_of:
            raise InputError(f"{index}: has no weight_map; fetch it again")
        for shard in shard_of.values():
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise InputError(f"{index}: {shard!r:.200} is not the name of a file beside it")
        shards = sorted(set(shard_of.values()))
        if missing := [shard for shard in shards if not (directory / shard).is_file()]:
            raise InputError(f"{index}: {', '.join(missing)} missing beside it; fetch them")
        return tuple(directory / shard for shard in shards)
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    files = tuple(sorted(directory.glob("*.safetensors")))
    if not files:
        raise InputError(f"{directory}: no *.safetensors file (pickled weights are not read)")
    return files


def _stored_in(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="numpy") as handle:
            parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
            return {
                name: Stored(tuple(part.get_shape()), part.get_dtype(), file)
                for name, part in parts.items()
            }
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: truncated or damaged ({reason(error)}); fetch it again"
        ) from None


def load_base(abstract: nnx.State, source: TensorSource, mesh: Mesh) -> nnx.State:
    """Loads the frozen parameters, in the dtypes of `abstract` and sharded over the mesh.

    A kernel that is quantised in `abstract` is quantised as soon as it is read. Raises `InputError`
    as `own_tensors` does.
    """
    own_tensors(abstract, source)

    def fill(tree_path: Any, leaf: Any) -> Any:
        path = parameter_path(tree_path)
        sharding = parameter_sharding(path, leaf.shape, mesh)
        index_of = sharding.addressable_devices_indices_map(leaf.shape)
        devices_of: dict[str, list[jax.Device]] = {}
        for device, index in index_of.items():
            devices_of.setdefault(str(index), []).append(device)
        parts: list[jax.Array] = []
        for devices in devices_of.values():
            part = _read_part(path, leaf, index_of[devices[0]] or (), source)
            # The host frees one part before it reads the next.
            parts += jax.block_until_ready([jax.device_put(part, device) for device in devices])
        array = jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)
        return quantize_like(array, leaf, path, mesh) if is_quantized(leaf) else array

    return jax.tree_util.tree_map_with_path(fill, abstract, is_leaf=is_quantized)


def fingerprint(source: TensorSource) -> str:
    """Returns the identity of a base model: quick to compute, whatever its files' dtype and number.

    It is the SHA-256 (hex) over each tensor's name, shape and first row in bfloat16, in the order
    of names.
    """
    digest = hashlib.sha256()
    for name in sorted(source.stored):
        shape = source.shape(name)
        row = source.read(name, (slice(0, 1),) if len(shape) > 1 else ())
        digest.update(f"{name} {shape}\n".encode() + row.astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()


def hf_names(path: tuple[str, ...], layers: int) -> list[str]:
    """Returns the Hugging Face names of a parameter: one for each layer, or one in all."""
    if path[0] != "layers":
        return [TOP[path]]
    kind = "bias" if path[-1] == "bias" else "weight"
    return [f"model.layers.{layer}.{MODULES[path[1]]}.{kind}" for layer in range(layers)]


def _read_part(path: tuple[str, ...], leaf: Any, index: Index, source: TensorSource) -> np.ndarray:
    names = hf_names(path, leaf.shape[0])
    if path[0] != "layers":
        return source.read(names[0], index).astype(leaf.dtype, copy=False)
    shape = [len(range(size)[part]) for size, part in zip(leaf.shape, index, strict=True)]
    # Kernels stay [layers, out, in] as in the file; JAX transposes them when it copies them.
    layers = np.empty((shape[0], *shape[:0:-1]), leaf.dtype)
    for layer, name in zip(layers, names[index[0]], strict=True):
        layer[...] = source.read(name, index[:0:-1])
    return layers.swapaxes(1, -1)


def own_tensors(abstract: nnx.State, source: TensorSource) -> Collection[str]:
    """Returns the Hugging Face names of a model's tensors, once the checkpoint fits the model.

    They leave out RoPE tables and a head that repeats the embedding: both follow from the rest.
    Raises `InputError` for tensors that are missing, unknown or of another shape, and for a head
    that config.json ties to the embedding but that is another.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract, is_leaf=is_quantized):
        path = parameter_path(tree_path)
        shape = leaf.shape[1:] if path[0] == "layers" else leaf.shape
        for name in hf_names(path, leaf.shape[0]):
            wanted[name] = shape[::-1] if path[-1] == "kernel" else shape
    # Older Llama-2 exports carry the RoPE table, and tied ones may repeat the embedding as head.
    derived = {name for name in source.stored if name.endswith("rotary_emb.inv_freq")}
    head, embedding = TOP[("head",)], TOP[("embedding",)]
    repeated = source.stored.keys() & {head} - wanted.keys()
    check_fit(source, wanted, derived | repeated, "checkpoint does not fit its config.json")
    rows = wanted[embedding][0]
    parts = [(slice(row, min(row + ROWS, rows)),) for row in range(0, rows, ROWS)]
    if repeated and not all(
        np.array_equal(source.read(head, part), source.read(embedding, part)) for part in parts
    ):
        raise InputError(
            f"{source.files[0].parent}: config.json ties {head} to the embedding, but they differ; "
            "set tie_word_embeddings to false, or take the head out"
        )
    return wanted.keys()


def check_fit(
    source: TensorSource, wanted: Mapping[str, tuple[int, ...]], ignored: set[str], where: str
) -> None:
    """Raises `InputError`, beginning with `where`, unless a source has just the tensors wanted."""
    found = set(source.stored) - ignored
    problems = [f"missing {name}" for name in sorted(wanted.keys() - found)]
    problems += [f"unknown {name}" for name in sorted(found - wanted.keys())]
    problems += [
        f"{name} has shape {source.shape(name)}, the model needs {wanted[name]}"
        for name in sorted(wanted.keys() & found)
        if source.shape(name) != wanted[name]
    ]
    if problems:
        raise InputError(f"{where}: {listed(problems)}")


def listed(problems: Sequence[str]) -> str:
    """Joins problems to one line: the first of them, and how many more there are."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    # Names come from a file and may hold terminal codes.
    line = "; ".join([*problems[:SHOWN], *more])
    return "".join(char if char.isprintable() else "?" for char in line)
