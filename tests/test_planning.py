"""What a plan is made of: reading compiled programs, counting operations, judging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_train import small_config

from ace_jax.errors import InputError
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.sharding import make_mesh, row_shards
from ace_jax.planning.chips import Chip, Topology
from ace_jax.planning.collectives import Collective, by_kind, collectives
from ace_jax.planning.fit import verdict
from ace_jax.planning.flops import matmul_flops
from ace_jax.planning.program import Program, bytes_of, model_of, scoring_program, train_program
from ace_jax.planning.roofline import COMPUTE_SHARE, LINK_SHARE, MEMORY_SHARE, estimate
from ace_jax.planning.workload import workload
from ace_jax.training.step import objective

LAYERS = 4
LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "o_proj", "down_proj"))
# What a step may send, (in the loop over layers, outside it). Only fsdp gathers weights; tensor (a
# divisor of the key heads) adds up activations; with either, embeddings are looked up elsewhere.
REDUCED, GATHERED = {"all-reduce"}, {"all-reduce", "all-gather"}
LOOKED_UP = {"all-reduce", "all-gather", "all-to-all", "collective-permute"}
ALLOWED = {
    (8, 1, 1): (REDUCED, REDUCED),
    (1, 8, 1): (GATHERED, LOOKED_UP),
    (2, 4, 1): (GATHERED, LOOKED_UP),
    (4, 1, 2): (REDUCED, LOOKED_UP),
    (2, 2, 2): (GATHERED, LOOKED_UP),
}


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
        tiny_checkpoint, **{"batch.unit": "context", "batch.size": 1, "batch.row_lengths": (256,)}
    )


@pytest.fixture(scope="module")
def planned(config):
    """Compiles the training step of a model of some layers for a mesh of host devices."""

    def compile_for(sizes, layers=LAYERS, hidden=64):
        mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        model = model_of(config, architecture(layers, hidden), LORA)
        batch = workload(config, None, row_shards(mesh), cells=8).training
        program = train_program(config, model, 0.0, batch.scoring, batch.targets, mesh)
        return program, model, batch

    return compile_for


def largest(state, keep):
    """The size in bytes of the largest leaf of some names."""
    leaves = jax.tree.leaves_with_path(state)
    return max(bytes_of(leaf) for path, leaf in leaves if keep in jax.tree_util.keystr(path))


@pytest.mark.parametrize("sizes", ALLOWED, ids=str)
def test_only_what_the_mesh_needs_is_sent(planned, sizes):
    program, model, batch = planned(sizes)
    assert program.collectives is not None
    in_loop = [one for one in program.collectives if "while/body" in one.op]
    outside = [one for one in program.collectives if "while/body" not in one.op]
    for found, allowed in zip((in_loop, outside), ALLOWED[sizes], strict=True):
        assert {one.kind for one in found} <= allowed
    assert {one.times for one in in_loop} == {LAYERS - 1}
    one_layer = largest(model.base, "layers") // LAYERS
    looked_up = batch.scoring.tokens.size * 64 * 4
    whole = max(largest(model.base, "embedding"), largest(model.base, "head"), looked_up)
    for one in program.collectives:
        if one.kind == "all-gather":
            assert one.bytes <= (one_layer if one in in_loop else whole), one
    if sizes[2] == 1:  # no activations: gradients of LoRA and scores of cells alone
        scores = batch.scoring.option_mask.size * 4
        for one in program.collectives:
            if one.kind == "all-reduce":
                assert one.bytes <= max(bytes_of(model.lora), scores), one
    if sizes[1] > 1:  # each kernel of a layer, forwards and backwards
        kernels = [
            one for one in in_loop if one.kind == "all-gather" and one.bytes > 2 * 64 * 4 * 4
        ]
        assert len(kernels) == 2 * 7


def test_a_loops_collectives_run_once_a_trip():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def run(x):
        def body(x, _):
            return jax.lax.pcast(jax.lax.psum(jnp.tanh(x), "x"), "x", to="varying"), None

        return jax.lax.scan(body, x, None, length=5)[0]

    split = jax.shard_map(run, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
    (one,) = collectives(jax.jit(split).lower(x).compile().as_text())
    assert (one.kind, one.shapes, one.bytes, one.group) == ("all-reduce", ("f32[2]",), 8, 8)
    assert one.times == 5
    assert "test_planning.py:" in one.source
    assert by_kind([one]) == {"all-reduce": (5, 5 * 2 * 8 * 7 / 8)}


ASYNCHRONOUS = """HloModule step

FileNames
1 "/somewhere/llama.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=131 end_line=131 column=12 end_column=12}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%start (a: bf16[32,64]) -> bf16[64,64] {
  %a = bf16[32,64]{1,0} parameter(0)
  %all-gather.1 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%a), channel_id=7, MESH, metadata=META
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
ASYNCHRONOUS = ASYNCHRONOUS.replace("LISTED", "replica_groups={{0,1,2,3},{4,5,6,7}}")
ASYNCHRONOUS = ASYNCHRONOUS.replace("META", '{op_name="jit(step)/while/body" stack_frame_id=1}')


def test_what_xla_for_tpu_writes_is_read():
    # Three, as the gather's second half is the same gather.
    gather, permute, scatter = sorted(collectives(ASYNCHRONOUS), key=lambda one: one.kind)
    assert (gather.kind, gather.bytes, gather.group) == ("all-gather", 64 * 64 * 2, 4)
    assert (gather.times, gather.source) == (31, "/somewhere/llama.py:131")
    assert (scatter.kind, scatter.bytes, scatter.group) == ("reduce-scatter", 256, 4)
    assert (scatter.times, scatter.traffic) == (31, 192)
    assert (permute.kind, permute.bytes, permute.traffic) == ("collective-permute", 32, 32)


def test_a_loop_without_an_end_is_refused():
    with pytest.raises(ValueError, match="not fixed"):
        collectives(ASYNCHRONOUS.replace("direction=LT", "direction=NE"))


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


def test_the_objective_is_counted_as_xla_counts_it_unrolled(config):
    batch = workload(config, None, 1, cells=8).training
    model = model_of(config, architecture(2, hidden=256), LORA)  # one layer in the loop: unrolled

    def run(lora, base, scoring, targets):
        return objective(lora, base, model.graph, scoring, targets, 1.0, 1.0, "options", None)

    traced = jax.jit(run).trace(model.lora, model.base, batch.scoring, batch.targets)
    xla = traced.lower().compile().cost_analysis()["flops"]
    assert 1 <= xla / matmul_flops(traced.jaxpr.jaxpr) < 1.02


def test_a_scan_counts_as_often_as_it_runs():
    def run(w, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    w = jax.ShapeDtypeStruct((7, 32, 32), jnp.float32)
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    assert matmul_flops(jax.make_jaxpr(run)(w, x).jaxpr) == 7 * 2 * 8 * 32 * 32


def test_operations_grow_with_the_layers(config):
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    batch = workload(config, None, 1, cells=8)
    counted = [
        scoring_program(model_of(config, architecture(layers), LORA), batch.scoring, mesh).flops
        for layers in (1, 2, 3)
    ]
    assert counted[2] - counted[1] == counted[1] - counted[0] > 0
    layer = architecture(1)
    kernels = 64 * (64 + 2 * 32 + 64) + 3 * 64 * layer.intermediate_size
    nodes = batch.scoring.tokens.size
    assert counted[1] - counted[0] >= 2 * nodes * kernels


def test_four_bits_are_half_a_byte():
    kernel = jax.ShapeDtypeStruct((3, 8), jnp.uint4)
    assert bytes_of([kernel, jax.ShapeDtypeStruct((2,), jnp.bfloat16)]) == 12 + 4


CHIP = Chip(memory=16e9, flops=200e12, memory_rate=800e9, link_rate=50e9)


def program(base, temporaries, sent=0):
    one = Collective("collective-permute", ("bf16[1]",), sent, 2, 3, "", "")
    return Program(
        {"base": int(base), "LoRA": 0}, int(base + temporaries), 400 * 10**12, [one], 0.0
    )


def test_the_slowest_part_is_the_estimate():
    found = estimate(program(4e9, 8e9, sent=10**9), CHIP, 4, 16 * 10**9, True, 2)
    assert found.compute == pytest.approx(400 / 4 / (200 * COMPUTE_SHARE))
    assert found.memory == pytest.approx((2 * 2 * 16 + 2 * 8) / (800 * MEMORY_SHARE))
    assert found.links == pytest.approx(3 / (50 * LINK_SHARE))
    assert found.seconds == found.compute


@pytest.mark.parametrize(
    ("base", "temporaries", "words"),
    [
        (4e9, 8e9, "fits: 12.0 of 16.0 GB"),
        (16e9, 2e9, "mesh.fsdp=2 makes 16.0 GB / 2 = 8.0 GB a device"),
        (4e9, 20e9, "batch.size=4 optimizer.accumulation=2"),
        (4e9, 60e9, "lower batch.neighbours"),
    ],
)
def test_the_knob_is_that_of_the_larger_part(config, base, temporaries, words):
    config = config.copy_and_resolve_references()
    config.batch.size, config.batch.neighbours = 8, 2
    mesh = {"data": 4, "fsdp": 1, "tensor": 1}
    assert words in verdict(program(base, temporaries), CHIP.memory, config, mesh, int(base))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v7:2x2", "'v7' is not one of v5e"),
        ("v5e", "the number of devices is missing"),
        ("v5e:2x", "the number of devices is missing"),
        ("h100:2x2", "the number of devices is missing, as in h100:2"),
        ("host:0", "the number of devices is missing"),
    ],
)
def test_topologies_that_are_none_are_refused(name, reason):
    with pytest.raises(InputError, match=reason):
        Topology.of(name)


def test_topologies_are_counted_by_devices():
    assert Topology.of("v5p:4x4x4").count == 64
    assert Topology.of("v5e:2x2").count == 4
    assert Topology.of("h100:2").count == len(Topology.of("h100:2").devices()) == 2
