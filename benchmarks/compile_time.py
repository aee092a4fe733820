"""Seconds to compile the training step with 2 and with 32 layers, which are scanned.

    python benchmarks/compile_time.py --output compile_time.json

The shapes are those of SmolLM2-135M except for the depth. The batch has neighbouring contexts of
the World Values Survey. Nothing is computed. The depths take turns; the ratio is that of medians.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from runpy import run_path

import numpy as np
from peers import ADAPTER, PAIRS
from workload import CONFIGS, MODEL, machine, pairs_of

from ace_jax.model.formats.hub import describe
from ace_jax.model.sharding import make_mesh
from ace_jax.planning.program import compile_step, model_of, training_step

DEPTHS = (2, 32)


def main() -> None:
    """Runs the measurement; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()

    config = run_path(str(CONFIGS / "ace.py"))["get_config"]()
    architecture = describe(MODEL).config
    batch = pairs_of("persona_first", None, 8, PAIRS).batches["context"]
    mesh = make_mesh(1, 1, 1)

    def compiled(layers: int) -> float:
        model = model_of(config, replace(architecture, num_layers=layers), ADAPTER)
        return compile_step(*training_step(config, model, batch, mesh)).compile_seconds

    seconds: dict[int, list[float]] = {layers: [] for layers in DEPTHS}
    for _ in range(options.repetitions):
        for layers in DEPTHS:
            seconds[layers].append(compiled(layers))
    medians = {layers: float(np.median(laps)) for layers, laps in seconds.items()}
    result = {
        "benchmark": "compile_time",
        "machine": machine(),
        "seconds": seconds,
        "ratio": medians[DEPTHS[1]] / medians[DEPTHS[0]],
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
