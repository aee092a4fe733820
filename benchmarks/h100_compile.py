"""The training step of Llama 3.1 8B compiled for one H100, on a machine that has none.

    python benchmarks/h100_compile.py --output h100_compile.json

Needs `ace_jax[plan-gpu]`. The batch
is the largest that `plan` finds for contexts of 8 neighbouring questions. Reported of both ways of
attention: memory, and operations that scatter into large arrays or copy them, in the loops over
layers and around them. No product is tuned, since that needs a device: a run may choose others.
"""

import argparse
import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from runpy import run_path
from typing import Any

import jax

from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.peft import adapter_config
from ace_jax.model.llama import abstract_model
from ace_jax.model.sharding import make_mesh
from ace_jax.planning.devices import UNTUNED, Topology
from ace_jax.planning.program import training_step
from ace_jax.planning.workload import describe_for_plan, workload

CONFIGS = Path(__file__).parents[1] / "configs"
LEAST = 4 << 20  # elements of an array that counts
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
OPERATION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) [\w\-]+\(")
ARRAY = re.compile(r"\b([a-z]+\d+\[([\d,]+)\])")
MOVES = re.compile(r"scatter|dynamic_slice|wrapped_slice|copy")


def main() -> None:
    """Compiles; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()
    jax.config.update("jax_platforms", "cpu")
    devices = Topology.of("h100:1").devices
    steps = {attention: compiled(attention, devices) for attention in ("xla", "pallas")}
    result = {
        "benchmark": "h100_compile",
        "date": date.today().isoformat(),
        "jax": jax.__version__,
        "steps": steps,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def compiled(attention: str, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Returns what the training step costs with a way of attention."""
    config = run_path(str(CONFIGS / "ace.py"))["get_config"]()
    config.batch.unit, config.batch.size, config.batch.neighbours = "context", 8, 8
    architecture = describe_for_plan(config.model.path)[0].config
    mesh = make_mesh(1, 1, 1, devices)
    batch = workload(config, None, mesh)[0]
    adapter, dtype = adapter_config(config.lora), base_dtype(config.model.dtype)
    model = abstract_model(architecture, adapter, dtype, attention=attention)
    step, shapes, _ = training_step(config, model, batch, mesh)
    begin = time.perf_counter()
    program = step.trace(*shapes).lower(lowering_platforms=("cuda",)).compile(UNTUNED)
    seconds = time.perf_counter() - begin
    memory = program.memory_analysis()
    return {
        "nodes": batch.scoring.tokens.size,
        "compile_seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "moves": moves(program.as_text()),
    }


def moves(program: str) -> dict[str, dict[str, int]]:
    """Returns how many large arrays a compiled program scatters into, slices out or copies."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", program))
    found: dict[str, Counter[str]] = {"in loops over layers": Counter(), "around them": Counter()}
    place = None
    for line in program.splitlines():
        if computation := COMPUTATION.match(line):
            entry, name = computation.groups()
            place = "around them" if entry else "in loops over layers" if name in bodies else None
        operation = OPERATION.match(line)
        if place and operation and (kind := MOVES.search(operation[1])):
            for array, sizes in ARRAY.findall(operation[2]):
                if math.prod(map(int, sizes.split(","))) >= LEAST:
                    found[place][f"{kind[0]} {array}"] += 1
    return {place: dict(sorted(counts.items())) for place, counts in found.items()}


if __name__ == "__main__":
    main()
