"""Says what training and scoring would take on devices that need not be here.

    python -m ace_jax.plan --config configs/ace.py --topology v5e:4x4

Compiles the steps that `train` and `evaluate` run from shapes alone, for a TPU slice (needs
`ace_jax[tpu]`, but no TPU) or for this machine's CPU: `--topology host:8`. No compiler for GPUs
works without one: `--topology h100:2` compiles for the CPU and sets that against a GPU's figures.
Prints memory, operations, collectives and an estimate of the time, with all that it assumes.
"""

import json
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.errors import InputError, check_positive
from ace_jax.model.formats.peft import adapter_config
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.chips import HOST, Topology
from ace_jax.planning.fit import verdict
from ace_jax.planning.known import describe_for_plan
from ace_jax.planning.program import (
    Program,
    bytes_of,
    model_of,
    parameters_of,
    scoring_program,
    train_program,
)
from ace_jax.planning.report import Plan, Planned
from ace_jax.planning.roofline import ASSUMPTIONS, estimate
from ace_jax.planning.workload import workload
from ace_jax.runtime.progress import log as say

PASSES = {"train": 2, "score": 1}  # through the weights


def main(config: ConfigDict, topology_name: str, cells: int, output: Path | None) -> None:
    """Runs the whole job; see the module's docstring."""
    jax.config.update("jax_platforms", "cpu")
    # At its usual effort XLA for TPU takes minutes, or was not done after 18 (docs/scaling.md).
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    check_positive("--scoring_cells", cells)
    if output and not output.parent.is_dir():
        raise InputError(f"--json {output}: {output.parent} is no directory; make it first")
    made = plan(config, Topology.of(topology_name), cells)
    print(made.text())
    if output:
        output.write_text(json.dumps(made.json(), indent=2) + "\n")
        say(f"plan: {output}")


def plan(config: ConfigDict, topology: Topology, cells: int) -> Plan:
    """Compiles both steps of a config for some devices and says what they take."""
    mesh = make_mesh(**config.mesh, devices=topology.devices())
    description, source = describe_for_plan(config.model.path)
    lora = adapter_config(config.lora)
    model = model_of(config, description.config, lora)
    work = workload(config, description.tokenizer, row_shards(mesh), cells)
    facts = {
        "model": f"{description.name} in {config.model.dtype}",
        "parameters": f"{parameters_of(model.base):,} of the base, "
        f"{parameters_of(model.lora):,} of LoRA (rank {lora.rank} on {', '.join(lora.targets)})",
        "devices": f"{topology.count} of {topology.name}, mesh "
        + ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items()),
    }

    say(f"compiling the training step of {description.name} for {topology.name}")
    batch = work.training
    train = train_program(config, model, lora.dropout, batch.scoring, batch.targets, mesh)
    say(f"compiling the scoring step ({train.compile_seconds:.0f} s for the other)")
    score = scoring_program(model, work.scoring, mesh)

    def planned(name: str, program: Program, done: tuple[str, int]) -> Planned:
        if topology.chip is None:
            return Planned(name, program, None, done, None)
        base = bytes_of(model.base)
        weights = base // mesh.shape["tensor"]
        chip, gathered = topology.chip, mesh.shape["fsdp"] > 1
        return Planned(
            name,
            program,
            estimate(program, chip, topology.count, weights, gathered, PASSES[name]),
            done,
            verdict(program, chip.memory, config, dict(mesh.shape), base),
        )

    return Plan(
        facts,
        topology.count,
        (
            planned("train", train, ("pairs", work.pairs)),
            planned("score", score, ("cells", work.cells)),
        ),
        (
            f"architecture: {source}",
            *work.assumptions,
            *_of_compiler(topology),
            *(ASSUMPTIONS if topology.chip else ()),
        ),
    )


def _of_compiler(topology: Topology) -> tuple[str, ...]:
    if not topology.compiled_here:
        return (
            "compiler: XLA for TPU at its least effort, on devices that are not here; a run's own "
            "compilation takes longer and may order operations better",
        )
    if topology.name.startswith(HOST):
        return ("compiler: XLA for this machine's CPU; it computes in float32 what is bfloat16",)
    return (
        f"compiler: XLA for this machine's CPU stands in for that of {topology.name}: it computes "
        "in float32 what is bfloat16, so temporaries and what is sent come out too large",
    )


if __name__ == "__main__":
    topology = flags.DEFINE_string(
        "topology", None, "v5e:4x4 (also v5p, v6e), h100:2 (a100, h200) or host:8", required=True
    )
    scoring_cells = flags.DEFINE_integer(
        "scoring_cells", 80, "cells that evaluation takes at a time: its batch.size"
    )
    output = flags.DEFINE_string("json", None, "also writes the plan to this file")
    command.run_on_config(
        lambda config: main(
            config,
            str(topology.value),
            int(scoring_cells.value),
            Path(output.value) if output.value else None,
        ),
        topology,
        scoring_cells,
        output,
    )
