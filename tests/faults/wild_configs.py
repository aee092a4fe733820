"""Trains with extreme numbers in the config: each run is refused in one line or ends finite.

    python -m tests.faults.wild_configs --configs 300 --seed 0

A tiny model, one process, two steps a run unless that is what is drawn. Each config is the
quickstart's with one to three fields drawn by the seed and set to an extreme of their type: 0,
negative, beyond 32 and 64 bits, beyond float32, NaN, infinite. Prints a table and every config that
did neither (with --verbose every one); ends with status 1 if there is one. A run may take 60 s of a
processor's time, and 16 GiB.
"""

import argparse
import math
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own writers
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from ace_jax.errors import InputError
from ace_jax.runtime.claim import Claim
from ace_jax.training import run

ROOT = Path(__file__).parents[2]
SECONDS, MEMORY = 60, 16 << 30
REFUSED, FINITE = "refused", "finite"
INTEGERS = (0, -1, 1, 2, 3, 1000, 2**31 - 1, 2**31, 2**32, 2**63, 10**30)
FLOATS = (0.0, -1.0, 1e-60, 1e-30, 1e-8, 0.5, 1.0, 2.0, 1e8, 1e30, 1e39, 1e300, math.nan, math.inf)
FLOATS = (*FLOATS, -math.inf)
OPTIONAL = {
    **dict.fromkeys(("max_steps", "data.granularity", "validation.every_steps"), INTEGERS),
    **{"validation.patience": INTEGERS, "optimizer.grad_clip": FLOATS},
}
SMALL = {
    "data.questions": ("natcity", "abany"),
    "data.holdout": "none",
    "data.min_n": 140,
    "lora.rank": 2,
    "lora.targets": ("q_proj",),
    "objective.stages": ((1.0, 0.0, 1), (0.0, 1.0, 1)),
    "batch.unit": "pair",
    "batch.size": 4,
    "batch.row_lengths": (1024,),
    "mesh.data": 1,
    "max_steps": 2,
}


def base_config(model: Path) -> ConfigDict:
    """Returns the config that every run changes."""
    config = runpy.run_path(str(ROOT / "configs" / "quickstart.py"))["get_config"]()
    config.update_from_flattened_dict(SMALL | {"model.path": str(model)})
    return config


def extremes(config: ConfigDict, draw: Random) -> dict[str, Any]:
    """Returns the fields that may be set, each with an extreme of its type."""
    found = {name: draw.choice(values) for name, values in OPTIONAL.items()}
    for name, value in _flat(config.to_dict()):
        if type(value) in (int, float):
            found[name] = draw.choice(INTEGERS if type(value) is int else FLOATS)
    weights = draw.choice(FLOATS), draw.choice(FLOATS), draw.choice(INTEGERS)
    lengths = draw.choice(((), (0,), (-32,), (33,), (32,), (2048, 1024), (2**31,)))
    return found | {"objective.stages": (weights,), "batch.row_lengths": lengths}


def _flat(section: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def campaign(
    configs: int, seed: int, model: Path, directory: Path
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields the outcome of each config, its message, and what was set."""
    draw = Random(seed)
    for number in range(configs):
        wild = extremes(base_config(model), draw)
        chosen = {name: wild[name] for name in draw.sample(sorted(wild), draw.randint(1, 3))}
        config = base_config(model)
        config.update_from_flattened_dict(chosen)
        yield *_outcome(config, directory / str(number)), chosen


def _outcome(config: ConfigDict, workdir: Path) -> tuple[str, str]:
    try:
        with _in_time(), Claim(workdir) as claim, np.errstate(all="ignore"):
            adapter = run.train(config, claim).adapter
        weights = load_file(adapter / "adapter_model.safetensors").values()
        finite = all(np.isfinite(weight).all() for weight in weights)
        return (FINITE, "") if finite else ("not finite", "")
    except InputError as error:
        if "\n" in str(error) or (workdir / "adapter").exists():
            return "not one line, or an adapter is left", str(error)
        return REFUSED, str(error)
    except Exception as error:  # what the campaign is looking for
        return type(error).__name__, " ".join(str(error).split())[:300]


@contextmanager
def _in_time() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Runs the campaign; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print every config")
    args = parser.parse_args()
    from faults.seed_files import save_model

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        model = save_model(Path(directory, "model"))
        for kind, message, chosen in campaign(args.configs, args.seed, model, Path(directory)):
            counts[kind] += 1
            if args.verbose or kind not in (REFUSED, FINITE):
                print(kind, chosen, message, flush=True)
    print(dict(counts), f"{time.monotonic() - started:.0f} s")
    sys.exit(0 if set(counts) <= {REFUSED, FINITE} else 1)


if __name__ == "__main__":
    main()
