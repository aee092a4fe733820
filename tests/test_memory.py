"""What a step keeps, what it is compiled to, and a base of fewer bits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from ace_jax.errors import InputError
from ace_jax.losses import Anchor
from ace_jax.model.formats.hf import load_base
from ace_jax.model.formats.hub import open_checkpoint
from ace_jax.model.llama import abstract_model
from ace_jax.model.lora import LoRAConfig
from ace_jax.model.quantization import is_quantized, quantize, widen
from ace_jax.model.sharding import make_mesh
from ace_jax.training.step import objective

LORA = LoRAConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "v_proj", "down_proj"))
FLOAT32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return open_checkpoint(str(tiny_checkpoint))


def random_adapter(abstract):
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(0, 0.2, leaf.shape), jnp.float32), abstract
    )


def gradient_of(model, survey):
    """The loss and its gradient as a function of adapter, base and batch, and a batch."""

    @jax.jit
    def run(lora, base, scoring, targets):
        arguments = (base, model.graph, scoring, targets, (0.7, 1.3), Anchor())
        (loss, _), gradient = jax.value_and_grad(objective, has_aux=True)(lora, *arguments)
        return loss, gradient

    batch = survey.batch((0, 1, 4, 6))
    return run, (batch.scoring, batch.targets)


def drawn(leaf, draw):
    return jnp.asarray(draw.normal(0, 0.15, leaf.shape), jnp.float32)


def test_what_is_kept_changes_memory_and_nothing_else(checkpoint, survey):
    found, memory = {}, {}
    for remat in ("none", "matmuls", "full"):
        deep = replace(checkpoint.config, num_layers=4)
        model = abstract_model(deep, LORA, FLOAT32, remat=remat)
        run, batch = gradient_of(model, survey)
        draw = np.random.default_rng(0)
        base = jax.tree.map(lambda leaf, draw=draw: drawn(leaf, draw), model.base)
        arguments = (random_adapter(model.lora), base, *batch)
        compiled = run.trace(*arguments).lower().compile()
        memory[remat] = compiled.memory_analysis().temp_size_in_bytes
        found[remat] = compiled(*arguments)
    assert memory["full"] < memory["matmuls"] < memory["none"]
    for remat in ("matmuls", "full"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            found[remat],
            found["none"],
        )


def test_a_program_does_not_grow_with_the_layers(checkpoint, survey):
    def operations(layers):
        model = abstract_model(replace(checkpoint.config, num_layers=layers), LORA, FLOAT32)
        run, batch = gradient_of(model, survey)
        lowered = run.trace(model.lora, model.base, *batch).lower()
        return len(lowered.as_text().splitlines())

    assert operations(32) == operations(2)


@pytest.fixture(scope="module")
def wide(checkpoint):
    """The architecture in sizes that NF4's blocks divide."""
    return replace(checkpoint.config, intermediate_size=128)


@pytest.fixture(scope="module")
def of_wide(wide, survey):
    """Its model, loss and gradient, and a batch."""
    model = abstract_model(wide, LORA, FLOAT32)
    return model, *gradient_of(model, survey)


# Half a step of 127 to the largest weight of a channel; NF4's widest gap is 0.304 of a block's.
@pytest.mark.parametrize(("kind", "gap"), [("int8", 1 / 127), ("nf4", 0.31)])
def test_a_quantised_kernel_is_off_by_half_a_step(kind, gap):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 128, 3)), jnp.float32)
    found = np.asarray(widen(quantize(kernel, kind)))
    blocks = np.asarray(kernel).reshape((2, -1, 64 if kind == "nf4" else 128, 3))
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    error = np.abs(found.reshape(blocks.shape) - blocks) / largest
    assert gap / 4 < error.max() <= gap / 2 + 1e-6


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4)])
def test_loss_and_gradient_are_those_of_the_widened_base(kind, bits, wide, of_wide, survey):
    model, of_model, batch = of_wide
    few = abstract_model(wide, LORA, FLOAT32, quantization=kind)
    draw = np.random.default_rng(0)

    def value(leaf, its):
        array = drawn(leaf, draw)
        return quantize(array, kind) if is_quantized(its) else array

    base = jax.tree.map(value, model.base, few.base)
    assert jax.tree.structure(base) == jax.tree.structure(few.base)
    kernels = [leaf for leaf in jax.tree.leaves(base, is_leaf=is_quantized) if is_quantized(leaf)]
    assert len(kernels) == 7
    assert all(jnp.iinfo(kernel.qvalue.dtype).bits == bits for kernel in kernels)
    widened = jax.tree.map(widen, base, is_leaf=is_quantized)
    lora = random_adapter(model.lora)
    of_few, _ = gradient_of(few, survey)
    found, wanted = of_few(lora, base, *batch), of_model(lora, widened, *batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


@pytest.mark.parametrize("sizes", [None, (1, 8, 1), (2, 2, 2)], ids=str)
def test_a_checkpointis_quantized_as_it_is_read(checkpoint, mesh, sizes):
    where = make_mesh(*sizes) if sizes else mesh
    model = abstract_model(checkpoint.config, None, FLOAT32)
    few = abstract_model(checkpoint.config, None, FLOAT32, quantization="int8")
    base = load_base(model.base, checkpoint.source, mesh)
    found = load_base(few.base, checkpoint.source, where)
    assert jax.tree.structure(found) == jax.tree.structure(few.base)
    widened = jax.tree.map(widen, found, is_leaf=is_quantized)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=np.abs(b).max() / 200)

    jax.tree.map(close, jax.device_get(widened), jax.device_get(base))
    assert isinstance(nnx.to_pure_dict(found)["layers"]["q_proj"]["kernel"], qwix.QArray)


def test_what_cannot_be_quantised_is_refused(checkpoint):
    with pytest.raises(
        InputError, match=r"model\.quantization: 'fp4' is not known; did you mean nf4"
    ):
        abstract_model(checkpoint.config, None, FLOAT32, quantization="fp4")
    with pytest.raises(InputError, match="do not divide the 96 inputs of down_proj; use int8"):
        abstract_model(checkpoint.config, None, FLOAT32, quantization="nf4")
    with pytest.raises(InputError, match=r"model\.remat: 'some' is not known; did you mean none"):
        abstract_model(checkpoint.config, None, FLOAT32, remat="some")
