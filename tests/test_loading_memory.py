"""What loading a checkpoint costs in memory, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_hf_weights import CONFIG, INDEX, shapes_of, shard_name

LARGE = CONFIG | {
    "vocab_size": 8192,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 11,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
# Peak memory of a fresh process that does nothing but load. Linux counts it from when the program
# starts (VmHWM); ru_maxrss would also count what its parent held.
MEASURE = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp
from ace_jax.model.formats.hf import SafetensorsSource, load_base
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.sharding import make_mesh
from ace_jax.model.llama import abstract_model

def resident(line):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(line + ":")[1].split()[0])

jax.config.update("jax_num_cpu_devices", 8)
config = LlamaConfig.from_hf(json.loads(sys.argv[2]))
base, mesh = abstract_model(config, None, jnp.dtype("bfloat16")).base, make_mesh(1, 8, 1)
for device in jax.devices():
    jax.block_until_ready(jax.device_put(jnp.ones((4, 8)), device))
before = resident("VmRSS")
state = load_base(base, SafetensorsSource(Path(sys.argv[1])), mesh)
peak = resident("VmHWM")
shards = [shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
held = sum(shard.data.nbytes for shard in shards)
print(json.dumps({"held": held, "over": peak - before - held}))
"""


def save_large(directory):
    """Writes 1 GB of finite bfloat16, four layers a shard; returns its largest tensor's bytes."""
    shapes = list(shapes_of(LARGE).items())
    bits = np.random.default_rng(0).integers(0x3000, 0x4000, 8192 * 2048 + 64, dtype=np.uint16)
    shard_of = {}
    for first in range(0, len(shapes), 36):
        weights = {}
        for number, (name, shape) in enumerate(shapes[first : first + 36]):
            drawn = bits[number : number + np.prod(shape)]  # no two of a shard alike
            weights[name] = drawn.reshape(shape).view(ml_dtypes.bfloat16)
        name = shard_name(first // 36, 1 + len(shapes) // 36)
        save_file(weights, directory / name, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(weights, name)
    (directory / INDEX).write_text(json.dumps({"weight_map": shard_of}))
    return 2 * max(int(np.prod(shape)) for _, shape in shapes)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_a_gigabyte_takes_little_more_than_it_is(tmp_path):
    try:
        largest = save_large(tmp_path)
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path), json.dumps(LARGE)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
    memory = json.loads(measured.stdout)
    assert memory["held"] > 1e9
    assert memory["over"] < largest + 200e6
