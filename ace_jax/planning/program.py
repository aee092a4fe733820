"""A plan: the step that training runs, compiled from shapes alone, its time, whether it fits.

XLA's own count of operations takes a loop's body once; `matmul_flops` takes it once an iteration.
Everything but matrix products is left out: it adds a few per cent.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import pandas as pd
from jax.extend import core
from jax.sharding import Mesh, Sharding
from ml_collections import ConfigDict

from ace_jax.errors import check_known
from ace_jax.model.architecture import LlamaConfig, base_dtype
from ace_jax.model.formats.peft import adapter_config
from ace_jax.model.llama import AbstractModel, abstract_model
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import (
    make_mesh,
    parameter_shardings,
    place_scoring,
    replicated,
    row_shards,
)
from ace_jax.model.tree_attention import ATTENTION
from ace_jax.planning.devices import Chip, Topology
from ace_jax.planning.workload import describe_for_plan, workload
from ace_jax.recipe import Objective, Optimizer
from ace_jax.runtime.progress import log
from ace_jax.training.data import TrainingBatch
from ace_jax.training.step import abstract_state, make_optimizer, make_train_step, state_shardings

# XLA says one of these of a program that does not fit: "Used 20.5G of 15.75G hbm", or "the total
# memory required for HLO temporaries (37.29G) exceeds available HBM (15.75G)".
OUT_OF_MEMORY = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)\)? (?:of|exceeds)")
UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T"))}

COMPUTE_SHARE = 0.5  # of the peak; published LoRA runs reach 0.41 to 0.45 in all
MEMORY_SHARE = 0.8
LINK_SHARE = 0.8
ASSUMPTIONS = (
    f"seconds: the largest of computing at {COMPUTE_SHARE:.0%} of the peak in bfloat16, memory at "
    f"{MEMORY_SHARE:.0%} of its rate, and links at {LINK_SHARE:.0%} of one link in one direction",
    "memory: forwards and backwards each read the weights once, and write and read those that they "
    "gather; temporaries are written and read once",
    "links: in rings, devices gather weights (fsdp), sum hidden states (tensor) and the adapter's "
    "gradient; loading data and the network between slices are not counted",
)

# A jitted function, its arguments as shapes with shardings, and their parts by name.
Step = tuple[Any, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Program:
    """The cost of one call of a compiled program."""

    arguments: dict[str, int]  # bytes that a device holds of each part
    peak: int  # bytes that a device needs at once
    flops: int  # of the matrix products, on all devices together
    compile_seconds: float  # wall-clock time on this machine

    @property
    def temporaries(self) -> int:
        """Bytes a device beyond the arguments: activations, gathered weights, code."""
        return self.peak - sum(self.arguments.values())


def plan(config: ConfigDict, topology: Topology) -> dict[str, Any]:
    """Compiles the training step and returns the plan, as `--json` writes it.

    It has `facts` and `assumptions` in words, and of the step the bytes a device (`arguments` by
    part, `temporaries`, `peak`, `sent`), `flops`, `seconds`, `pairs_per_second` and `verdict`.
    Scoring has no plan: it needs less than training. Raises `InputError` if the config does not fit
    the devices, or `train` refuses it.
    """
    mesh, chip = make_mesh(**config.mesh, devices=topology.devices), topology.chip
    description, source = describe_for_plan(config.model.path)
    lora = adapter_config(config.lora)
    model = model_of(config, description.config, lora)
    batch, assumed = workload(config, description.tokenizer, mesh)
    log(f"compiling the training step of {description.name} for {topology.name}")
    program = compile_step(*training_step(config, model, batch, mesh), topology.options)
    sent = sent_bytes(model, batch.scoring.tokens.size // row_shards(mesh), mesh)
    estimate = seconds(program, chip, mesh.shape, sent)
    parts = model.base, model.lora
    base, adapter = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts)
    shape = ", ".join(f"{axis}={number}" for axis, number in mesh.shape.items())
    return {
        "facts": {
            "model": f"{description.name} in {config.model.dtype}",
            "parameters": f"{base:,} of the base, {adapter:,} of LoRA "
            f"(rank {lora.rank} on {', '.join(lora.targets)})",
            "devices": f"{mesh.size} of {topology.name}, mesh {shape}",
        },
        **asdict(program),
        "temporaries": program.temporaries,
        "sent": sent,
        "seconds": estimate,
        "pairs_per_second": len(batch.rows) / max(estimate.values()),
        "verdict": verdict(program, chip.memory, config),
        "assumptions": [
            f"architecture: {source}",
            *assumed,
            f"compiler: {topology.compiler}",
            *ASSUMPTIONS,
        ],
    }


def seconds(program: Program, chip: Chip, mesh: Mapping[str, int], sent: float) -> dict[str, float]:
    """Returns the seconds of computing, memory and links. They overlap: the largest counts.

    `sent` is how many bytes a device sends.
    """
    weights = program.arguments["base"] * mesh["fsdp"]  # gathered, those of its tensor share
    gathered = 2 if mesh["fsdp"] > 1 else 1
    traffic = 2 * (weights * gathered + program.temporaries)
    devices = mesh["data"] * mesh["fsdp"] * mesh["tensor"]
    return {
        "compute": program.flops / devices / (chip.flops * COMPUTE_SHARE),
        "memory": traffic / (chip.memory_rate * MEMORY_SHARE),
        "links": sent / (chip.link_rate * LINK_SHARE),
    }


def verdict(program: Program, limit: float, config: ConfigDict) -> str:
    """Says whether a program fits into `limit` bytes and, if not, what to change first.

    The base weights are split further if they are the larger part, otherwise the batch shrinks.
    """
    need = f"{program.peak / 1e9:.1f} of {limit / 1e9:.1f} GB"
    base, temporaries = program.arguments["base"], program.temporaries
    if program.peak <= limit:
        return f"fits: {need}"
    if base > temporaries:
        return (
            f"does not fit: {need}; {base / 1e9:.1f} GB are base weights: raise mesh.fsdp "
            f"(now {config.mesh.fsdp}), with more devices if needed, or set model.quantization"
        )
    return (
        f"does not fit: {need}; {temporaries / 1e9:.1f} GB are temporaries: lower batch.size (now "
        f"{config.batch.size}) and raise optimizer.accumulation, or set model.remat=full"
    )


def text(plan: Mapping[str, Any]) -> str:
    """Lays out what `plan` returns: facts, one table, verdict, assumptions."""
    sizes = plan["arguments"] | {"temporaries": plan["temporaries"], "peak": plan["peak"]}
    rows = {f"{part}, GB a device": size / 1e9 for part, size in sizes.items()}
    rows |= {"TFLOP": plan["flops"] / 1e12, "MB sent a device": plan["sent"] / 1e6}
    rows["ms a step, at best"] = 1e3 * max(plan["seconds"].values())
    rows |= {f"  {part}": 1e3 * time for part, time in plan["seconds"].items()}
    rows["pairs a second"] = plan["pairs_per_second"]
    table = {row: f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for row, n in rows.items()}
    return "\n\n".join(
        [
            "\n".join(f"{name:<12}{fact}" for name, fact in plan["facts"].items()),
            pd.Series(table).to_string(),
            plan["verdict"],
            "\n".join(["Assumptions", *(f"- {sentence}" for sentence in plan["assumptions"])]),
        ]
    )


def model_of(config: ConfigDict, architecture: LlamaConfig, lora: LoRAConfig) -> AbstractModel:
    """Returns the shapes of the model that `train` builds from a config; its attention is XLA's."""
    dtype, fields = base_dtype(config.model.dtype), config.model
    check_known(fields.attention, ATTENTION, "model.attention")
    return abstract_model(architecture, lora, dtype, fields.remat, fields.quantization)


def training_step(
    config: ConfigDict, model: AbstractModel, batch: TrainingBatch, mesh: Mesh
) -> Step:
    """Returns what `train` runs on a batch of these shapes, on a mesh that need not exist.

    Raises `InputError` if `train` refuses a field of the config.
    """
    optimizer = make_optimizer(Optimizer(**config.optimizer))
    state = abstract_state(model.lora, optimizer, mesh)
    base = jax.tree.map(_shape, model.base, parameter_shardings(model.base, mesh))
    scoring = place_scoring(batch.scoring, mesh, _shape)
    targets = jax.tree.map(lambda leaf: _shape(leaf, replicated(mesh)), batch.targets)
    weight = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    anchor, dropout = Objective.of(config.objective).anchor, config.lora.dropout
    shardings = state_shardings(model.lora, optimizer, mesh)
    step = make_train_step(model.graph, optimizer, anchor, dropout, shardings, mesh)
    parts = {
        "base": base,
        "LoRA": state.lora,
        "optimizer": (state.optimizer, state.step, state.key),
        "batch": (scoring, targets),
    }
    return step, (state, base, scoring, targets, (weight, weight)), parts


def compile_step(
    step: Any,
    arguments: tuple[Any, ...],
    parts: dict[str, Any],
    options: dict[str, Any] | None = None,
) -> Program:
    """Compiles a `Step` with options of XLA.

    A program that does not fit the device is no error: its peak is what XLA says it needs.
    """
    traced = cast(jax.stages.Wrapped, step).trace(*arguments)
    flops = matmul_flops(traced.jaxpr.jaxpr)

    def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
        return array_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)

    held = {name: sum(map(shard_bytes, jax.tree.leaves(part))) for name, part in parts.items()}
    begin = time.perf_counter()
    try:
        compiled = traced.lower().compile(options)
    except jax.errors.JaxRuntimeError as error:
        needed = OUT_OF_MEMORY.search(str(error))
        if needed is None:
            raise
        peak = int(float(needed[1]) * UNITS[needed[2]])
    else:
        memory = compiled.memory_analysis()
        peak = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
        )
    return Program(held, peak, flops, time.perf_counter() - begin)


def _shape(leaf: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def matmul_flops(jaxpr: core.Jaxpr) -> int:
    """Returns two operations for each multiplication and addition of all matrix products.

    Raises `ValueError` for a `while` loop with products: its number of iterations is not known.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * result.size * math.prod(left.shape[axis] for axis in contracted)
            continue
        # What jit, checkpoint, scan, while and custom rules run is among their parameters.
        parts = jax.tree.leaves(list(equation.params.values()))
        parts = [each.jaxpr if isinstance(each, core.ClosedJaxpr) else each for each in parts]
        inner = sum(matmul_flops(each) for each in parts if isinstance(each, core.Jaxpr))
        if inner and name == "while":
            raise ValueError("a while loop with matrix products has no fixed number of iterations")
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def sent_bytes(model: AbstractModel, nodes: int, mesh: Mesh) -> float:
    """Returns the bytes that a device sends in a training step, in rings.

    Forwards and backwards gather the layers' weights along `fsdp`, and one the vocabulary's.
    Along `tensor`, a layer sums the hidden states of a device's `nodes` after its two last
    products, and backwards before its five first. The adapter's gradient is summed over all that
    share the rows. What else is sent is little.
    """
    data, fsdp, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    layers = model.base["layers"]
    states = nodes * tree_bytes(layers["input_norm"])  # a norm has the width of a state
    weights = 2 * tree_bytes(layers) + tree_bytes(model.base.get("head", model.base["embedding"]))
    gathered = weights / tensor * (fsdp - 1) / fsdp
    summed = 7 * states * (tensor - 1) / tensor
    summed += tree_bytes(model.lora) * (data * fsdp - 1) / (data * fsdp)
    return gathered + 2 * summed


def tree_bytes(tree: Any) -> int:
    """Returns the size of the arrays in a tree of shapes on a device."""
    return sum(array_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def array_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Returns the size of an array on a device."""
    if jnp.issubdtype(dtype, jnp.integer):  # accelerators pack two values of four bits into a byte
        return math.prod(shape) * jnp.iinfo(dtype).bits // 8
    return math.prod(shape) * dtype.itemsize
