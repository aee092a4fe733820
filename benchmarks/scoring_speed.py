"""Scored cells a second, against PyTorch in the same run.

    python benchmarks/scoring_speed.py --template persona_first --output scoring.json

All 80 personas of a country answer all questions. ace_jax takes the cells in the order of their
prompts, so that neighbours share a trie; PyTorch takes batches of 32 of the same cells, left
padded, in float32, with logits at the last position only. The answers are compared first.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from peers import left_padded
from workload import (
    MODEL,
    alternate,
    machine,
    matmul_rate,
    ratios,
    shapes,
    style,
    survey,
    torch_model,
)

from ace_jax.likelihood import option_log_likelihoods, option_log_probabilities
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.hf import load_base
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.llama import abstract_model
from ace_jax.model.sharding import make_mesh, place_scoring
from ace_jax.planning.program import matmul_flops
from ace_jax.prompts.batches import Scoring, scoring
from ace_jax.prompts.encode import Prompt, encode, render_cells

PEER_CELLS = 32  # a batch of PyTorch's


def main() -> None:
    """Runs the comparison; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--template", default="persona_first")
    arguments.add_argument("--cells", type=int, default=160, help="cells that share a trie")
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()

    checkpoint = open_checkpoint(MODEL)
    dataset = survey(granularities=(1, 2, 3, 4))
    texts = render_cells(dataset.cells, dataset, style(options.template))
    prompts = sorted(encode(texts, checkpoint.tokenizer, chat=False), key=lambda p: p.tokens)
    chosen = typical(prompts, options.cells)
    most = int(dataset.questions["option_codes"].map(len).max())
    batch = scoring(chosen, shapes(most), options.cells)
    mesh = make_mesh(1, 1, 1)
    model = abstract_model(checkpoint.config, None, base_dtype("float32"))
    base = load_base(model.base, checkpoint.source, mesh)
    peer = torch_model(checkpoint)
    few = [chosen[n] for n in np.random.default_rng(0).permutation(options.cells)[:PEER_CELLS]]

    @jax.jit
    def answer(base: nnx.State, batch: Scoring) -> jax.Array:
        log_likelihoods = option_log_likelihoods(nnx.merge(model.graph, model.lora, base), batch)
        return jnp.exp(option_log_probabilities(log_likelihoods, batch.option_mask))

    def ours() -> np.ndarray:
        return np.asarray(answer(base, place_scoring(batch, mesh)))

    def theirs() -> list[np.ndarray]:
        with torch.inference_mode():
            padded = left_padded([prompt.tokens for prompt in few], peer.device)
            logits = peer(**padded, logits_to_keep=1, use_cache=False).logits[:, -1]
        labels = [[token for (token,) in prompt.options] for prompt in few]
        return [row[label].softmax(0).numpy() for row, label in zip(logits, labels, strict=True)]

    found = dict(zip((prompt.tokens for prompt in chosen), ours(), strict=True))
    for prompt, wanted in zip(few, theirs(), strict=True):
        np.testing.assert_allclose(found[prompt.tokens][: len(wanted)], wanted, rtol=0, atol=1e-4)

    seconds = alternate({"ace_jax": ours, "pytorch": theirs}, options.repetitions)
    counts = {"ace_jax": options.cells, "pytorch": PEER_CELLS}
    rates = {name: [counts[name] / lap for lap in laps] for name, laps in seconds.items()}
    rate = matmul_rate(2048, "float32")
    flops = matmul_flops(jax.make_jaxpr(answer)(base, batch).jaxpr)
    result = {
        "benchmark": "scoring_speed",
        "model": checkpoint.name,
        "template": options.template,
        "machine": machine(),
        "prompt_tokens": float(np.mean([len(prompt.tokens) for prompt in chosen])),
        "cells": counts,
        "nodes": batch.nodes,
        "padding": 1 - batch.nodes / batch.tokens.size,
        "cells_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "repetitions": rates,
        "matmul_gflops": rate / 1e9,
        "floor_cells_per_second": options.cells * rate / flops,
        "ratio": ratios(rates, "ace_jax", "pytorch"),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["ratio"], indent=2))


def typical(prompts: list[Prompt], size: int) -> list[Prompt]:
    """Returns the run of `size` prompts whose mean length is nearest to that of all."""
    lengths = np.array([len(prompt.tokens) for prompt in prompts])
    starts = range(0, len(prompts) - size + 1, size)
    means = np.array([lengths[start : start + size].mean() for start in starts])
    start = starts[int(np.argmin(np.abs(means - lengths.mean())))]
    return prompts[start : start + size]


if __name__ == "__main__":
    main()
