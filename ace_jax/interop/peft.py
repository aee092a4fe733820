"""LoRA adapters in Hugging Face PEFT format, out and in.

PEFT keeps A as [rank, in] and B as [out, rank], one pair a layer; here both are transposed and
stacked over layers.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ace_jax import __version__
from ace_jax.errors import InputError
from ace_jax.interop.hf_weights import PATH_TO_HF
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import parameter_path, parameter_shardings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTORS = {"a": "lora_A", "b": "lora_B"}

# What PEFT can express and this model cannot, each with the value that means "not used".
REFUSED = {
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "layer_replication": None,
    "exclude_modules": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
}
# Initialisations that change the base weights too, which an adapter alone does not carry.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


def export_adapter(
    directory: Path, lora: nnx.State, config: LoRAConfig, base_model: str, card: str
) -> None:
    """Writes adapter_config.json, adapter_model.safetensors and README.md.

    Args:
      directory: made if it is not there.
      lora: trained parameters.
      config: their rank, alpha, dropout and targets.
      base_model: hub id or path of the base model.
      card: the README's text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: np.ascontiguousarray(np.asarray(stacked)[layer].T)
        for path, stacked in jax.tree_util.tree_leaves_with_path(lora)
        for layer, name in enumerate(_names(parameter_path(path), stacked.shape[0]))
    }
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets),
        "bias": "none",
        "inference_mode": True,
    }
    (directory / CONFIG).write_text(json.dumps(description, indent=2) + "\n")
    (directory / "README.md").write_text(card)


def model_card(base_model: str, data: str, config: LoRAConfig, steps: int) -> str:
    """Returns the README of an exported adapter, with the hub's metadata on top."""
    return f"""---
base_model: {base_model}
library_name: peft
pipeline_tag: text-generation
tags: [lora, ace-align, survey]
---

# ACE-Align adapter for {base_model}

Trained by ace_jax {__version__} for {steps} steps on the survey answers in `{data}`: LoRA of rank
{config.rank}, alpha {config.alpha:g}, dropout {config.dropout:g} on {", ".join(config.targets)}.

Given a persona (country and demographic attributes) and a survey question, the model's distribution
over the answer options is meant to follow that of real respondents with this profile. It describes
groups on average and says nothing about a person.
"""


def read_lora_config(directory: Path, dropout: float) -> LoRAConfig:
    """Reads an adapter's rank, alpha and targets; its dropout is replaced.

    Raises `InputError` where there is no adapter or it uses what this model does not have.
    """
    try:
        description = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: not a PEFT adapter, {CONFIG} is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{directory / CONFIG}: cannot be read ({error})") from None
    if not isinstance(description, dict) or description.get("peft_type") != "LORA":
        raise InputError(f"{directory / CONFIG}: peft_type is not LORA")
    for name, unused in REFUSED.items():
        if description.get(name, unused) not in (unused, None):
            raise InputError(f"{directory / CONFIG}: {name} is not supported")
    initial = str(description.get("init_lora_weights"))
    if initial.startswith(CHANGES_BASE):
        raise InputError(f"{directory / CONFIG}: init_lora_weights {initial} is not supported")
    targets = description.get("target_modules")
    if not isinstance(targets, list):
        raise InputError(f"{directory / CONFIG}: target_modules is not a list of layer names")
    rank, alpha = description.get("r"), description.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise InputError(f"{directory / CONFIG}: r {rank!r} or lora_alpha {alpha!r} is no number")
    return LoRAConfig(rank, float(alpha), dropout, tuple(map(str, targets)))


def load_adapter(directory: Path, abstract: nnx.State, mesh: Mesh) -> nnx.State:
    """Reads an adapter's weights.

    Args:
      directory: a PEFT adapter.
      abstract: shapes of the model's LoRA parameters.
      mesh: where they go.

    Raises:
      InputError: weights missing, left over, of another shape, or a damaged file.
    """
    file = directory / WEIGHTS
    if not file.is_file():
        raise InputError(f"{directory}: {WEIGHTS} is missing (pickled adapters are not read)")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file}: truncated or damaged ({error})") from None

    def stack(tree_path: Any, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        layers = []
        for name in _names(parameter_path(tree_path), leaf.shape[0]):
            weight = weights.pop(name, None)
            if weight is None or weight.T.shape != leaf.shape[1:]:
                found = "is missing" if weight is None else f"has shape {weight.shape}"
                raise InputError(f"{file}: {name} {found}; the model needs {leaf.shape[:0:-1]}")
            layers.append(weight.T.astype(np.float32))
        return jax.device_put(np.stack(layers), sharding)

    shardings = parameter_shardings(abstract, mesh)
    state = jax.tree_util.tree_map_with_path(stack, abstract, shardings)
    if weights:
        raise InputError(f"{file}: {next(iter(weights))} belongs to no layer of the base model")
    return state


def _names(path: tuple[str, ...], layers: int) -> list[str]:
    """("layers", "q_proj", "lora", "a") -> base_model.model.model.layers.0.self_attn.q_proj..."""
    module = PATH_TO_HF[(*path[:2], "kernel")].removesuffix(".weight")
    factor = FACTORS[path[-1]]
    return [f"{PREFIX}model.layers.{layer}.{module}.{factor}.weight" for layer in range(layers)]
