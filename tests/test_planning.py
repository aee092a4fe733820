"""The parts of a plan: compiled steps, their collectives, operations, memory and time."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
from test_train import small_config

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.cost import Collective, by_kind, collectives, matmul_flops
from ace_jax.planning.devices import Chip, Topology
from ace_jax.planning.program import (
    Program,
    array_bytes,
    compile_step,
    model_of,
    train_program,
)
from ace_jax.planning.report import COMPUTE_SHARE, LINK_SHARE, MEMORY_SHARE, seconds, verdict
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


def total(tree):
    return sum(array_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("sizes", ALLOWED, ids=str)
def test_only_what_the_mesh_needs_is_sent(config, sizes):
    mesh = make_mesh(*sizes, devices=jax.devices())
    model = model_of(config, architecture(LAYERS), LORA)
    batch = workload(config, None, row_shards(mesh), cells=8).training
    found = train_program(config, model, batch, mesh).collectives
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
            assert one.bytes <= max(total(model.lora), batch.scoring.option_mask.size * 4), one
    if sizes[1] > 1:  # seven kernels of a layer, forwards and backwards
        large = [one for one in in_loop if one.kind == "all-gather" and one.bytes > 2 * 64 * 4 * 4]
        assert len(large) == 2 * 7


def test_the_objective_is_counted_as_xla_counts_it_unrolled(config):
    batch = workload(config, None, 1, cells=8).training
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
    assert by_kind(found) == {"all-reduce": {"times": 5, "sent": 5 * 2 * 8 * 7 / 8}}


TPU_PROGRAM = """HloModule step

%start (a: bf16[32,64]) -> bf16[64,64] {
  %a = bf16[32,64]{1,0} parameter(0)
  %all-gather.1 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=7, MESH
  ROOT %begun = (bf16[64,64]{1,0}) custom-call(%a), custom_call_target="AsyncCollectiveStart"
}

%end (b: bf16[32,64]) -> bf16[64,64] {
  %b = bf16[32,64]{1,0} parameter(0)
  %all-gather.2 = bf16[64,64]{1,0} all-gather(%b), channel_id=7, replica_groups=[2,4]<=[8]
  ROOT %done = bf16[64,64]{1,0} custom-call(%b), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (c: f32[64]) -> f32[16] {
  %c = f32[64]{0} parameter(0)
  %all-reduce.3 = f32[64]{0:T(256)} all-reduce(%c), channel_id=8, LISTED
  ROOT %dynamic-slice.3 = f32[16]{0} dynamic-slice(%all-reduce.3), dynamic_slice_sizes={16}
}

%condition (p: (s32[], bf16[32,64])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(31)
  %p = (s32[]{:T(128)}, bf16[32,64]{1,0}) parameter(0)
  %get-tuple-element.4 = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.4 = pred[]{:T(512)} compare(%get-tuple-element.4, %constant.4), direction=LT
}

%body (q: (s32[], bf16[32,64])) -> (s32[], bf16[32,64]) {
  %q = (s32[]{:T(128)}, bf16[32,64]{1,0}) parameter(0)
  %fusion.1 = (bf16[32,64]{1,0}, bf16[64,64]{1,0}) fusion(%q), kind=kCustom, calls=%start
  %fusion.2 = bf16[64,64]{1,0} fusion(%fusion.1), kind=kCustom, calls=%end
  %fusion.3 = f32[16]{0} fusion(%fusion.2), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %tuple.1 = (s32[], bf16[32,64]{1,0}) tuple(%q, %fusion.2)
}

ENTRY %main (x: bf16[32,64]) -> bf16[32,64] {
  %x = bf16[32,64]{1,0} parameter(0)
  %while.1 = (s32[]{:T(128)}, bf16[32,64]{1,0}) while(%x), condition=%condition, body=%body
  %sent = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=9
  ROOT %result = bf16[32,64]{1,0} get-tuple-element(%while.1), index=1
}
""".replace("MESH", "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}")
TPU_PROGRAM = TPU_PROGRAM.replace("LISTED", "replica_groups={{0,1,2,3},{4,5,6,7}}")


def test_what_xla_for_tpu_writes_is_read():
    # Three, as the gather's second half is the same gather.
    gather, permute, scatter = sorted(collectives(TPU_PROGRAM), key=lambda one: one.kind)
    assert gather == Collective("all-gather", bytes=64 * 64 * 2, group=4, times=31)
    assert scatter == Collective("reduce-scatter", bytes=256, group=4, times=31)
    assert scatter.sent == 31 * 192
    assert (permute.kind, permute.bytes, permute.sent) == ("collective-permute", 32, 32)


def test_a_loop_without_an_end_is_refused():
    with pytest.raises(ValueError, match="not fixed"):
        collectives(TPU_PROGRAM.replace("direction=LT", "direction=NE"))


def test_four_bits_are_half_a_byte():
    assert array_bytes((3, 8), jnp.dtype(jnp.uint4)) == 12
    assert array_bytes((2,), jnp.dtype(jnp.bfloat16)) == 4


CHIP = Chip(memory=16e9, flops=200e12, memory_rate=800e9, link_rate=50e9)


def program(base, temporaries, sent=0):
    one = Collective("collective-permute", sent, 2, 3)
    return Program({"base": int(base)}, int(base + temporaries), 400 * 10**12, [one], 0.0)


def test_the_estimate_has_three_parts():
    mesh = {"data": 1, "fsdp": 4, "tensor": 1}
    found = seconds(program(4e9, 8e9, sent=10**9), CHIP, mesh, passes=2)
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
    device = Topology.parse("v5e:2x2").devices()[0]
    weights = jax.ShapeDtypeStruct(
        (10**5, 10**5), jnp.bfloat16, sharding=SingleDeviceSharding(device)
    )
    large = compile_step(jax.jit(lambda w: w @ w), (weights,), {"base": weights})
    assert large.arguments == {"base": 2 * 10**10}
    assert large.peak > 2 * 10**10
    assert large.collectives is None
    assert verdict(large, 16e9, config).startswith("does not fit: ")


@pytest.mark.parametrize("name", ["v7:2x2", "v5e", "v5e:2x", "h100:2x2", "host:0"])
def test_an_unknown_topology_is_refused(name):
    with pytest.raises(InputError, match=f"--topology {name}: write a TPU slice as v5e:4x4"):
        Topology.parse(name)


def test_a_topology_counts_its_devices():
    assert Topology.parse("v5p:4x4x4").count == 64
    assert Topology.parse("h100:2").count == len(Topology.parse("h100:2").devices()) == 2
