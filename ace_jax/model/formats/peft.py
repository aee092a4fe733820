"""LoRA adapters in Hugging Face PEFT format, out and in.

PEFT keeps A as [rank, in] and B as [out, rank], one pair a layer; here both are transposed and
stacked over layers.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ace_jax.errors import InputError
from ace_jax.model.formats.descriptions import read_object, reason
from ace_jax.model.formats.hf import DTYPES, PATH_TO_HF, listed
from ace_jax.model.lora import ALL_LINEAR, LoRAConfig, targets_of
from ace_jax.model.sharding import parameter_path, parameter_shardings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FINGERPRINT = "base_fingerprint"  # in the metadata of the weights' file
RECORD = "ace_experiment.json"
FACTORS = {"a": "lora_A", "b": "lora_B"}

# What PEFT can express and this model cannot, each with the value that means "not used".
REFUSED = {
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


def adapter_config(fields: ConfigDict) -> LoRAConfig:
    """Returns the shape of the adapter that a config's `lora` fields ask for.

    It is the fields' own, or that of the adapter training starts from, `init_from`.
    """
    if fields.init_from:
        return read_lora_config(Path(fields.init_from), fields.dropout)
    targets = targets_of(fields.targets)
    return LoRAConfig(fields.rank, fields.alpha, fields.dropout, targets, fields.rslora)


@dataclass(frozen=True)
class BaseModel:
    """SHIM."""

    name: str
    fingerprint: str | None


def export_adapter(
    directory: Path,
    lora: nnx.State,
    config: LoRAConfig,
    base: BaseModel,
    card: str,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Writes adapter_config.json, adapter_model.safetensors and README.md.

    Args:
      directory: made if it is not there.
      lora: trained parameters.
      config: their rank, alpha, dropout and targets.
      base_model: hub id or path of the base model.
      card: the README's text.
      base_fingerprint: of the base model's weights, for those who load the adapter to check.
    """
    factors = {
        name: np.asarray(stacked)[layer].T
        for path, stacked in jax.tree_util.tree_leaves_with_path(lora)
        for layer, name in enumerate(_names(parameter_path(path), stacked.shape[0]))
    }
    write_adapter(directory, factors, config, base.name, card, base.fingerprint)
    if record is not None:
        (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def write_adapter(
    directory: Path,
    factors: Mapping[str, Float[np.ndarray, "out in"]],
    config: LoRAConfig,
    base_model: str,
    card: str,
    base_fingerprint: str | None,
) -> None:
    """Writes what `export_adapter` writes, of factors that already have their PEFT names."""
    directory.mkdir(parents=True, exist_ok=True)
    identity = {FINGERPRINT: base_fingerprint} if base_fingerprint else {}
    weights = {name: np.ascontiguousarray(factor) for name, factor in factors.items()}
    file = _in_fixed_order(save(weights, metadata={"format": "pt"} | identity))
    (directory / WEIGHTS).write_bytes(file)
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": list(config.targets),
        "bias": "none",
        "inference_mode": True,
    }
    (directory / CONFIG).write_text(json.dumps(description, indent=2) + "\n")
    (directory / "README.md").write_text(card)


def read_lora_config(directory: Path, dropout: float | None = None) -> LoRAConfig:
    """Reads an adapter's rank, alpha, scale and targets; its dropout is replaced if one is given.

    Raises `InputError` where there is no adapter or it uses what this model does not have.
    """
    file, description = directory / CONFIG, _description(directory)
    if description.get("peft_type") != "LORA":
        raise InputError(f"{file}: peft_type is not LORA")
    for name, unused in REFUSED.items():
        if description.get(name, unused) not in (unused, None):
            raise InputError(f"{file}: {name} is not supported")
    initial = str(description.get("init_lora_weights"))
    if initial.startswith(CHANGES_BASE):
        raise InputError(f"{file}: init_lora_weights {initial} is not supported")
    targets = description.get("target_modules")
    if not (isinstance(targets, list) or targets == ALL_LINEAR):
        raise InputError(
            f"{file}: target_modules {targets!r} is not a list of layer names or {ALL_LINEAR}"
        )
    rank, alpha = description.get("r"), description.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float):
        raise InputError(f"{file}: r {rank!r:.40} or lora_alpha {alpha!r:.40} is no number")
    names = targets_of(targets if isinstance(targets, str) else tuple(map(str, targets)))
    try:
        rslora = bool(description.get("use_rslora"))
        own = _number(description.get("lora_dropout") or 0.0, "lora_dropout")
        alpha = _number(alpha, "lora_alpha")
        return LoRAConfig(rank, alpha, own if dropout is None else dropout, names, rslora)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def base_model_of(directory: Path) -> str:
    """Returns the name under which an adapter's description knows its base model."""
    return str(_description(directory).get("base_model_name_or_path") or "unknown")


def recorded_fingerprint(directory: Path) -> str | None:
    """Returns the fingerprint of the base that an adapter was trained on; None if not on record.

    Raises `InputError` for a missing or damaged file.
    """
    with _open_weights(directory) as handle:
        return (handle.metadata() or {}).get(FINGERPRINT)


def load_adapter(
    directory: Path, abstract: nnx.State, mesh: Mesh, base_fingerprint: str | None = None
) -> nnx.State:
    """Reads an adapter's weights.

    Args:
      directory: a PEFT adapter.
      abstract: shapes of the model's LoRA parameters.
      mesh: where they go.
      base_fingerprint: of the base model; without it only shapes are checked.

    Raises:
      InputError: the adapter was trained on another base; weights missing, left over or of another
        shape, all listed; a damaged file.
    """
    factors = read_factors(directory, abstract, base_fingerprint)

    def stack(tree_path: Any, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        names = _names(parameter_path(tree_path), leaf.shape[0])
        return jax.device_put(np.stack([factors[name].T for name in names]), sharding)

    shardings = parameter_shardings(abstract, mesh)
    return jax.tree_util.tree_map_with_path(stack, abstract, shardings)


def read_factors(
    directory: Path, abstract: nnx.State, base_fingerprint: str | None
) -> dict[str, Float[np.ndarray, "out in"]]:
    """Returns an adapter's A and B of every layer in float32, under their PEFT names.

    The arguments and what is raised are those of `load_adapter`.
    """
    recorded = recorded_fingerprint(directory)
    if base_fingerprint and recorded not in (None, base_fingerprint):
        raise InputError(
            f"{directory / WEIGHTS}: was trained on another base model "
            f"({base_model_of(directory)}, fingerprint {recorded[:12]}; this one has "
            f"{base_fingerprint[:12]}); bind it to this one with `python -m ace_jax.convert "
            "import-adapter` if that is meant"
        )
    shapes = {
        name: leaf.shape[:0:-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
        for name in _names(parameter_path(path), leaf.shape[0])
    }
    with _open_weights(directory) as handle:
        found = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118 - not a dict
        problems = [
            f"{name} is missing, the model needs {shape}"
            for name, shape in shapes.items()
            if name not in found
        ]
        problems += [
            f"{name} has shape {found[name]}, the model needs {shape}"
            for name, shape in shapes.items()
            if found.get(name, shape) != shape
        ]
        problems += [
            f"{name} is {dtype}, of which none is read but {', '.join(DTYPES)}"
            for name in shapes.keys() & found
            if (dtype := handle.get_slice(name).get_dtype()) not in DTYPES
        ]
        unknown = found.keys() - shapes.keys()
        problems += [f"{name} belongs to no adapted layer of the model" for name in sorted(unknown)]
        if problems:
            raise InputError(f"{directory / WEIGHTS}: {listed(problems)}")
        return {name: _floats(handle.get_slice(name)[:]) for name in shapes}


def factor_names(module: str) -> tuple[str, str]:
    """Returns the PEFT names of a layer's A and B."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def _in_fixed_order(file: bytes) -> bytes:
    """Sorts a safetensors file's metadata, so that one adapter is always the same bytes.

    The library writes it in an order of chance.
    """
    start, end = 8, 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[start:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return file[:start] + ordered.ljust(end - start) + file[end:]


def _description(directory: Path) -> dict[str, Any]:
    try:
        return read_object(directory / CONFIG)
    except FileNotFoundError:
        raise InputError(f"{directory}: not a PEFT adapter, {CONFIG} is missing") from None


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} {value!r:.40} is no number")
    return number


def _open_weights(directory: Path) -> Any:
    file = directory / WEIGHTS
    if not file.is_file():
        raise InputError(f"{directory}: {WEIGHTS} is missing (pickled adapters are not read)")
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or damaged ({reason(error)})") from None


def _floats(factor: np.ndarray) -> Float[np.ndarray, "out in"]:
    # NumPy has no bfloat16: safetensors may hand its bits over as they lie.
    whole = factor.view(ml_dtypes.bfloat16) if factor.dtype == np.dtype("V2") else factor
    return whole.astype(np.float32)


def _names(path: tuple[str, ...], layers: int) -> list[str]:
    """("layers", "q_proj", "lora", "a") -> base_model.model.model.layers.0.self_attn.q_proj..."""
    module = PATH_TO_HF[(*path[:2], "kernel")].removesuffix(".weight")
    factor = FACTORS[path[-1]]
    return [f"{PREFIX}model.layers.{layer}.{module}.{factor}.weight" for layer in range(layers)]


def read_record(directory: Path) -> dict[str, Any] | None:
    """PLACEHOLDER."""
    try:
        return read_object(directory / RECORD)
    except FileNotFoundError:
        return None


def identity_of(directory: Path) -> dict[str, str]:
    """Returns path and SHA-256 of an adapter's files."""
    from ace_jax.model.formats.hub import sha256_of

    files = sorted(directory.glob("adapter_*"))
    return {"path": str(directory), "sha256": sha256_of(files)}
