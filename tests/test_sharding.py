from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.architecture import base_dtype
from ace_jax.model.formats.hf import load_base
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import TARGETS, LoRAConfig
from ace_jax.model.sharding import (
    PARAMETER_AXES,
    make_mesh,
    parameter_path,
    parameter_shardings,
    place_scoring,
    row_shards,
)
from ace_jax.prompts.batches import Shapes
from ace_jax.recipe import Optimizer
from ace_jax.training.data import Collate
from ace_jax.training.step import (
    initial_lora,
    initial_state,
    make_optimizer,
    make_train_step,
    state_shardings,
)

# One of each kind of split; every target more is compiled longer.
LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "o_proj", "down_proj"))
STEPS = 3


OPTIMIZER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "grad_clip": 1.0,
}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return open_checkpoint(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def model(checkpoint):
    return abstract_model(checkpoint.config, LORA, base_dtype("float32"))


@pytest.fixture(scope="module")
def fresh(checkpoint, mesh):
    """An untrained adapter; drawing it compiles slowly, so it is drawn once."""
    return jax.device_get(initial_lora(checkpoint.config, LORA, mesh, jax.random.key(0)))


def leaves(tree):
    return {parameter_path(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture(scope="module")
def trained(checkpoint, model, fresh, survey, mesh):
    """Three steps over all pairs on a mesh: the losses, the base weights and the last state."""

    @cache
    def train(sizes):
        where = make_mesh(*sizes) if sizes else mesh
        base = load_base(model.base, checkpoint.source, where)
        lora = jax.device_put(fresh, parameter_shardings(fresh, where))
        optimizer = make_optimizer(Optimizer(**OPTIMIZER))
        state = initial_state(lora, optimizer, jax.random.key(0), where)
        shardings = state_shardings(lora, optimizer, where)
        step = make_train_step(model.graph, optimizer, Anchor(), 0.0, shardings, where)
        collate = Collate(
            examples=survey.examples,
            prompts=survey.prompts,
            shapes=Shapes((128, 256), row_shards(where), max(map(len, survey.answers))),
            max_pairs=len(survey.pairs) + 1,
        )
        batch = collate([np.arange(len(survey.pairs))])
        scoring, one = place_scoring(batch.scoring, where), jnp.float32(1)
        losses = []
        for _ in range(STEPS):
            state, metrics = step(state, base, scoring, batch.targets, (one, one))
            losses.append(float(metrics["loss"]))
        return losses, base, state

    return train


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_eight_devices_do_what_one_does(trained, sizes):
    expected, _, alone = trained(None)
    losses, _, state = trained(sizes)
    assert expected[0] - expected[-1] > 1e-3  # it does learn
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    adapter = leaves(alone.lora)
    for path, value in leaves(state.lora).items():
        # Absolute: Adam moves every weight by about 1e-3 a step.
        np.testing.assert_allclose(value, adapter[path], rtol=0, atol=1e-5, err_msg=str(path))


def test_every_parameter_has_named_axes(checkpoint):
    everything = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=TARGETS)
    architecture = replace(checkpoint.config, biases=TARGETS, qk_norm=True)
    model = abstract_model(architecture, everything, base_dtype("float32"))
    shapes = leaves(model.lora) | leaves(model.base)
    assert shapes.keys() == PARAMETER_AXES.keys()  # the checkpoint's head is its own
    for path, leaf in shapes.items():
        assert len(PARAMETER_AXES[path]) == leaf.ndim


@pytest.mark.parametrize(
    ("name", "shard"),
    [
        ("layers q_proj kernel", (2, 32, 32)),
        ("layers k_proj kernel", (2, 32, 16)),
        ("layers o_proj kernel", (2, 32, 32)),
        ("layers gate_proj kernel", (2, 32, 48)),
        ("layers down_proj kernel", (2, 48, 32)),
        ("layers mlp_norm scale", (2, 32)),
        ("layers q_proj lora a", (2, 32, 4)),
        ("layers q_proj lora b", (2, 4, 32)),
        ("layers down_proj lora a", (2, 48, 4)),
        ("norm scale", (32,)),
    ],
)
def test_weights_are_split_over_fsdp_and_tensor(trained, name, shard):
    _, base, state = trained((2, 2, 2))
    array = (leaves(base) | leaves(state.lora))[tuple(name.split())]
    assert len(array.addressable_shards) == 8
    assert {part.data.shape for part in array.addressable_shards} == {shard}


def test_no_device_holds_more_than_its_share(trained):
    _, base, _ = trained((2, 2, 2))
    arrays = jax.tree.leaves(base)
    for device in jax.devices():
        shards = [part for array in arrays for part in array.addressable_shards]
        held = sum(part.data.nbytes for part in shards if part.device == device)
        # Norms are split over fsdp alone.
        assert held < 0.26 * sum(array.nbytes for array in arrays)


def test_the_moments_lie_where_their_parameters_lie(trained):
    _, _, state = trained((2, 2, 2))
    (adam,) = [
        part for part in jax.tree.leaves(state.optimizer, is_leaf=_is_adam) if _is_adam(part)
    ]
    for moments in (leaves(adam.mu), leaves(adam.nu)):
        for path, parameter in leaves(state.lora).items():
            assert moments[path].sharding.is_equivalent_to(parameter.sharding, parameter.ndim)


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def test_a_fresh_adapter_does_not_depend_on_the_mesh(checkpoint, mesh):
    few = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("k_proj",))
    one, eight = (
        initial_lora(checkpoint.config, few, where, jax.random.key(0))
        for where in (mesh, make_mesh(2, 2, 2))
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(eight))


def test_an_axis_that_does_not_divide_is_kept_whole():
    shapes = nnx.State({"embedding": jax.ShapeDtypeStruct((7, 64), jnp.float32)})
    (sharding,) = jax.tree.leaves(parameter_shardings(shapes, make_mesh(1, 4, 2)))
    assert sharding.spec == jax.P(None, "fsdp")


def test_minus_one_takes_what_is_left():
    assert jax.device_count() == 8
    assert make_mesh(-1, 2, 2).shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh(1, -1, 1).shape == {"data": 1, "fsdp": 8, "tensor": 1}
    assert isinstance(make_mesh(-1, 1, 1), Mesh)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 8, 1), (-1, 0, 1), (-2, -4, 1)]
)
def test_meshes_that_do_not_fit_are_refused(sizes):
    expected = r"mesh: data={}, fsdp={}, tensor={} does not fit 8 device".format(*sizes)
    with pytest.raises(InputError, match=expected):
        make_mesh(*sizes)
