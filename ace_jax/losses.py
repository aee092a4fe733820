"""The objective, Eq. 9-14 of the paper, and what other work puts in the place of Eq. 13.

Shapes: C cells of up to K options, Q pairs. Every loss takes the model's answers (`log_p`, or
`p_model`, Eq. 3), the survey's (`p_data`, 0 where a question has no option; or their `mode`),
`option_mask` (which options a question has), `pairs` (the two indices of a pair's endpoints, A=0
first) and `pair_weight` (of mean 1 over a whole survey; 0 for a padding pair).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ace_jax.errors import InputError, check_known
from ace_jax.prompts.batches import Targets

Kind = Literal["mode", "forward_kl", "wasserstein"]
Normalizer = Literal["options", "vocabulary"]


@dataclass(frozen=True)
class Anchor:
    """Which anchor loss is used.

    Attributes:
      kind: `mode` is Eq. 13, `forward_kl` and `wasserstein` compare whole distributions.
      normalizer: whether probabilities are normalised over the question's `options` (Eq. 3) or over
        the whole `vocabulary` (Eq. 2).
    """

    kind: Kind = "mode"
    normalizer: Normalizer = "options"

    @classmethod
    def of(cls, kind: str, normalizer: str) -> "Anchor":
        """Reads `objective.anchor` and `objective.anchor_normalizer`.

        Raises `InputError` for unknown names, or a distance that is normalised over the vocabulary.
        """
        check_known(kind, get_args(Kind), "objective.anchor")
        check_known(normalizer, get_args(Normalizer), "objective.anchor_normalizer")
        if kind == "wasserstein" and normalizer != "options":
            raise InputError(
                "objective.anchor: wasserstein compares distributions over the options; set "
                "objective.anchor_normalizer to options"
            )
        return cls(kind, normalizer)  # type: ignore[arg-type]

    def loss(
        self,
        log_likelihoods: Float[Array, "C K"],
        log_p: Float[Array, "C K"],
        targets: Targets,
        option_mask: Bool[Array, "C K"],
    ) -> Float[Array, ""]:
        """Returns the loss, given Eq. 2 and Eq. 3."""
        pairs, weight = targets.pairs, targets.pair_weight
        anchored = log_p if self.normalizer == "options" else log_likelihoods
        match self.kind:
            case "mode":
                return anchor_loss(anchored, targets.mode, pairs, weight)
            case "forward_kl":
                return forward_kl_loss(anchored, targets.p_data, option_mask, pairs, weight)
            case "wasserstein":
                return wasserstein_loss(jnp.exp(log_p), targets.p_data, option_mask, pairs, weight)


def anchor_loss(
    log_p: Float[Array, "C K"],
    mode: Int[Array, "C"],
    pairs: Int[Array, "Q 2"],
    pair_weight: Float[Array, "Q"],
) -> Float[Array, ""]:
    """Returns -log p of the survey's most frequent answer (Eq. 13).

    Summed over the two endpoints of a pair, mean over pairs. `log_p` is Eq. 3 for the normaliser
    `options`, Eq. 2 for `vocabulary`.
    """
    nll = -jnp.take_along_axis(log_p, mode[:, None], axis=1)[:, 0]
    return mean_over_pairs(nll[pairs].sum(axis=1), pair_weight)


def forward_kl_loss(
    log_p: Float[Array, "C K"],
    p_data: Float[Array, "C K"],
    option_mask: Bool[Array, "C K"],
    pairs: Int[Array, "Q 2"],
    pair_weight: Float[Array, "Q"],
) -> Float[Array, ""]:
    """Returns KL(survey || model), the loss of SubPOP (Suh et al., 2025); `log_p` is as in Eq. 13.

    It is the cross-entropy to the whole distribution of answers, less the survey's entropy, which
    no parameter changes. Summed over the two endpoints of a pair, mean over pairs: where everyone
    gives one answer it is the anchor loss.
    """
    log_q = jnp.where(option_mask, log_p, 0)  # 0 times the -inf of a missing option is NaN
    divergence = jnp.sum(jax.scipy.special.xlogy(p_data, p_data) - p_data * log_q, axis=-1)
    return mean_over_pairs(divergence[pairs].sum(axis=1), pair_weight)


def wasserstein_loss(
    p_model: Float[Array, "C K"],
    p_data: Float[Array, "C K"],
    option_mask: Bool[Array, "C K"],
    pairs: Int[Array, "Q 2"],
    pair_weight: Float[Array, "Q"],
) -> Float[Array, ""]:
    """Returns the distance of the answers themselves, W1 / (K - 1) as in Eq. 15.

    Mean over the two endpoints of a pair and over pairs, so that it is 1 minus their score.
    """
    difference = jnp.abs(jnp.cumsum(p_model - p_data, axis=-1))
    steps = option_mask.sum(axis=-1) - 1
    # A padding cell has one option; 0 / 0 in its distance would be NaN in every gradient.
    distance = jnp.sum(difference, axis=-1, where=option_mask) / jnp.maximum(steps, 1)
    return mean_over_pairs(distance[pairs].mean(axis=1), pair_weight)


def effect_loss(
    p_model: Float[Array, "C K"],
    p_data: Float[Array, "C K"],
    option_mask: Bool[Array, "C K"],
    pairs: Int[Array, "Q 2"],
    pair_weight: Float[Array, "Q"],
) -> Float[Array, ""]:
    """Returns the delta-CDF distance between the model's and the survey's effects (Eq. 9-12).

    Example: over three options the survey moves 0.3 from the first to the last, the model nothing.
    The cumulative differences are 0.3, 0.3, 0; the distance is their mean, 0.2.
    """
    effect_model, effect_data = (p[pairs[:, 1]] - p[pairs[:, 0]] for p in (p_model, p_data))
    difference = jnp.cumsum(effect_model - effect_data, axis=-1)
    options = option_mask[pairs[:, 0]]
    distance = jnp.mean(jnp.abs(difference), axis=-1, where=options)
    return mean_over_pairs(distance, pair_weight)


def mean_over_pairs(values: Float[Array, "Q"], pair_weight: Float[Array, "Q"]) -> Float[Array, ""]:
    """Returns the sum of the weighted values over the number of pairs, padding left out.

    The weights of a batch are not brought to mean 1: a batch of imprecise pairs counts for less.
    """
    return jnp.sum(values * pair_weight) / jnp.sum(pair_weight > 0)
