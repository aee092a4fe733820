"""One GPU at the size of a real model: the engine against PyTorch on the same card.

    python benchmarks/gpu.py --shape 8b --output gpu.json
    python benchmarks/gpu.py --shape tiny --output tiny.json    # the same way, anywhere

Needs no network: weights are random, the questions are the World Values Survey's, and words stand
in for the model's tokens. Losses and gradients are compared first, in float32 on two layers and in
the model's own dtype on all. Then these take turns, each a full step (loss, gradient, AdamW):

    released   transformers and peft as in the authors' code, on 8 pairs (benchmarks/peers.py)
    best       PyTorch at its best on the same batch
    pair       ace_jax on the same batch
    context    ace_jax on all pairs of neighbouring questions (batch.unit = context)

--attention pallas times the kernel of model/tree_attention.py; run it once with each.
Reported are pairs and distinct tokens a second, TFLOP/s of matrix products, both as a share of what
the card does in a large one (its floor in seconds is that), MFU as 4N a distinct token over the
maker's peak, and peak memory. Of what the package needs, a machine of its own jax has to be brought
absl-py, gguf, grain, ml-collections, pycountry and qwix, as wheels.
"""

import os

# Both frameworks share the card, so neither may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse
import copy
import json
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import ml_dtypes
import numpy as np
import torch
from peers import ADAPTER, PAIRS, engine, peer, released, step_flops, with_adapter
from transformers import LlamaConfig as TorchConfig
from transformers import LlamaForCausalLM
from workload import Pairs, alternate, machine, matmul_rate, pairs_of, ratios

from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.hf import Index
from ace_jax.model.tree_attention import ATTENTION
from ace_jax.planning.devices import GPUS
from ace_jax.planning.workload import MODELS

NEIGHBOURS = 8
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


class TorchSource:
    """The weights of a PyTorch model, so that both sides have the same."""

    def __init__(self, model: torch.nn.Module):
        self._tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def names(self) -> Collection[str]:
        """Returns every tensor's name."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return tuple(self._tensors[name].shape)

    def read(self, name: str, index: Index) -> np.ndarray:
        """Returns a slice of a tensor."""
        part = self._tensors[name][index].cpu().contiguous()
        if part.dtype == torch.bfloat16:
            return part.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return part.numpy()


def main() -> None:
    """Runs the comparison; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shape", choices=("8b", "tiny"), required=True)
    arguments.add_argument("--repetitions", type=int, default=5)
    arguments.add_argument("--attention", choices=ATTENTION, default="xla")
    arguments.add_argument("--output", type=Path, required=True)
    options = arguments.parse_args()

    known = MODELS / "meta-llama" / "Llama-3.1-8B-Instruct.json"
    shape = TINY if options.shape == "tiny" else json.loads(known.read_text())
    pairs = pairs_of("persona_first", None, NEIGHBOURS, PAIRS)
    equal = {
        "float32": compare(shape | {"num_hidden_layers": 2}, "float32", pairs, options.attention)
    }
    print(f"equal in float32: {equal['float32']}", flush=True)

    runs, equal["bfloat16"], flops, config = sides(shape, "bfloat16", pairs, options.attention)
    seconds = alternate(runs, options.repetitions)
    counts = {name: len(pairs.group) if name == "context" else PAIRS for name in runs}
    rates = {name: [counts[name] / lap for lap in laps] for name, laps in seconds.items()}
    rate = matmul_rate(8192 if options.shape == "8b" else 512, "bfloat16")
    result = {
        "benchmark": "gpu",
        "shape": options.shape,
        "attention": options.attention,
        "machine": machine() | {"device": jax.devices()[0].device_kind},
        "matmul_tflops": rate / 1e12,
        "equal": equal,
        "pairs": counts,
        **pairs.sizes(),
        "pairs_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "repetitions": rates,
        "ratios": {
            f"{mine} / {theirs}": ratios(rates, mine, theirs)
            for mine in ("pair", "context")
            for theirs in ("released", "best")
        },
        "engine": {
            name: figures(config, pairs, name, flops[name], float(np.median(seconds[name])), rate)
            for name in flops
        },
        "peak_memory_bytes": peak_memory(),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("ratios", "engine")}, indent=2))


def compare(shape: dict, dtype: str, pairs: Pairs, attention: str) -> dict[str, dict[str, float]]:
    """Returns losses and gradient norms of all sides; stops where they differ."""
    with jax.default_matmul_precision("highest"):
        return sides(shape, dtype, pairs, attention)[1]


def sides(
    shape: dict, dtype: str, pairs: Pairs, attention: str
) -> tuple[dict, dict, dict, LlamaConfig]:
    """Returns all sides' steps, what they gave first, our operations, and the architecture.

    Stops where the first losses or the norms of the first gradients differ.
    """
    torch.manual_seed(0)
    config = LlamaConfig.from_hf(shape)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        base = LlamaForCausalLM(TorchConfig(**shape)).to(getattr(torch, dtype))
    source = TorchSource(base)
    with TemporaryDirectory() as directory:
        best = with_adapter(copy.deepcopy(base), Path(directory))
        ours = engine(config, source, Path(directory), dtype, attention)
        authors = released(with_adapter(base, Path(directory)))
    work = (pairs.examples, pairs.prompts, pairs.few)
    runs = {
        "released": peer(authors, *work, last_only=False, autocast=False),
        "best": peer(best.train(), *work, last_only=True, autocast=False),
        "pair": lambda: ours(pairs.batches["pair"]),
        "context": lambda: ours(pairs.batches["context"]),
    }
    steps = {name: runs[name]() for name in ("released", "best", "pair")}
    for name in ("best", "pair"):
        tolerance = 1e-4 if dtype == "float32" else 5e-2
        np.testing.assert_allclose(steps[name], steps["released"], rtol=tolerance)
    flops = {name: step_flops(config, ADAPTER, batch) for name, batch in pairs.batches.items()}
    return runs, {name: step._asdict() for name, step in steps.items()}, flops, config


def figures(
    config: LlamaConfig, pairs: Pairs, name: str, flops: int, seconds: float, rate: float
) -> dict[str, float | None]:
    """Returns what a step of ours did in `seconds`, beside what the machine could have."""
    width, heads = config.hidden_size, config.head_dim
    layer = 2 * width * heads * (config.num_heads + config.num_kv_heads)
    layer += 3 * width * config.intermediate_size
    nodes = pairs.batches[name].scoring.nodes
    kind = jax.devices()[0].device_kind.lower()
    peak = next((gpu.flops for name, gpu in GPUS.items() if name in kind), None)
    return {
        "seconds": seconds,
        "floor_seconds": flops / rate,
        "nodes_per_second": nodes / seconds,
        "tflops": flops / seconds / 1e12,
        "share_of_matmul_rate": flops / seconds / rate,
        "mfu": 4 * layer * config.num_layers * nodes / seconds / peak if peak else None,
    }


def peak_memory() -> dict[str, int | None]:
    """Returns the most bytes that either framework has held of the card."""
    if not torch.cuda.is_available():
        return {"ace_jax": None, "pytorch": None}
    stats = jax.devices()[0].memory_stats()
    return {"ace_jax": stats["peak_bytes_in_use"], "pytorch": torch.cuda.max_memory_allocated()}


if __name__ == "__main__":
    main()
