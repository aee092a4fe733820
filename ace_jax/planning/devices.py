"""The devices that a plan can be made for: their figures and their names.

A topology is a TPU slice by its chips (`v5e:4x4`), GPUs of one machine (`h100:2`), or this
machine's CPU split into devices (`host:8`).
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
from ace_jax.files import reason


@dataclass(frozen=True)
class Chip:
    """The maker's figures of one device."""

    memory: float  # bytes; of a TPU those that XLA leaves to a program
    flops: float  # peak a second, dense bfloat16
    memory_rate: float  # bytes a second to and from the device's memory
    link_rate: float  # bytes a second one way, over one link of a TPU or all of NVLink


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
# Without these, libtpu asks the cloud's metadata server, writes logs and locks the machine's TPUs.
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
    """Devices of one kind, a key of `TPUS` or `GPUS`, or `host`."""

    name: str
    kind: str
    count: int

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Reads a topology's name; raises `InputError` if it is not one."""
        kind, _, layout = name.partition(":")
        pattern = r"[1-9]\d*" + r"(x[1-9]\d*)*" * (kind in TPUS)
        if kind not in {*TPUS, *GPUS, HOST} or not re.fullmatch(pattern, layout):
            raise InputError(
                f"--topology {name}: write a TPU slice as v5e:4x4 ({', '.join(TPUS)}), GPUs as "
                f"h100:2 ({', '.join(GPUS)}), or this machine's CPU as host:8"
            )
        return cls(name, kind, math.prod(map(int, layout.split("x"))))

    @property
    def chip(self) -> Chip | None:
        """The figures of one device; None for this machine's CPU."""
        return (TPUS | GPUS).get(self.kind)

    def devices(self) -> Sequence[jax.Device]:
        """Returns those to compile for, of a TPU slice or the CPU; raises `InputError` without."""
        if self.kind in TPUS:
            return self._tpu_devices()
        with suppress(RuntimeError):  # JAX has started, and its devices can no longer change
            count = max(self.count, jax.config.values["jax_num_cpu_devices"])
            jax.config.update("jax_num_cpu_devices", count)
        devices = jax.devices("cpu")
        if len(devices) < self.count:
            raise InputError(
                f"--topology {self.name}: JAX has started with {len(devices)} CPU device(s); "
                "plan in a new process"
            )
        return devices[: self.count]

    def _tpu_devices(self) -> Sequence[jax.Device]:
        if importlib.util.find_spec("libtpu") is None:
            raise InputError(f"--topology {self.name}: needs libtpu: pip install 'ace_jax[tpu]'")
        os.environ.update(LIBTPU_SETTINGS | os.environ)
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=self.name).devices
        except (RuntimeError, ValueError) as error:
            why = reason(error)
            raise InputError(f"--topology {self.name}: libtpu refuses it ({why})") from None
