"""How many pairs a second the host lays out for the device, against what an 8B model can take.

    python benchmarks/host_rate.py --output host_rate.json

The input pipeline of `train` as it is (shuffle, tries, rows, edges, targets; one thread beside the
device's) runs by itself over the World Values Survey's questions, in batches of 16 contexts, eight
neighbours together. What the device can take is what its peak allows for the matrix products of
such a batch at the 8B shape, and so more than any device has reached.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
from peers import ADAPTER, step_flops
from workload import machine, shapes, style, survey

from ace_jax.model.architecture import LlamaConfig
from ace_jax.planning.devices import GPUS
from ace_jax.planning.workload import MODELS, stand_in_tokenizer
from ace_jax.prompts.encode import encode
from ace_jax.recipe import ROW_LENGTHS, Batch
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.training.data import Collate, of_dataset
from ace_jax.training.units import Units, training_batches

CONTEXTS, NEIGHBOURS, COUNTED = 16, 8, 60


def main() -> None:
    """Runs the measurement; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--template", default="persona_first")
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()

    dataset = survey(granularities=(4,))
    table = toggle_pairs(dataset.cells, dataset.attributes, min_n=10)
    examples = of_dataset(dataset, table, style(options.template), "none")
    prompts = encode(examples.prompts, stand_in_tokenizer(examples.prompts), chat=False)
    units = Units.cut(examples, Batch("context", CONTEXTS, NEIGHBOURS, ROW_LENGTHS))
    collate = Collate(examples, prompts, shapes(max(map(len, examples.answers))), units.max_pairs)
    batches = training_batches(units, collate, epochs=1000, shuffle=True, seed=0)
    batch = next(batches)

    seconds, pairs = [], []
    start = time.perf_counter()
    for laid_out in islice(batches, COUNTED):
        now = time.perf_counter()
        seconds.append(now - start)
        pairs.append(len(laid_out.rows))
        start = now
    rate = sum(pairs) / sum(seconds)

    known = MODELS / "meta-llama" / "Llama-3.1-8B-Instruct.json"
    flops = step_flops(LlamaConfig.from_hf(json.loads(known.read_text())), ADAPTER, batch)
    peaks = {name: len(batch.rows) * gpu.flops / flops for name, gpu in GPUS.items()}
    result = {
        "benchmark": "host_rate",
        "template": options.template,
        "machine": machine(),
        "prompt_tokens": float(np.mean([len(prompt.tokens) for prompt in prompts])),
        "pairs": len(batch.rows),
        "nodes": batch.scoring.nodes,
        "pairs_per_second": rate,
        "milliseconds_a_batch": {
            "median": 1e3 * float(np.median(seconds)),
            "greatest": 1e3 * max(seconds),
        },
        "device_pairs_per_second_at_peak": peaks,
        "times_the_device": {name: rate / peak for name, peak in peaks.items()},
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
