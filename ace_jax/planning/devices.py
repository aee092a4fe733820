"""The devices that a plan can be made for: their figures and their names.

A topology is a TPU slice by its chips (`v5e:4x4`), or GPUs of one machine (`h100:2`).
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

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


# Products are tuned on a device, and there is none.
UNTUNED: dict[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


class Topology(NamedTuple):
    """Devices of one kind to compile for, and what is known of them."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]
    compiler: str  # in words
    options: dict[str, Any] | None = None  # of XLA

    @classmethod
    def of(cls, name: str) -> "Topology":
        """Finds the devices; raises `InputError` for an unknown name, or where there are none."""
        kind, _, layout = name.partition(":")
        pattern = r"[1-9]\d*" + r"(x[1-9]\d*)*" * (kind in TPUS)
        if kind not in {*TPUS, *GPUS} or not re.fullmatch(pattern, layout):
            raise InputError(
                f"--topology {name}: write a TPU slice as v5e:4x4 ({', '.join(TPUS)}), or GPUs as "
                f"h100:2 ({', '.join(GPUS)})"
            )
        if kind in TPUS:
            compiler = "XLA for TPU at its least effort; in a run it may order operations better"
            return cls(name, TPUS[kind], _tpu_devices(name), compiler)
        if importlib.util.find_spec("jax_cuda12_plugin"):
            compiler = "XLA for CUDA, without tuning: a run may choose other products and order"
            return cls(name, GPUS[kind], _gpu_devices(name, kind, int(layout)), compiler, UNTUNED)
        compiler = (
            f"XLA for this machine's CPU stands in for that of {name}; it computes bfloat16 in "
            "float32, so temporaries come out too large: pip install 'ace_jax[plan-gpu]'"
        )
        return cls(name, GPUS[kind], _cpu_devices(name, int(layout)), compiler)


def _cpu_devices(name: str, count: int) -> Sequence[jax.Device]:
    with suppress(RuntimeError):  # JAX has started, and its devices can no longer change
        most = max(count, jax.config.values["jax_num_cpu_devices"])
        jax.config.update("jax_num_cpu_devices", most)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(
            f"--topology {name}: JAX has started with {len(devices)} CPU device(s); plan in a new "
            "process"
        )
    return devices[:count]


def _gpu_devices(name: str, kind: str, count: int) -> Sequence[jax.Device]:
    """Returns GPUs that XLA for CUDA compiles for; none is needed here."""
    target = resources.files(__package__).joinpath(f"targets/{kind}.txtpb").read_text()
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name=kind, target_config=target, topology=f"1x1x{count}"
        ).devices
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--topology {name}: XLA refuses it ({reason(error)}); the plugin for CUDA must be of "
            "jax's version: pip install 'ace_jax[plan-gpu]'"
        ) from None


def _tpu_devices(name: str) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology {name}: needs libtpu: pip install 'ace_jax[tpu]'")
    os.environ.update(LIBTPU_SETTINGS | os.environ)
    # At its usual effort XLA for TPU takes minutes, or was not done after 18 (docs/scaling.md).
    if hasattr(jax.config, "jax_exec_time_optimization_effort"):
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    else:  # jax >= 0.11
        jax.config.update("jax_optimization_level", "O1")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--topology {name}: libtpu refuses it ({reason(error)})") from None
