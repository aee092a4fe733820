"""The model's answer distribution: Eq. 2 and 3 of the paper.

Shapes: C cells of up to K options, R rows, S scored nodes and E edges a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key

from ace_jax.model.llama import Llama
from ace_jax.model.sharding import replicated
from ace_jax.prompts.batches import Scoring

Answered = tuple[Float[Array, "C K"], Float[Array, "C"]]
ScoringStep = Callable[[nnx.State, nnx.State, Scoring], Answered]


def option_log_likelihoods(
    model: Llama, batch: Scoring, key: Key[Array, ""] | None = None
) -> Float[Array, "C K"]:
    """Returns l(y | g, q), the sum of an option's token log-probabilities (Eq. 2), in float32.

    Without `key` there is no LoRA dropout. Options beyond a question's own are 0; mask them with
    `batch.option_mask`.
    """
    rows = (batch.tokens, batch.depth, batch.tin, batch.tout, batch.stems)
    logits = model.logits(model(*rows, batch.scored, key))
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    edges = jax.vmap(lambda logits, total, slot, token: logits[slot, token] - total[slot])(
        logits, normaliser, batch.edge_slot, batch.edge_token
    )
    cells, options = batch.option_mask.shape
    # A padding edge's target lies out of range, where a segment sum drops it.
    sums = jax.ops.segment_sum(edges.ravel(), batch.edge_target.ravel(), cells * options)
    return sums.reshape(cells, options)


def option_log_probabilities(
    log_likelihoods: Float[Array, "C K"], option_mask: Bool[Array, "C K"]
) -> Float[Array, "C K"]:
    """Returns log p(y | g, q), renormalised over the question's options (Eq. 3).

    An option that the question does not have gets -inf.
    """
    return jax.nn.log_softmax(log_likelihoods, axis=-1, where=option_mask)


def option_mass(
    log_likelihoods: Float[Array, "C K"], option_mask: Bool[Array, "C K"]
) -> Float[Array, "C"]:
    """Returns the probability that the model puts on the K options before renormalising."""
    return jnp.sum(jnp.exp(log_likelihoods), axis=-1, where=option_mask)


def make_scoring_step(graph: nnx.GraphDef, mesh: Mesh) -> ScoringStep:
    """Returns the function of adapter, base and batch that evaluation runs, compiled.

    It gives the probability of each option (Eq. 3), and of all options before renormalising.
    """

    @jax.jit
    def answer(lora: nnx.State, base: nnx.State, batch: Scoring) -> Answered:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            log_likelihoods = option_log_likelihoods(nnx.merge(graph, lora, base), batch)
        log_p = option_log_probabilities(log_likelihoods, batch.option_mask)
        mass = option_mass(log_likelihoods, batch.option_mask)
        return jax.lax.with_sharding_constraint((jnp.exp(log_p), mass), replicated(mesh))

    return answer
