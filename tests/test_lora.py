"""The low-rank branch by itself."""

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax.model.lora import product


def test_the_gradient_of_an_adapter_on_a_bfloat16_model_is_not_rounded():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(3, 200, 16)), jnp.bfloat16)
    weight = jnp.asarray(draw.normal(size=(16, 4)), jnp.float32)
    seed = jnp.asarray(draw.normal(size=(3, 200, 4)), jnp.bfloat16)

    y, backward = jax.vjp(product, x, weight)
    gradient_x, gradient = backward(seed)
    assert (y.dtype, gradient_x.dtype, gradient.dtype) == (x.dtype, x.dtype, weight.dtype)
    wide_x, wide_seed = (np.asarray(part, np.float64) for part in (x, seed))
    wanted = np.einsum("rni,rno->io", wide_x, wide_seed)
    # bfloat16 would be off by up to one part in 256.
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-4)
    rounded = jax.grad(lambda w: jnp.vdot(x @ w.astype(x.dtype), seed))(weight)
    assert np.abs(rounded - wanted).max() > 0.01


def test_in_float32_it_is_a_matrix_product():
    draw = np.random.default_rng(1)
    x, weight = (jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((5, 7), (7, 3)))
    found, wanted = (
        jax.value_and_grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), argnums=(0, 1))(x, weight)
        for f in (product, jnp.matmul)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
