"""Whole Hugging Face checkpoints out: a base model's weights, with an adapter merged in or without.

W [out, in] becomes W + scale * (B A), computed in float32 and rounded once. Tensors come and go one
by one and are written a shard at a time, so that a host never holds more than one shard.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from jaxtyping import Float
from safetensors.numpy import save_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.descriptions import read_object
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import INDEX, TensorSource
from ace_jax.model.formats.hub import Checkpoint
from ace_jax.model.formats.peft import factor_names

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
}
PATTERN = "model{suffix}.safetensors"
# What goes with a model besides its weights and config.json.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


@dataclass(frozen=True)
class LowRank:
    """An adapter to merge: A and B of each layer under their PEFT names, and the scale on B A."""

    factors: Mapping[str, Float[np.ndarray, "out in"]]
    scale: float

    def delta(self, weight: str) -> Float[np.ndarray, "out in"] | None:
        """Returns what a weight grows by, in float32; None where it is not adapted."""
        a, b = factor_names(weight.removesuffix(".weight"))
        if not weight.endswith(".weight") or a not in self.factors:
            return None
        return np.float32(self.scale) * (self.factors[b] @ self.factors[a])


def write_weights(
    directory: Path,
    source: TensorSource,
    names: Collection[str],
    adapter: LowRank | None,
    dtype: np.dtype | None,
    shard_size: str,
) -> dict[str, int]:
    """Writes sharded safetensors with their index, or one file where all fits into one.

    Args:
      directory: is there.
      source: the checkpoint.
      names: which of its tensors.
      adapter: what is merged into them.
      dtype: of what is written; None keeps every tensor's own.
      shard_size: the most a file may hold, such as "5GB".

    Returns:
      How many bytes there are of each dtype.

    Raises:
      InputError: a size that is none, or a value that `dtype` cannot hold.
    """
    dtypes = {name: dtype or dtype_of(source, name) for name in sorted(names, key=_place)}
    sizes = {name: int(np.prod(source.shape(name))) * dtypes[name].itemsize for name in dtypes}
    try:
        shards = split_state_dict_into_shards_factory(
            sizes,
            get_storage_size=lambda size: size,
            filename_pattern=PATTERN,
            max_shard_size=shard_size,
        )
    except ValueError as error:
        raise InputError(f"--shard-size {shard_size}: {error}") from None
    progress = tqdm(total=len(names), unit="tensor", desc="write")
    for file, inside in shards.filename_to_tensors.items():
        tensors = {}
        for name in inside:
            tensors[name] = _merged(source, name, adapter, dtypes[name])
            progress.update()
        save_file(tensors, directory / file, metadata={"format": "pt"})
        (directory / file).chmod(0o644)  # the library writes them for the owner alone
        del tensors  # before the next shard is gathered
    progress.close()
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    totals: dict[str, int] = {}
    for name in names:
        totals[dtypes[name].name] = totals.get(dtypes[name].name, 0) + sizes[name]
    return totals


def write_description(directory: Path, checkpoint: Checkpoint, dtype: np.dtype | None) -> None:
    """Writes config.json, the generation config and the tokenizer beside the weights.

    Raises `InputError` for a GGUF file whose architecture no config.json can tell.
    """
    if isinstance(checkpoint.source, GGUFSource):
        config = _config_of(checkpoint.config, checkpoint.tokenizer) | {
            "max_position_embeddings": checkpoint.source.context_length,
            "dtype": (dtype or DTYPES["float32"]).name,
        }
        checkpoint.tokenizer.save_pretrained(directory)
        generation = {name: config[name] for name in config if name.endswith("_token_id")}
        _write_json(directory / "generation_config.json", generation)
    else:
        assert checkpoint.directory is not None
        config = read_object(checkpoint.directory / "config.json")
        for file in _companions(checkpoint.directory):
            shutil.copyfile(file, directory / file.name)
        if dtype is not None:
            # Programs older than transformers 5 know it by the second name only.
            for key in {"dtype", "torch_dtype"} & config.keys() or {"dtype"}:
                config[key] = dtype.name
    _write_json(directory / "config.json", config)


def dtype_of(source: TensorSource, name: str) -> np.dtype:
    """Returns the dtype in which a source hands a tensor over."""
    return source.read(name, (slice(0, 1), slice(0, 1))[: len(source.shape(name))]).dtype


def _merged(
    source: TensorSource, name: str, adapter: LowRank | None, dtype: np.dtype
) -> np.ndarray:
    weight = source.read(name, (slice(None),) * len(source.shape(name)))
    delta = adapter.delta(name) if adapter else None
    if delta is not None:
        weight = weight.astype(np.float32) + delta
    with np.errstate(over="ignore"):  # told below
        rounded = np.ascontiguousarray(weight.astype(dtype, copy=False))
    if rounded.dtype != weight.dtype and not np.isfinite(rounded).all():
        raise InputError(f"{name}: {dtype.name} cannot hold its values; choose another --dtype")
    return rounded


def _config_of(config: LlamaConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the config.json of a plain LLaMA."""
    if config.rope.factors is not None:
        raise InputError(
            "merge: the file stretches RoPE by factors that no config.json can tell; "
            "take the model as a Hugging Face directory"
        )
    if config.biases or config.qk_norm or config.window or config.rope.scale != 1:
        raise InputError("merge: the file is no plain LLaMA; take it as a Hugging Face directory")
    tokens = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
    } | {name: number for name, number in tokens.items() if number is not None}


def _companions(directory: Path) -> Iterator[Path]:
    for pattern in COMPANIONS:
        yield from (file for file in sorted(directory.glob(pattern)) if _is_own(file, directory))


def _is_own(file: Path, directory: Path) -> bool:
    """Whether a file lies in the checkpoint, or among the blobs that the hub's cache links to."""
    places = directory.resolve(), (directory / "../../blobs").resolve()
    return file.is_file() and file.resolve().parent in places


def _place(name: str) -> tuple[int, int, str]:
    """Embedding first, then layer by layer, then what follows them."""
    parts = name.split(".")
    if parts[1] == "layers":
        return 1, int(parts[2]), name
    return (0 if "embed_tokens" in name else 2), 0, name


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
