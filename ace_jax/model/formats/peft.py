"""LoRA adapters in Hugging Face PEFT format, out and in.

PEFT stores A as [rank, in] and B as [out, rank], one pair for each layer. The model has both
transposed and stacked over layers.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import save

from ace_jax.errors import InputError, within
from ace_jax.files import read_object, sha256_of, whole_directory, write_json, write_record
from ace_jax.model.formats.hf import SafetensorsSource, check_fit, hf_names, listed
from ace_jax.model.lora import ALL_LINEAR, LoRAConfig, targets_of
from ace_jax.model.sharding import parameter_path, parameter_shardings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RECORD = "ace_experiment.json"
FINGERPRINT = "base_fingerprint"  # a key in the metadata of the weight file
DIGEST = "adapter_sha256"  # another, of the weights and of what they are scaled by
LARGEST = 1e9  # beyond any rank or alpha

# The keys of adapter_config.json that are read, and those that do not change what a trained adapter
# computes. Any other key is refused where it is in use: false, "none", null and empty are not.
READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"),
    *("init_lora_weights", "base_model_name_or_path"),
}
IGNORED = {
    *("task_type", "auto_mapping", "inference_mode", "peft_version", "runtime_config"),
    *("eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
}
# Others change the base weights, which an adapter does not contain, or are not known.
INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs to: its name, and its fingerprint where it is known."""

    name: str
    fingerprint: str | None = None


Factors = Mapping[str, Float[np.ndarray, "out in"]]  # A and B of each layer, by PEFT name


def adapter_config(fields: ConfigDict) -> LoRAConfig:
    """Returns the adapter's shape that a config's `lora` fields ask for, or that of `init_from`."""
    if fields.init_from:
        return read_lora_config(Path(fields.init_from), fields.dropout)
    targets = targets_of(fields.targets)
    return LoRAConfig(fields.rank, fields.alpha, fields.dropout, targets, fields.rslora)


def factors_of(lora: nnx.State) -> Factors:
    """Returns A and B of every layer of trained parameters, under their PEFT names."""
    return {
        name: np.ascontiguousarray(np.asarray(stacked)[layer].T)
        for path, stacked in jax.tree_util.tree_leaves_with_path(lora)
        for layer, name in enumerate(_names(parameter_path(path), stacked.shape[0]))
    }


def write_adapter(
    directory: Path,
    factors: Factors,
    config: LoRAConfig,
    base: BaseModel,
    card: str,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Writes a PEFT adapter, complete or not at all. An adapter that is already there is replaced.

    `factors` are those of `factors_of`, `card` is the README, and `record` the experiment. Whoever
    loads the adapter checks the fingerprint of `base`. Raises `InputError` where the directory
    holds something else or cannot be written.
    """
    identity = {FINGERPRINT: base.fingerprint} if base.fingerprint else {}
    identity[DIGEST] = _digest(factors, config)
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "target_modules": list(config.targets),
        "bias": "none",
        "inference_mode": True,
    }
    with whole_directory(directory, (CONFIG, WEIGHTS), ("README.md", RECORD)) as partial:
        file = _in_fixed_order(save(dict(factors), metadata={"format": "pt"} | identity))
        (partial / WEIGHTS).write_bytes(file)
        (partial / "README.md").write_text(card)
        if record is not None:
            write_record(partial / RECORD, record)
        write_json(partial / CONFIG, description)


def read_record(directory: Path) -> dict[str, Any] | None:
    """Returns an adapter's experiment, None without one; raises `InputError` for a damaged file."""
    file = directory / RECORD
    return read_object(file, "an adapter of ace_jax") if file.exists() else None


def read_lora_config(directory: Path, dropout: float | None = None) -> LoRAConfig:
    """Reads an adapter's rank, alpha, scale and targets, and its dropout unless one is given.

    Raises `InputError` where there is no adapter or it uses what this model does not have.
    """
    file = directory / CONFIG
    description = read_object(file, "a PEFT adapter")
    if description.get("peft_type") != "LORA":
        raise InputError(f"{file}: peft_type is not LORA")
    for name in sorted(description.keys() - READ - IGNORED):
        value = description[name]
        if not (value is None or value is False or value in ("none", [], {})):  # 0 is in use
            raise InputError(f"{file}: {listed([name])} is not supported")
    initial = description.get("init_lora_weights")
    if initial not in INITIALISATIONS:
        raise InputError(
            f"{file}: init_lora_weights {initial!r:.40} changes the base model too; "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )
    targets = description.get("target_modules")
    if not (isinstance(targets, list) or targets == ALL_LINEAR):
        raise InputError(
            f"{file}: target_modules {targets!r} is not a list of layer names or {ALL_LINEAR}"
        )
    rank: Any = description.get("r")
    alpha: Any = description.get("lora_alpha")
    own = description.get("lora_dropout") or 0.0
    for name, number in {"r": rank, "lora_alpha": alpha, "lora_dropout": own}.items():
        kinds = (int,) if name == "r" else (int, float)
        if type(number) not in kinds or not abs(number) < LARGEST:
            raise InputError(f"{file}: {name} {number!r:.40} is not a number")
    # PEFT names each layer's module in full where there are few; the tensors tell which those are.
    short = dict.fromkeys(str(name).rpartition(".")[2] for name in targets)
    names = targets_of(targets if isinstance(targets, str) else list(short))
    rslora = bool(description.get("use_rslora"))
    dropout = float(own if dropout is None else dropout)
    with within(file):
        return LoRAConfig(rank, float(alpha), dropout, names, rslora)


def identity_of(directory: Path) -> dict[str, str]:
    """Returns the path of an adapter and the SHA-256 of its files, record and card aside."""
    return {"path": str(directory), "sha256": sha256_of(sorted(directory.glob("adapter_*")))}


def base_of(directory: Path) -> BaseModel:
    """Returns an adapter's base model; raises `InputError` for a missing or damaged file."""
    description = read_object(directory / CONFIG, "a PEFT adapter")
    (file,) = _weights(directory).files
    with safe_open(file, framework="numpy") as handle:
        fingerprint = (handle.metadata() or {}).get(FINGERPRINT)
    return BaseModel(str(description.get("base_model_name_or_path") or "unknown"), fingerprint)


def load_adapter(
    directory: Path, abstract: nnx.State, mesh: Mesh, base_fingerprint: str | None = None
) -> nnx.State:
    """Reads an adapter's weights onto the mesh; the rest is as in `read_factors`."""
    factors = read_factors(directory, abstract, base_fingerprint)

    def stack(tree_path: Any, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        names = _names(parameter_path(tree_path), leaf.shape[0])
        return jax.device_put(np.stack([factors[name].T for name in names]), sharding)

    shardings = parameter_shardings(abstract, mesh)
    return jax.tree_util.tree_map_with_path(stack, abstract, shardings)


def read_factors(directory: Path, abstract: nnx.State, base_fingerprint: str | None) -> Factors:
    """Returns an adapter's A and B of every layer in float32, under their PEFT names.

    Raises `InputError` where the adapter belongs to another base model than `base_fingerprint`
    (None: any), it was changed (unless that is None), its file is damaged, or a weight is missing,
    unknown, or of another shape than in `abstract`.
    """
    base = base_of(directory)
    if base_fingerprint and base.fingerprint not in (None, base_fingerprint):
        raise InputError(
            f"{directory / WEIGHTS}: was trained on another base model "
            f"({base.name}, fingerprint {base.fingerprint:.12}; this one has "
            f"{base_fingerprint:.12}); bind it to this one with `python -m ace_jax.convert "
            "import-adapter` if that is meant"
        )
    shapes = {
        name: leaf.shape[:0:-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
        for name in _names(parameter_path(path), leaf.shape[0])
    }
    source = _weights(directory)
    check_fit(source, shapes, set(), str(directory / WEIGHTS))
    factors = {name: source.read(name).astype(np.float32) for name in shapes}
    with safe_open(directory / WEIGHTS, framework="numpy") as handle:
        written = (handle.metadata() or {}).get(DIGEST)
    if base_fingerprint and written not in (None, _digest(factors, read_lora_config(directory))):
        raise InputError(
            f"{directory}: {WEIGHTS} or {CONFIG} is not what was written; restore it, or if it was "
            "changed on purpose write it anew with `python -m ace_jax.convert import-adapter`"
        )
    return factors


def factor_names(weight: str) -> tuple[str, str]:
    """Returns the PEFT names of the A and B that change a weight."""
    module = f"base_model.model.{weight.removesuffix('.weight')}"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _in_fixed_order(file: bytes) -> bytes:
    # The library writes metadata in random order; sorted, the same adapter is the same bytes.
    start, end = 8, 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[start:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return file[:start] + ordered.ljust(end - start) + file[end:]


def _digest(factors: Factors, config: LoRAConfig) -> str:
    scaled = [config.rank, float(config.alpha), config.rslora, sorted(config.targets)]
    digest = hashlib.sha256(json.dumps(scaled).encode())
    for name in sorted(factors):
        digest.update(name.encode() + factors[name].astype(np.float32).tobytes())
    return digest.hexdigest()


def _weights(directory: Path) -> SafetensorsSource:
    file = directory / WEIGHTS
    if not file.is_file():
        raise InputError(f"{directory}: {WEIGHTS} is missing (pickled adapters are not read)")
    return SafetensorsSource(directory, (file,))


def _names(path: tuple[str, ...], layers: int) -> list[str]:
    # ("layers", "q_proj", "lora", "a") -> base_model.model.model.layers.0.self_attn.q_proj...
    weights = hf_names((*path[:2], "kernel"), layers)
    return [factor_names(weight)["ab".index(path[-1])] for weight in weights]
