"""A plan: the step compiled, its estimated time, whether it fits, and all of it as text."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import pandas as pd
from ml_collections import ConfigDict

from ace_jax.model.formats.peft import adapter_config
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.devices import HOST, TPUS, Chip, Topology
from ace_jax.planning.program import (
    Program,
    compile_step,
    model_of,
    sent_bytes,
    training_step,
)
from ace_jax.planning.workload import describe_for_plan, workload
from ace_jax.runtime.progress import log

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


def plan(config: ConfigDict, topology: Topology) -> dict[str, Any]:
    """Compiles the training step and returns the plan, as `--json` writes it.

    It has `facts` and `assumptions` in words, and of the step the bytes a device (`arguments` by
    part, `temporaries`, `peak`, `sent`), `flops`, `seconds`, `pairs_per_second` and `verdict`.
    Scoring has no plan: it needs less than training. Raises `InputError` if the config does not fit
    the devices, or `train` refuses it.
    """
    mesh, chip = make_mesh(**config.mesh, devices=topology.devices()), topology.chip
    description, source = describe_for_plan(config.model.path)
    lora = adapter_config(config.lora)
    model = model_of(config, description.config, lora)
    batch, assumed = workload(config, description.tokenizer, row_shards(mesh))
    log(f"compiling the training step of {description.name} for {topology.name}")
    program = compile_step(*training_step(config, model, batch, mesh))
    sent = sent_bytes(model, batch.scoring.tokens.size // row_shards(mesh), mesh)
    estimate = seconds(program, chip, mesh.shape, sent) if chip else None
    parts = model.base, model.lora
    base, adapter = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts)
    shape = ", ".join(f"{axis}={number}" for axis, number in mesh.shape.items())
    return {
        "facts": {
            "model": f"{description.name} in {config.model.dtype}",
            "parameters": f"{base:,} of the base, {adapter:,} of LoRA "
            f"(rank {lora.rank} on {', '.join(lora.targets)})",
            "devices": f"{topology.count} of {topology.name}, mesh {shape}",
        },
        **asdict(program),
        "temporaries": program.temporaries,
        "sent": sent,
        "seconds": estimate,
        "pairs_per_second": estimate and len(batch.rows) / max(estimate.values()),
        "verdict": verdict(program, chip.memory, config) if chip else "no limit is known",
        "assumptions": [
            f"architecture: {source}",
            *assumed,
            f"compiler: {_compiler(topology)}",
            *(ASSUMPTIONS if chip else ()),
        ],
    }


def _compiler(topology: Topology) -> str:
    if topology.kind in TPUS:
        return "XLA for TPU at its least effort; in a run it may order operations better"
    stands_in = "" if topology.kind == HOST else f" stands in for that of {topology.name}"
    return (
        f"XLA for this machine's CPU{stands_in}; it computes bfloat16 in float32, so temporaries "
        "and what is sent come out too large"
    )


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
    if times := plan["seconds"]:
        rows["ms a step, at best"] = 1e3 * max(times.values())
        rows |= {f"  {part}": 1e3 * time for part, time in times.items()}
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
