"""The parts of a plan: compiled steps, their collectives, operations, memory and time."""

import importlib.util
import re
from importlib import resources

import jax
import jax.numpy as jnp
import pytest
from collectives import Collective, collectives
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
from test_train import small_config

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.devices import GPUS, Chip, Topology
from ace_jax.planning.program import (
    COMPUTE_SHARE,
    LINK_SHARE,
    MEMORY_SHARE,
    Program,
    array_bytes,
    compile_step,
    matmul_flops,
    model_of,
    seconds,
    sent_bytes,
    training_step,
    tree_bytes,
    verdict,
)
from ace_jax.planning.workload import workload
from ace_jax.training.step import objective

LAYERS = 4
LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "o_proj", "down_proj"))
# The kinds that a step may send, (in the loop over layers, outside it). Only fsdp gathers weights.
# Tensor, a divisor of the key heads, adds up activations. Both look up embeddings elsewhere.
REDUCED, GATHERED = {"all-reduce"}, {"all-reduce", "all-gather"}
LOOKED_UP = {"all-reduce", "all-gather", "all-to-all", "collective-permute"}
ALLOWED = {
    (8, 1, 1): (REDUCED, REDUCED),
    (1, 8, 1): (GATHERED, LOOKED_UP),
    (2, 2, 2): (GATHERED, LOOKED_UP),
}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """XLA for CPU takes a fraction of the time and makes the same collectives."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def architecture(layers, hidden=64):
    return LlamaConfig.from_hf(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 384,
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden // 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
        }
    )


@pytest.fixture(scope="module")
def config(tiny_checkpoint):
    return small_config(
        tiny_checkpoint,
        **{"batch.unit": "context", "batch.size": 1, "batch.row_lengths": (256,)},
        **{"lora.dropout": 0.0},
    )


@pytest.mark.parametrize("sizes", ALLOWED, ids=str)
def test_only_what_the_mesh_needs_is_sent(config, sizes):
    mesh = make_mesh(*sizes, devices=jax.devices())
    model = model_of(config, architecture(LAYERS), LORA)
    batch = workload(config, None, mesh)[0]
    step, arguments, _ = training_step(config, model, batch, mesh)
    found = collectives(step.trace(*arguments).lower().compile().as_text())
    in_loop = [one for one in found if one.times == LAYERS - 1]
    outside = [one for one in found if one.times == 1]
    assert len(in_loop) + len(outside) == len(found)
    for some, allowed in zip((in_loop, outside), ALLOWED[sizes], strict=True):
        assert {one.kind for one in some} <= allowed
    one_layer = 64 * 96 * 4  # bytes of the largest kernel
    whole = max(384 * 64, batch.scoring.tokens.size * 64) * 4  # embedding, or what is looked up
    for one in found:
        if one.kind == "all-gather":
            assert one.bytes <= (one_layer if one in in_loop else whole), one
        if one.kind == "all-reduce" and sizes[2] == 1:  # LoRA's gradients and scores, nothing else
            assert one.bytes <= max(tree_bytes(model.lora), batch.scoring.option_mask.size * 4), one
    if sizes[1] > 1:  # seven kernels of a layer, forwards and backwards
        large = [one for one in in_loop if one.kind == "all-gather" and one.bytes > 2 * 64 * 4 * 4]
        assert len(large) == 2 * 7
    nodes = batch.scoring.tokens.size // row_shards(mesh)
    expected = sum(one.sent for one in found)
    assert sent_bytes(model, nodes, mesh) == pytest.approx(expected, rel=0.1)


def test_the_objective_is_counted_as_xla_counts_it_unrolled(config):
    batch = workload(config, None, make_mesh(1, 1, 1, jax.devices()[:1]))[0]
    model = model_of(config, architecture(2, hidden=256), LORA)  # one layer in the loop: unrolled

    def run(lora, base, scoring, targets):
        return objective(lora, base, model.graph, scoring, targets, (1.0, 1.0), Anchor())

    traced = jax.jit(run).trace(model.lora, model.base, batch.scoring, batch.targets)
    xla = traced.lower().compile().cost_analysis()["flops"]
    assert 1 <= xla / matmul_flops(traced.jaxpr.jaxpr) < 1.02


def test_products_are_counted_as_xla_counts_them_without_loops():
    def layer(w, x):
        return jnp.tanh(x @ w) @ w.T

    def count(layer):
        def loss(w, x):
            return jnp.sum(layer(w, layer(w, x)) ** 2)

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((128, 256), (512, 128))]
        traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*shapes)
        return matmul_flops(traced.jaxpr.jaxpr), traced

    counted, traced = count(layer)
    product = 2 * 512 * 128 * 256
    assert counted == 2 * 6 * product  # each of two layers: two products, and two for each of them
    xla = traced.lower().compile().cost_analysis()["flops"]
    assert counted <= xla <= 1.02 * counted  # elementwise operations are XLA's alone
    assert count(jax.checkpoint(layer))[0] == counted + 2 * product  # x w again


def test_a_scan_counts_as_often_as_it_runs():
    def run(w, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    w = jax.ShapeDtypeStruct((7, 32, 32), jnp.float32)
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    assert matmul_flops(jax.make_jaxpr(run)(w, x).jaxpr) == 7 * 2 * 8 * 32 * 32


def test_a_loops_collectives_run_once_an_iteration():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def run(x):
        def body(x, _):
            return jax.lax.pcast(jax.lax.psum(jnp.tanh(x), "x"), "x", to="varying"), None

        return jax.lax.scan(body, x, None, length=5)[0]

    split = jax.shard_map(run, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    found = collectives(jax.jit(split).lower(x).compile().as_text())
    assert found == [Collective("all-reduce", bytes=8, group=8, times=5)]
    assert found[0].sent == 5 * 2 * 8 * 7 / 8


def test_four_bits_are_half_a_byte():
    assert array_bytes((3, 8), jnp.dtype(jnp.uint4)) == 12
    assert array_bytes((2,), jnp.dtype(jnp.bfloat16)) == 4


CHIP = Chip(memory=16e9, flops=200e12, memory_rate=800e9, link_rate=50e9)


def program(base, temporaries):
    return Program({"base": int(base)}, int(base + temporaries), 400 * 10**12, 0.0)


def test_the_estimate_has_three_parts():
    mesh = {"data": 1, "fsdp": 4, "tensor": 1}
    found = seconds(program(4e9, 8e9), CHIP, mesh, sent=3e9)
    assert found["compute"] == pytest.approx(400 / 4 / (200 * COMPUTE_SHARE))
    assert found["memory"] == pytest.approx((2 * 2 * 16 + 2 * 8) / (800 * MEMORY_SHARE))
    assert found["links"] == pytest.approx(3 / (50 * LINK_SHARE))


@pytest.mark.parametrize(
    ("base", "temporaries", "words"),
    [
        (4e9, 8e9, "^fits: 12.0 of 16.0 GB"),
        (16e9, 2e9, "16.0 GB are base weights: raise mesh.fsdp"),
        (4e9, 20e9, r"lower batch.size \(now 1\) and raise optimizer.accumulation"),
    ],
)
def test_the_larger_part_is_what_to_change(config, base, temporaries, words):
    with_words = verdict(program(base, temporaries), CHIP.memory, config)
    assert with_words.startswith("fits") == (base + temporaries <= 16e9)
    assert re.search(words, with_words)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_program_that_does_not_fit_has_a_peak(config):
    device = Topology.of("v5e:2x2").devices[0]
    weights = jax.ShapeDtypeStruct(
        (10**5, 10**5), jnp.bfloat16, sharding=SingleDeviceSharding(device)
    )
    large = compile_step(jax.jit(lambda w: w @ w), (weights,), {"base": weights})
    assert large.arguments == {"base": 2 * 10**10}
    assert large.peak > 2 * 10**10
    assert verdict(large, 16e9, config).startswith("does not fit: ")


@pytest.mark.parametrize("gpu", GPUS)
def test_a_gpu_has_a_target_with_its_memory(gpu):
    target = resources.files("ace_jax.planning").joinpath(f"targets/{gpu}.txtpb").read_text()
    (memory,) = re.findall(r"device_memory_size: (\d+)", target)
    assert int(memory) == pytest.approx(GPUS[gpu].memory, rel=0.08)
    assert gpu.upper() in re.search(r'device_description_str: "(.*)"', target)[1]


@pytest.mark.parametrize("name", ["v7:2x2", "v5e", "v5e:2x", "h100:2x2", "h100:0"])
def test_an_unknown_topology_is_refused(name):
    with pytest.raises(InputError, match=f"--topology {name}: write a TPU slice as v5e:4x4"):
        Topology.of(name)


def test_a_topology_counts_its_devices():
    assert len(Topology.of("h100:2").devices) == 2
