"""The programs that train and evaluate run, compiled from shapes: no array is made."""

import math
import re
import time
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ace_jax.likelihood import make_scoring_step
from ace_jax.model.abstract import AbstractModel, abstract_model
from ace_jax.model.architecture import LlamaConfig, base_dtype
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import parameter_shardings, replicated, scoring_shardings
from ace_jax.planning.collectives import Collective, collectives
from ace_jax.planning.flops import matmul_flops
from ace_jax.prompts.batches import Scoring, Targets
from ace_jax.training.state import abstract_state, make_optimizer, state_shardings
from ace_jax.training.step import check_anchor, check_normalizer, make_train_step

# What XLA says where a program does not fit, for example "Used 20.5G of 15.75G hbm".
OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T"))}


@dataclass(frozen=True)
class Program:
    """What is known of a compiled program.

    Attributes:
      arguments: bytes that a device holds of each part of the arguments.
      peak: bytes that a device needs at once; temporaries are what the arguments leave of it.
      flops: of one call, on all devices.
      collectives: of one call; None where the compiler gave up for want of memory.
      compile_seconds: how long it took here.
    """

    arguments: dict[str, int]
    peak: int
    flops: int
    collectives: list[Collective] | None
    compile_seconds: float

    @property
    def temporaries(self) -> int:
        """Bytes a device beyond the arguments: activations, gathered weights, code."""
        return self.peak - sum(self.arguments.values())


def model_of(config: ConfigDict, architecture: LlamaConfig, lora: LoRAConfig) -> AbstractModel:
    """Returns the model that `train` builds from a config, as shapes."""
    fields = config.model
    dtype = base_dtype(fields.dtype)
    return abstract_model(architecture, lora, dtype, fields.remat, fields.quantization)


def train_program(
    config: ConfigDict,
    model: AbstractModel,
    dropout: float,
    scoring: Scoring,
    targets: Targets,
    mesh: Mesh,
) -> Program:
    """Compiles the training step of a config for a batch's shapes.

    Args:
      config: of `train`.
      model: what `model_of` gives.
      dropout: the adapter's.
      scoring: arrays, of which only the shapes are used.
      targets: likewise.
      mesh: of devices that need not exist.

    Raises:
      InputError: fields of the config that `train` refuses.
    """
    optimizer = make_optimizer(**config.optimizer)
    state = abstract_state(model.lora, optimizer, mesh)
    base = _placed(model.base, parameter_shardings(model.base, mesh))
    batch = _placed_scoring(scoring, mesh)
    answers = jax.tree.map(lambda leaf: _like(leaf, replicated(mesh)), targets)
    weight = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    normalizer = check_normalizer(config.objective.anchor_normalizer)
    anchor = check_anchor(config.objective.anchor, normalizer)
    shardings = state_shardings(model.lora, optimizer, mesh)
    step = make_train_step(model.graph, optimizer, normalizer, dropout, shardings, mesh, anchor)
    parts = {
        "base": base,
        "LoRA": state.lora,
        "optimizer": (state.optimizer, state.step, state.key),
        "batch": (batch, answers),
    }
    return _compile(step, (state, base, batch, answers, weight, weight), parts)


def scoring_program(model: AbstractModel, scoring: Scoring, mesh: Mesh) -> Program:
    """Compiles the step of evaluation, with an adapter; arguments as of `train_program`."""
    adapter = _placed(model.lora, parameter_shardings(model.lora, mesh))
    base = _placed(model.base, parameter_shardings(model.base, mesh))
    batch = _placed_scoring(scoring, mesh)
    parts = {"base": base, "LoRA": adapter, "batch": batch}
    return _compile(make_scoring_step(model.graph, mesh), (adapter, base, batch), parts)


def _compile(step: Any, arguments: tuple[Any, ...], parts: dict[str, Any]) -> Program:
    traced = cast(jax.stages.Wrapped, step).trace(*arguments)
    flops = matmul_flops(traced.jaxpr.jaxpr)
    held = {name: _on_a_device(part) for name, part in parts.items()}
    begin = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = OUT_OF_MEMORY.search(str(error))
        if needed is None:
            raise
        peak = int(float(needed[1]) * UNITS[needed[2]])
        return Program(held, peak, flops, None, time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Program(held, peak, flops, collectives(compiled.as_text()), seconds)


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(_like, tree, shardings)


def _placed_scoring(scoring: Scoring, mesh: Mesh) -> Any:
    shardings = scoring_shardings(mesh)
    leaves, structure = jax.tree.flatten_with_path(scoring)
    return jax.tree.unflatten(
        structure, [_like(leaf, shardings[path[0].name]) for path, leaf in leaves]
    )


def _like(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def parameters_of(tree: Any) -> int:
    """Returns how many numbers a tree of shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def bytes_of(tree: Any) -> int:
    """Returns the size of a tree of shapes, all devices' shares together."""
    return sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def _on_a_device(tree: Any) -> int:
    return sum(
        _bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    if jnp.issubdtype(dtype, jnp.integer):  # accelerators pack two values of four bits into a byte
        return math.prod(shape) * jnp.iinfo(dtype).bits // 8
    return math.prod(shape) * dtype.itemsize
