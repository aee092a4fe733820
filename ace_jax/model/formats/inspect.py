"""What a checkpoint, an adapter or a training run is, as its files say."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gguf import GGUFReader
from safetensors import safe_open

from ace_jax.errors import InputError
from ace_jax.model.abstract import abstract_model
from ace_jax.model.formats import peft
from ace_jax.model.formats.descriptions import read_object, reason
from ace_jax.model.formats.hf import SafetensorsSource, TensorSource, fingerprint
from ace_jax.model.formats.hub import Description, describe, open_checkpoint, sha256_of
from ace_jax.model.rope import Rope

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value in safetensors

Facts = dict[str, Any]


def inspect(path: str, *, sha256: bool) -> Facts:
    """Returns the facts about what `path` names, in the order in which to tell them.

    Args:
      path: a RUN directory, a PEFT adapter, or what `model.path` takes.
      sha256: whether to hash a checkpoint's weight files too, which takes a while.

    Raises:
      InputError: it is none of these, or damaged.
    """
    directory = Path(path)
    if (directory / peft.CONFIG).is_file():
        return _adapter(directory)
    if is_run(directory):
        return _run(directory)
    return _checkpoint(path, sha256)


def is_run(directory: Path) -> bool:
    """Returns whether a directory is one that `train` wrote."""
    try:
        return "objective" in read_object(directory / "config.json")
    except (InputError, OSError):
        return False


def read_settings(run: Path) -> dict[str, Any]:
    """Returns a run's settings; raises `InputError` where there is no run."""
    if not is_run(run):
        raise InputError(f"{run}: no run of ace_jax.train lies there (its config.json is missing)")
    return read_object(run / "config.json")


def saved_steps(directory: Path) -> list[int]:
    """Returns the steps that a run's checkpoints hold, in order; empty where there are none."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _adapter(directory: Path) -> Facts:
    config = peft.read_lora_config(directory)
    recorded = peft.recorded_fingerprint(directory)
    parameters, size_of = _stored([directory / peft.WEIGHTS])
    return {
        "kind": "adapter (PEFT, LoRA)",
        "base model": peft.base_model_of(directory),
        "base fingerprint": recorded or "not on record",
        "targets": ", ".join(config.targets),
        "rank": config.rank,
        "alpha": config.alpha,
        "rslora": config.rslora,
        "scale": config.scale,
        "dropout": config.dropout,
        "parameters": parameters,
        "bytes by dtype": size_of,
        "files": _files(sorted(directory.glob("adapter_*")), sha256=True),
    }


def _run(directory: Path) -> Facts:
    try:
        return _facts_of_run(directory, read_settings(directory))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / 'config.json'}: of another version ({reason(error)})"
        ) from None


def _facts_of_run(directory: Path, settings: Facts) -> Facts:
    lines = _lines(directory / "metrics.jsonl")
    adapter = directory / "adapter"
    lora = settings["lora"]
    return {
        "kind": "training run (RUN)",
        "model": f"{settings['model']['path']} in {settings['model']['dtype']}",
        "data": f"{settings['data']['path']}, hold-out {settings['data']['holdout']}",
        "prompt": settings["prompt"]["template"],
        "LoRA": lora["init_from"]
        or f"rank {lora['rank']}, alpha {lora['alpha']:g} on {', '.join(lora['targets'])}",
        "stages": [f"alpha {a:g}, beta {b:g}, {n} epoch(s)" for a, b, n in _stages(settings)],
        "learning rate": settings["optimizer"]["learning_rate"],
        "seed": settings["seed"],
        "steps done": lines[-1]["step"] if lines else 0,
        "last metrics": lines[-1] if lines else {},
        "checkpoints": saved_steps(directory / "checkpoints"),
        "adapter": str(adapter) if (adapter / peft.CONFIG).is_file() else "not exported yet",
    }


def _stages(settings: Mapping[str, Any]) -> list[tuple[float, float, int]]:
    return [(alpha, beta, epochs) for alpha, beta, epochs in settings["objective"]["stages"]]


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        # A run that was killed may have left half a line.
        whole = [line for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")]
        lines = [json.loads(line) for line in whole]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not what ace_jax.train wrote ({reason(error)})") from None
    if not all(isinstance(line, dict) and "step" in line for line in lines):
        raise InputError(f"{file}: not what ace_jax.train wrote (a line without a step)")
    return lines


def _checkpoint(path: str, sha256: bool) -> Facts:
    model = describe(path)
    facts = _architecture(model)
    if model.directory is not None and not any(model.directory.glob("*.safetensors")):
        return facts | {"weights": "not here"}
    source: TensorSource
    if model.directory is None:
        checkpoint = open_checkpoint(path)
        source, files = checkpoint.source, checkpoint.files
    else:
        source = SafetensorsSource(model.directory)
        files = source.files
    return facts | {
        "bytes by dtype": _stored(files)[1],
        "fingerprint": fingerprint(source),
        "files": _files(files, sha256),
    }


def _architecture(model: Description) -> Facts:
    config = model.config
    base = abstract_model(config, None, jnp.dtype("float32")).base
    stated = {}
    if model.directory is not None:
        stated = read_object(model.directory / "config.json")
    return {
        "kind": "checkpoint (GGUF)" if model.directory is None else "checkpoint (Hugging Face)",
        "name": model.name,
        "architecture": (stated.get("architectures") or ["LlamaForCausalLM"])[0],
        "layers": config.num_layers,
        "width": config.hidden_size,
        "MLP width": config.intermediate_size,
        "heads": f"{config.num_heads} ({config.num_kv_heads} of keys), {config.head_dim} channels",
        "vocabulary": config.vocab_size,
        "tokenizer": "none" if model.tokenizer is None else f"{len(model.tokenizer)} tokens",
        "head": "the embedding" if config.tie_word_embeddings else "its own",
        "biases": ", ".join(config.biases) or "none",
        "query and key norms": config.qk_norm,
        "window": config.window or "none",
        "rope": _rope(config.rope, stated),
        "parameters": sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(base)),
    }


def _rope(rope: Rope, stated: Mapping[str, Any]) -> str:
    fields = stated.get("rope_parameters") or stated.get("rope_scaling") or {}
    kind = fields.get("rope_type", fields.get("type", "default"))
    text = f"theta {rope.theta:g}"
    if rope.factors is not None:
        named = "stretched" if kind == "default" else kind
        text += f", {named}: frequencies divided by {min(rope.factors):g} to {max(rope.factors):g}"
    return text if rope.scale == 1 else f"{text}, scale {rope.scale:g}"


def _stored(files: Iterable[Path]) -> tuple[int, dict[str, int]]:
    """Returns how many values the files keep, and the bytes of each dtype they keep them in."""
    values, size_of = 0, Counter[str]()
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    part = handle.get_slice(name)
                    count = int(np.prod(part.get_shape()))
                    values += count
                    width = WIDTH.get(part.get_dtype())
                    if width is None:
                        raise InputError(f"{file}: {name} is {part.get_dtype()}, which is not read")
                    size_of[part.get_dtype()] += width * count
        else:
            for tensor in GGUFReader(file).tensors:
                values += int(tensor.n_elements)
                size_of[tensor.tensor_type.name] += int(tensor.n_bytes)
    return values, dict(size_of)


def _files(files: Iterable[Path], sha256: bool) -> list[Facts]:
    return [
        {"name": file.name, "bytes": file.stat().st_size}
        | ({"sha256": sha256_of([file])} if sha256 else {})
        for file in files
    ]
