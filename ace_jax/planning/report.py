"""A plan: both steps compiled, their estimated time, whether they fit, and all of it as text."""

from collections.abc import Mapping
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
    scoring_step,
    sent_bytes,
    training_step,
)
from ace_jax.planning.workload import describe_for_plan, workload
from ace_jax.prompts.batches import Scoring
from ace_jax.runtime.progress import log

COMPUTE_SHARE = 0.5  # of the peak; published LoRA runs reach 0.41 to 0.45 in all
MEMORY_SHARE = 0.8
LINK_SHARE = 0.8
ASSUMPTIONS = (
    f"seconds: the largest of computing at {COMPUTE_SHARE:.0%} of the peak in bfloat16, memory at "
    f"{MEMORY_SHARE:.0%} of its rate, and links at {LINK_SHARE:.0%} of one link in one direction",
    "memory: a pass reads the weights once, and writes and reads those that it gathers; "
    "temporaries are written and read once; scoring is one pass, training two",
    "links: in rings, devices gather weights (fsdp), sum hidden states (tensor) and the adapter's "
    "gradient; loading data and the network between slices are not counted",
)


def plan(config: ConfigDict, topology: Topology, cells: int) -> dict[str, Any]:
    """Compiles both steps and returns the plan, as `--json` writes it.

    It has `facts` and `assumptions` in words, and `steps`: for `train` and `score` the bytes a
    device (`arguments`, `temporaries`, `peak`, `sent`), `flops`, `seconds` and `verdict`.
    Evaluation scores so many `cells` at a time. Raises `InputError` if the config does not fit the
    devices, or `train` refuses it.
    """
    mesh = make_mesh(**config.mesh, devices=topology.devices())
    description, source = describe_for_plan(config.model.path)
    lora = adapter_config(config.lora)
    model = model_of(config, description.config, lora)
    work = workload(config, description.tokenizer, row_shards(mesh), cells)

    log(f"compiling the training step of {description.name} for {topology.name}")
    train = compile_step(*training_step(config, model, work.training, mesh))
    log(f"compiling the scoring step; the training step took {train.compile_seconds:.0f} s")
    score = compile_step(*scoring_step(model, work.scoring, mesh))

    def step(program: Program, batch: Scoring, passes: int, **counted: Any) -> dict[str, Any]:
        chip, nodes = topology.chip, batch.tokens.size // row_shards(mesh)
        sent = sent_bytes(model, nodes, mesh, passes)
        estimate = seconds(program, chip, mesh.shape, passes, sent) if chip else None
        return {
            "arguments": program.arguments,
            "temporaries": program.temporaries,
            "peak": program.peak,
            "flops": program.flops,
            "sent": sent,
            "seconds": estimate,
            **counted,
            "per_second": counted["count"] / max(estimate.values()) if estimate else None,
            "verdict": verdict(program, chip.memory, config) if chip else "no limit is known",
            "compile_seconds": program.compile_seconds,
        }

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
        "steps": {
            "train": step(
                train, work.training.scoring, 2, unit="pairs", count=len(work.training.rows)
            ),
            "score": step(score, work.scoring, 1, unit="cells", count=cells),
        },
        "assumptions": [
            f"architecture: {source}",
            *work.assumptions,
            f"compiler: {_compiler(topology)}",
            *(ASSUMPTIONS if topology.chip else ()),
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


def seconds(
    program: Program, chip: Chip, mesh: Mapping[str, int], passes: int, sent: float
) -> dict[str, float]:
    """Returns the seconds of computing, memory and links. They overlap: the largest counts.

    `passes` is how often a step goes through the weights, `sent` the bytes that a device sends.
    """
    weights = program.arguments["base"] * mesh["fsdp"]  # gathered, those of its tensor share
    gathered = 2 if mesh["fsdp"] > 1 else 1
    traffic = passes * weights * gathered + 2 * program.temporaries
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
    """Lays out what `plan` returns: facts, one table, verdicts, assumptions."""
    columns = {f"{name} step": pd.Series(_column(step)) for name, step in plan["steps"].items()}
    table = pd.concat(columns, axis=1, sort=False).fillna("-")
    return "\n\n".join(
        [
            "\n".join(f"{name:<12}{fact}" for name, fact in plan["facts"].items()),
            table.to_string(),
            "\n".join(f"{name}: {step['verdict']}" for name, step in plan["steps"].items()),
            "\n".join(["Assumptions", *(f"- {sentence}" for sentence in plan["assumptions"])]),
        ]
    )


def _column(step: Mapping[str, Any]) -> dict[str, str]:
    sizes = step["arguments"] | {"temporaries": step["temporaries"], "peak": step["peak"]}
    column = {
        **{f"{part}, GB a device": _short(size / 1e9) for part, size in sizes.items()},
        "TFLOP": _short(step["flops"] / 1e12),
        "MB sent a device": _short(step["sent"] / 1e6),
    }
    if step["seconds"]:
        column["ms a step, at best"] = _short(1e3 * max(step["seconds"].values()))
        for part, time in step["seconds"].items():
            column[f"  {part}"] = _short(1e3 * time)
        column[f"{step['unit']} a second"] = _short(step["per_second"])
    return column


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
