"""Says what training and scoring would take on devices that this machine does not have.

    python -m ace_jax.plan --config configs/ace.py --topology v5e:4x4

Compiles the steps of `train` and `evaluate` from shapes alone. A TPU slice needs `ace_jax[tpu]` but
no TPU; `host:8` is this machine's CPU. Compiling for a GPU needs a GPU, so `h100:2` compiles for
the CPU and compares with a GPU's figures. Prints memory, operations, bytes sent and the time.
"""

from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.errors import InputError, check_positive
from ace_jax.files import write_json
from ace_jax.model.formats.peft import adapter_config
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.devices import HOST, TPUS, Topology
from ace_jax.planning.program import (
    Program,
    compile_step,
    model_of,
    scoring_step,
    sent_bytes,
    training_step,
)
from ace_jax.planning.report import ASSUMPTIONS, seconds, text, verdict
from ace_jax.planning.workload import describe_for_plan, workload
from ace_jax.prompts.batches import Scoring
from ace_jax.runtime.progress import log


def main(config: ConfigDict, topology_name: str, cells: int, output: Path | None) -> None:
    """Prints the plan and writes it to `output`; see the module's docstring."""
    jax.config.update("jax_platforms", "cpu")
    # At its usual effort XLA for TPU takes minutes, or was not done after 18 (docs/scaling.md).
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    check_positive("--scoring_cells", cells)
    if output and not output.parent.is_dir():
        raise InputError(f"--json {output}: {output.parent} is not a directory; make it first")
    result = plan(config, Topology.parse(topology_name), cells)
    print(text(result))
    if output:
        write_json(output, result)
        log(f"plan: {output}")


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
            "flops_per_device": program.flops / topology.count,
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


def cli() -> None:
    """Runs the command line."""
    topology = flags.DEFINE_string(
        "topology", None, "v5e:4x4 (also v5p, v6e), h100:2 (a100, h200) or host:8", required=True
    )
    cells = flags.DEFINE_integer(
        "scoring_cells", 80, "cells that evaluation scores at a time (its batch.size)"
    )
    output = flags.DEFINE_string("json", None, "file that also gets the plan, as JSON")

    def run(config: ConfigDict) -> None:
        file = Path(output.value) if output.value else None
        main(config, str(topology.value), int(cells.value), file)

    command.run_with_config(run, topology, cells, output)


if __name__ == "__main__":
    cli()
