"""Accelerators as data: what they hold, how fast they are, and how they are named.

A topology is `v5e:4x4` (a TPU slice, by chips), `h100:2` (GPUs of one machine) or `host:8` (this
machine's CPU, split). Figures are the makers' for dense bfloat16; links are in one direction.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from ace_jax.errors import InputError


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      memory: bytes that a program can use; for TPUs what XLA for TPU leaves it.
      flops: peak, a second.
      memory_rate: bytes a second from and to its own memory.
      link_rate: bytes a second to a neighbour: one link of a TPU, all of NVLink.
    """

    memory: float
    flops: float
    memory_rate: float
    link_rate: float


GIB = 1 << 30
TPUS = {
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 50e9),
    "v5p": Chip(95.74 * GIB, 459e12, 2765e9, 100e9),
    "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 100e9),
}
GPUS = {
    "a100": Chip(80e9, 312e12, 2039e9, 300e9),
    "h100": Chip(80e9, 989e12, 3350e9, 450e9),
    "h200": Chip(141e9, 989e12, 4800e9, 450e9),
}
HOST = "host"
# libtpu asks the cloud's metadata server, logs and locks the machine's TPUs unless it is told.
LIBTPU_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v6e-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """Devices of one kind.

    Attributes:
      name: as it was asked for.
      count: how many devices.
      chip: what one of them is; None for this machine's CPU.
      compiled_here: whether the compiler is that of another device, the CPU.
    """

    name: str
    count: int
    chip: Chip | None
    compiled_here: bool

    @classmethod
    def of(cls, name: str) -> "Topology":
        """Reads a topology's name; raises `InputError` where it is none."""
        kind, _, layout = name.partition(":")
        chips = TPUS | GPUS
        if kind not in chips and kind != HOST:
            raise InputError(
                f"--topology {name}: {kind!r} is not one of {', '.join(chips)}, {HOST}; try v5e:4x4"
            )
        wanted, example = (r"\d+(x\d+)*", "v5e:4x4") if kind in TPUS else (r"\d+", f"{kind}:2")
        sizes = layout.split("x")
        if not re.fullmatch(wanted, layout) or "0" in sizes:
            raise InputError(
                f"--topology {name}: the number of devices is missing, as in {example}"
            )
        count = math.prod(map(int, sizes))
        return cls(name, count, chips.get(kind), kind not in TPUS)

    def devices(self) -> Sequence[jax.Device]:
        """Returns devices to compile for; none of them need exist.

        Raises `InputError` where libtpu is missing or does not know the layout.
        """
        return _host_devices(self) if self.compiled_here else _tpu_devices(self.name)


def _host_devices(topology: Topology) -> Sequence[jax.Device]:
    with suppress(RuntimeError):  # JAX runs already, with the devices that it has
        count = max(topology.count, jax.config.values["jax_num_cpu_devices"])
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < topology.count:
        raise InputError(f"--topology {topology.name}: JAX runs with {len(devices)} device(s)")
    return devices[: topology.count]


def _tpu_devices(name: str) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology {name}: needs libtpu: pip install 'ace_jax[tpu]'")
    for variable, value in LIBTPU_SETTINGS.items():
        os.environ.setdefault(variable, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--topology {name}: libtpu has no such slice ({reason})") from None
