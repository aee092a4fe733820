"""Checks a machine, or all of a job's machines together, before the job takes them.

    python launch/preflight.py --workdir runs/ace [--distributed [--coordinator HOST:PORT
        --num-processes N --process-id I]]

Prints versions, devices, an all-reduce with its bandwidth, free disk, write access and the clocks'
disagreement. Ends with status 0, or with one line that says what is wrong and status 1.
"""

import argparse
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ace_jax import command
from ace_jax.errors import InputError
from ace_jax.model.sharding import make_mesh, replicated
from ace_jax.runtime.processes import start
from ace_jax.runtime.progress import log

MEGABYTES_SENT = 64  # about a gradient's size
LEAST_FREE_GB = 5
MOST_SECONDS_APART = 5  # clocks; files' times and logs are compared by them


def main(args: argparse.Namespace) -> None:
    """Runs all checks; the first that fails ends it."""
    start(args.distributed, args.coordinator, args.num_processes, args.process_id)
    versions = " ".join(
        f"{name} {version(name)}" for name in ("ace_jax", "jax", "flax", "orbax-checkpoint")
    )
    log(f"preflight: python {sys.version.split()[0]}, {versions}")
    kinds = sorted({device.device_kind for device in jax.devices()})
    log(
        f"{jax.device_count()} device(s) of {jax.process_count()} process(es), "
        f"{jax.local_device_count()} here: {', '.join(kinds)}"
    )
    log(f"preflight: all-reduce of {MEGABYTES_SENT} MB: {all_reduce():.2f} GB/s")
    log(f"preflight: {args.workdir}: {free(args.workdir):.0f} GB free, can be written")
    log(f"preflight: clocks: {clocks_apart():.2f} s apart")


def all_reduce() -> float:
    """Returns the rate, in GB/s a device, at which a sum over all devices is formed.

    Raises `InputError` where the sum is wrong.
    """
    mesh = make_mesh(data=-1, fsdp=1, tensor=1)
    spread = jax.sharding.NamedSharding(mesh, jax.P("data"))
    length = MEGABYTES_SENT * 250_000  # of float32
    ones = jax.jit(lambda: jnp.ones((mesh.size, length)), out_shardings=spread)()
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=replicated(mesh))
    jax.block_until_ready(total(ones))  # compiles
    start = time.perf_counter()
    result = jax.block_until_ready(total(ones))
    seconds = time.perf_counter() - start
    if not bool((np.asarray(result[:8]) == mesh.size).all()):
        raise InputError(f"all-reduce: the sum over {mesh.size} devices is {result[0]}")
    return MEGABYTES_SENT / 1e3 / seconds


def free(workdir: Path) -> float:
    """Returns the GB that are free where the run will lie.

    Raises `InputError` where there are too few, or a file cannot be written.
    """
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as error:
        raise InputError(f"{there}: cannot be written ({error.strerror})") from None
    gigabytes = shutil.disk_usage(there).free / 1e9
    if gigabytes < LEAST_FREE_GB:
        raise InputError(f"{there}: {gigabytes:.1f} GB are free; leave {LEAST_FREE_GB}")
    return gigabytes


def clocks_apart() -> float:
    """Returns by how many seconds the processes' clocks differ at most; raises `InputError`."""
    # In whole seconds and their fraction: float32 cannot hold the time of day.
    seconds, fraction = divmod(time.time(), 1.0)
    told = multihost_utils.process_allgather(np.array([seconds % 86400, fraction], np.float32))
    times = np.asarray(told).reshape(-1, 2).sum(axis=1, dtype=np.float64)
    apart = float(np.ptp(times))
    apart = min(apart, 86400 - apart)
    if apart > MOST_SECONDS_APART:
        raise InputError(f"clocks: are {apart:.0f} s apart; synchronise them (NTP)")
    return apart


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="where the run will lie")
    parser.add_argument("--distributed", action="store_true", help="several processes")
    parser.add_argument("--coordinator", help="host:port of process 0, where it is not found")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    command.run(lambda: main(arguments))
