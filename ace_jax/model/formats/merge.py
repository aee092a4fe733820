"""Writes whole Hugging Face checkpoints: a base model's weights, with or without an adapter merged.

W [out, in] becomes W + scale * (B A), computed in float32 and rounded once. One shard is gathered
and written at a time, so a host never holds more than one.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save_file
from tqdm import tqdm

from ace_jax.errors import InputError
from ace_jax.files import read_object, write_json
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import INDEX, TensorSource, own_tensors
from ace_jax.model.formats.hub import Checkpoint
from ace_jax.model.formats.peft import Factors, factor_names
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import LoRAConfig

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
}
# Files of a model besides its weights and config.json.
TOKENIZER = ("*token*", "vocab.json", "merges.txt", "chat_template.*")
COMPANIONS = ("generation_config.json", *TOKENIZER, "LICENSE*", "NOTICE*", "USE_POLICY*")


def write_checkpoint(
    directory: Path,
    checkpoint: Checkpoint,
    adapter: tuple[LoRAConfig, Factors] | None = None,
    dtype: np.dtype | None = None,
    shard_size: str = "5GB",
) -> list[str]:
    """Writes a model into an empty directory, with an adapter merged into it if given.

    The weights are shards of safetensors with their index, or one file where all fit into it. A
    file has at most `shard_size`. `dtype` None keeps the dtype of each tensor. Returns the dtypes
    written. Raises `InputError` where the size cannot be read, `dtype` cannot hold a value, or the
    tensors do not fit config.json.
    """
    source = checkpoint.source
    names = own_tensors(abstract_model(checkpoint.config).base, source)
    _write_description(directory, checkpoint, dtype)
    dtypes = {name: dtype or source.read(name, (slice(0, 1),)).dtype for name in names}
    sizes = {name: int(np.prod(source.shape(name))) * dtypes[name].itemsize for name in dtypes}
    try:
        shards = split_state_dict_into_shards_factory(
            sizes,
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=shard_size,
        )
    except ValueError as error:
        raise InputError(f"--shard-size {shard_size}: {error}") from None
    with tqdm(total=len(names), unit="tensor", desc="write") as progress:
        for file, inside in shards.filename_to_tensors.items():
            tensors = {}
            for name in inside:
                tensors[name] = _merged(source, name, adapter, dtypes[name])
                progress.update()
            save_file(tensors, directory / file, metadata={"format": "pt"})
            (directory / file).chmod(0o644)  # the library writes them for the owner alone
            del tensors  # frees the shard before the next one is gathered
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        write_json(directory / INDEX, index)
    return sorted({dtype.name for dtype in dtypes.values()})


def _write_description(directory: Path, checkpoint: Checkpoint, dtype: np.dtype | None) -> None:
    """Writes config.json, the generation config and the tokenizer beside the weights.

    Raises `InputError` for a GGUF file with factors of RoPE, which a config.json cannot express.
    """
    if isinstance(checkpoint.source, GGUFSource):
        if checkpoint.source.rope_factors is not None:
            raise InputError(
                f"{checkpoint.name}: the file stretches RoPE by factors that no config.json can "
                "express; take the model as a Hugging Face directory"
            )
        tokenizer, roles = checkpoint.tokenizer, ("bos_token_id", "eos_token_id", "pad_token_id")
        known = [role for role in roles if getattr(tokenizer, role) is not None]
        tokens = {role: getattr(tokenizer, role) for role in known}
        config = checkpoint.source.hf_config | tokens
        config["dtype"] = (dtype or DTYPES["float32"]).name
        tokenizer.save_pretrained(directory)
        write_json(directory / "generation_config.json", tokens)
    else:
        assert checkpoint.directory is not None
        config = read_object(checkpoint.directory / "config.json", "a model directory")
        for file in _companions(checkpoint.directory):
            shutil.copyfile(file, directory / file.name)
        if dtype is not None:
            # transformers before version 5 reads the second name only.
            for key in {"dtype", "torch_dtype"} & config.keys() or {"dtype"}:
                config[key] = dtype.name
    write_json(directory / "config.json", config)


def _merged(
    source: TensorSource, name: str, adapter: tuple[LoRAConfig, Factors] | None, dtype: np.dtype
) -> np.ndarray:
    weight = source.read(name)
    a, b = factor_names(name)
    config, factors = adapter or (None, {})
    if config and a in factors:
        weight = weight.astype(np.float32) + np.float32(config.scale) * (factors[b] @ factors[a])
    with np.errstate(over="ignore"):  # an InputError below
        rounded = np.ascontiguousarray(weight.astype(dtype, copy=False))
    if not np.isfinite(rounded).all():
        raise InputError(f"{name}: {dtype.name} cannot hold its values; choose another --dtype")
    return rounded


def _companions(directory: Path) -> Iterator[Path]:
    # A link may lead to the blobs of the hub's cache, but to no other file of this machine.
    places = directory.resolve(), (directory / "../../blobs").resolve()
    for pattern in COMPANIONS:
        for file in sorted(directory.glob(pattern)):
            if file.is_file() and file.resolve().parent in places:
                yield file
