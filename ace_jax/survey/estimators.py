"""Estimates of a cell's distribution that borrow from its question and country.

A finest cell (all attributes named) is drawn towards what main effects say of its persona; the
model, and what it is worth, is in docs/estimators.md. Everything is estimated from cells alone.

Shapes: C contexts of K options each, F finest personas, P terms of the main-effects model (the
intercept first), D = K - 1 contrasts between options (the linear one first).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.interpolate import CubicSpline
from scipy.special import gammaln, softmax

from ace_jax.survey.personas import Attribute, combinations

# Half a respondent an option and context (Jeffreys), so that no option is impossible.
UNSEEN = 0.5
# What tau can be: from hardly any prior to the main effects and nothing else.
STRENGTHS = np.geomspace(1, 1e5, 401)
# Its likelihood is computed at these only, and smooth enough to be interpolated.
KNOTS = STRENGTHS[::25]
ROUNDS, NEWTON_STEPS, MIXING_STEPS = 20, 50, 200
TOLERANCE = 1e-6
START_VARIANCE, SMALLEST_VARIANCE, START_STRENGTH = 0.05, 1e-4, 100.0


@dataclass(frozen=True)
class Prior:
    """What a cell is drawn towards, and how strongly.

    Attributes:
      mean: for every finest cell, in the order of the table, its main-effects distribution.
      strength: tau by question_id, in respondents.
      variance: of the main effects, on the log-odds scale: of their linear trend over the
        options, and of every other contrast between options.
    """

    mean: list[Float[np.ndarray, "_"]]
    strength: dict[str, float]
    variance: Float[np.ndarray, "2"]


def shrunk(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> list[np.ndarray]:
    """Returns the shrunk distribution (float64) of every cell of `cells.aggregate`, in its order.

    A finest cell is the posterior mean (n p + tau m) / (n + tau), with effective_n for n. A coarser
    one moves by the n-weighted mean of what its finest cells move by: without survey weights it
    is therefore their n-weighted mean, and with them it keeps its own weighting.
    """
    return posterior(cells, attributes, main_effects(cells, attributes))


def pair_precision(
    n_0: Float[np.ndarray, "Q"], n_1: Float[np.ndarray, "Q"]
) -> Float[np.ndarray, "Q"]:
    """Returns a weight for each pair, of mean 1, proportional to the precision of its raw effect.

    The variance of the difference of two independent cells goes as 1 / n_0 + 1 / n_1.

    Args:
      n_0: effective_n of the pairs' A=0 cells.
      n_1: of their A=1 cells.
    """
    precision = 1 / (1 / n_0 + 1 / n_1)
    return precision / precision.mean()


def posterior(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...], prior: Prior
) -> list[np.ndarray]:
    """Returns what `shrunk` does, given the prior (`main_effects` of the same table)."""
    names = [attribute.name for attribute in attributes]
    raw = _padded(cells["p"])
    is_finest = cells[names].notna().all(axis=1).to_numpy()
    finest = cells[is_finest]
    tau = finest["question_id"].map(prior.strength).to_numpy(np.float64)
    drawn = tau / (finest["effective_n"].to_numpy() + tau)
    # By how much respondents' answers move, so that coarser cells are sums.
    moved = (drawn * finest["n"].to_numpy())[:, None] * (_padded(prior.mean) - raw[is_finest])
    moved = finest[["question_id", "country", *names, "n"]].join(
        pd.DataFrame(moved, index=finest.index)
    )
    estimate = raw.copy()
    for granularity in range(1, len(attributes) + 1):
        for chosen in combinations(attributes, granularity):
            named = [attribute.name for attribute in chosen]
            these = (cells[names].notna() == [name in named for name in names]).all(axis=1)
            keys = ["question_id", "country", *named]
            sums = moved.groupby(keys, observed=True).sum(numeric_only=True)
            sums = sums.loc[pd.MultiIndex.from_frame(cells.loc[these, keys])]
            estimate[these] += sums.drop(columns="n").to_numpy() / sums[["n"]].to_numpy()
    # Below zero only by rounding, or where survey weights and n weigh finest cells differently.
    estimate = np.maximum(estimate, 0)
    estimate /= estimate.sum(axis=1, keepdims=True)
    return [row[: len(p)] for row, p in zip(estimate, cells["p"], strict=True)]


def main_effects(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> Prior:
    """Fits the main-effects model of every question and country, and how far it can be trusted.

    The variances are those of all contexts together, tau is a question's own: the mean of log tau
    under a distribution over STRENGTHS that all questions together estimate. Each round fits the
    effects given these, and these given the effects (Laplace's approximation).
    """
    names = [attribute.name for attribute in attributes]
    finest = cells[cells[names].notna().all(axis=1)].reset_index(drop=True)
    groups = _groups(finest, attributes)
    questions = pd.unique(finest["question_id"])
    tau = np.full(len(questions), START_STRENGTH)
    variance = np.full(2, START_VARIANCE)
    effects = [group.without_effects() for group in groups]
    for _ in range(ROUNDS):
        effects = _fitted(groups, effects, tau, variance)
        before, variance = variance, _variance(groups, effects, tau, variance)
        tau = _strengths(_evidence(groups, effects, variance, len(questions)))
        if np.allclose(variance, before, rtol=0.01, atol=SMALLEST_VARIANCE):
            break
    effects = _fitted(groups, effects, tau, variance)
    mean: list[np.ndarray] = [np.empty(0)] * len(finest)
    for group, theta in zip(groups, effects, strict=True):
        for row, p in zip(group.row, group.mean(theta)[group.context, group.persona], strict=True):
            mean[row] = p
    return Prior(mean, dict(zip(questions, tau.tolist(), strict=True)), variance)


@dataclass(frozen=True)
class _Contexts:
    """The contexts of K options.

    Attributes:
      counts: answers (n p), zero for a persona that nobody has.
      design: the terms of each persona.
      options: orthonormal contrasts between options.
      question: of each context, its position among all questions.
      row, context, persona: of each finest cell, where it is in the table and in `counts`.
    """

    counts: Float[np.ndarray, "C F K"]
    design: Float[np.ndarray, "F P"]
    options: Float[np.ndarray, "K D"]
    question: Int[np.ndarray, "C"]
    row: Int[np.ndarray, "R"]
    context: Int[np.ndarray, "R"]
    persona: Int[np.ndarray, "R"]

    @property
    def smoothed(self) -> Float[np.ndarray, "C F K"]:
        """Answers, and UNSEEN ones spread over personas as respondents are."""
        n = self.counts.sum(axis=2, keepdims=True)
        return self.counts + UNSEEN * n / n.sum(axis=1, keepdims=True)

    def without_effects(self) -> Float[np.ndarray, "C P D"]:
        """Returns where the fit starts: every persona answers alike."""
        theta = np.zeros((len(self.counts), self.design.shape[1], self.options.shape[1]))
        theta[:, 0] = np.log(self.smoothed.sum(axis=1)) @ self.options
        return theta

    def mean(self, theta: Float[np.ndarray, "C P D"]) -> Float[np.ndarray, "C F K"]:
        """Returns the main-effects distributions."""
        return softmax(self.design @ theta @ self.options.T, axis=2)

    def fitted(
        self,
        theta: Float[np.ndarray, "C P D"],
        tau: Float[np.ndarray, "C"],
        variance: Float[np.ndarray, "2"],
    ) -> Float[np.ndarray, "C P D"]:
        """Returns the most probable effects, by Newton's method from `theta` in all contexts."""
        weight = self.weight(tau)
        answers = self.smoothed
        total = answers.sum(axis=2, keepdims=True)
        for _ in range(NEWTON_STEPS):
            mean = self.mean(theta)
            residual = weight[:, :, None] * (answers - total * mean)
            gradient = self.design.T @ residual @ self.options
            gradient -= self.prior_precision(variance) * theta
            information = self.information(self.covariance(mean), weight, variance)
            step = np.linalg.solve(information, gradient.reshape(len(theta), -1, 1))
            step = step.reshape(theta.shape)
            # Shorter than Newton's while log-odds move much, so that no context overshoots.
            move = np.abs(self.design @ step @ self.options.T).max(axis=(1, 2), keepdims=True)
            theta = theta + step / (1 + move)
            if move.max() < TOLERANCE:
                break
        return theta

    def weight(self, tau: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C F"]:
        """Returns what an answer tells about the mean: less where cells differ beyond it."""
        return (tau[:, None] + 1) / (tau[:, None] + self.counts.sum(axis=2))

    def prior_precision(self, variance: Float[np.ndarray, "2"]) -> Float[np.ndarray, "P D"]:
        """Returns 1 / variance of every coefficient; none for the intercept."""
        precision = np.full((self.design.shape[1], self.options.shape[1]), 1 / variance[1])
        precision[:, 0] = 1 / variance[0]
        precision[0] = 0
        return precision

    def covariance(self, mean: Float[np.ndarray, "C F K"]) -> Float[np.ndarray, "C F D D"]:
        """Returns the covariance of one answer, in contrasts."""
        square = np.einsum("cfk,kd,ke->cfde", mean, self.options, self.options, optimize=True)
        contrast = mean @ self.options
        return square - contrast[..., :, None] * contrast[..., None, :]

    def information(
        self,
        covariance: Float[np.ndarray, "C F D D"],
        weight: Float[np.ndarray, "C F"],
        variance: Float[np.ndarray, "2"],
    ) -> Float[np.ndarray, "C PD PD"]:
        """Returns minus the second derivatives of the effects' log posterior."""
        count, personas, contrasts, _ = covariance.shape
        terms = self.design.shape[1]
        size = terms * contrasts
        each = (weight * self.smoothed.sum(axis=2))[..., None, None] * covariance
        each = each.reshape(count, personas, -1).transpose(0, 2, 1)
        outer = self.design[:, :, None] * self.design[:, None, :]
        summed = (each @ outer.reshape(personas, -1)).reshape(
            count, contrasts, contrasts, terms, terms
        )
        information = summed.transpose(0, 3, 1, 4, 2).reshape(count, size, size)
        return information + np.diag(self.prior_precision(variance).ravel())

    def evidence(
        self, theta: Float[np.ndarray, "C P D"], variance: Float[np.ndarray, "2"]
    ) -> Float[np.ndarray, "C knots"]:
        """Returns the log-likelihood of each of KNOTS, up to a constant.

        Dirichlet-multinomial at the fitted mean, less what fitting it took (Laplace): without
        that, the mean's closeness to the very answers it was fitted to passes for strength.
        """
        mean = self.mean(theta)
        covariance = self.covariance(mean)
        n = self.counts.sum(axis=2)
        columns = []
        for tau in KNOTS:
            alpha = tau * mean
            likelihood = (gammaln(self.counts + alpha) - gammaln(alpha)).sum(axis=(1, 2))
            likelihood += (gammaln(tau) - gammaln(n + tau)).sum(axis=1)
            weight = self.weight(np.full(len(mean), tau))
            _, log_det = np.linalg.slogdet(self.information(covariance, weight, variance))
            columns.append(likelihood - log_det / 2)
        return np.stack(columns, axis=1)


def _fitted(
    groups: list[_Contexts],
    effects: list[np.ndarray],
    tau: Float[np.ndarray, "questions"],
    variance: Float[np.ndarray, "2"],
) -> list[np.ndarray]:
    return [
        group.fitted(theta, tau[group.question], variance)
        for group, theta in zip(groups, effects, strict=True)
    ]


def _evidence(
    groups: list[_Contexts],
    effects: list[np.ndarray],
    variance: Float[np.ndarray, "2"],
    questions: int,
) -> Float[np.ndarray, "questions T"]:
    """Returns the log-likelihood of each of STRENGTHS, summed over a question's countries."""
    evidence = np.zeros((questions, len(KNOTS)))
    for group, theta in zip(groups, effects, strict=True):
        np.add.at(evidence, group.question, group.evidence(theta, variance))
    return CubicSpline(np.log(KNOTS), evidence, axis=1)(np.log(STRENGTHS))


def _groups(finest: pd.DataFrame, attributes: tuple[Attribute, ...]) -> list[_Contexts]:
    """Returns the contexts by their number of options, so that each lot is one array."""
    names = [attribute.name for attribute in attributes]
    personas = finest[names].drop_duplicates()
    persona = finest.groupby(names, sort=False, observed=True).ngroup().to_numpy()
    question = pd.factorize(finest["question_id"])[0]
    context = finest.groupby(["question_id", "country"], sort=False, observed=True).ngroup()
    sizes = finest["p"].map(len).to_numpy()
    groups = []
    for size in np.unique(sizes):
        row = np.flatnonzero(sizes == size)
        _, first, position = np.unique(context.iloc[row], return_index=True, return_inverse=True)
        counts = np.zeros((len(first), len(personas), int(size)))
        n = finest["effective_n"].to_numpy()[row, None]
        counts[position, persona[row]] = n * np.stack(finest["p"].iloc[row].to_list())
        groups.append(
            _Contexts(
                counts,
                _design(personas, attributes),
                _contrasts(int(size)),
                question[row[first]],
                row,
                position,
                persona[row],
            )
        )
    return groups


def _design(personas: pd.DataFrame, attributes: tuple[Attribute, ...]) -> Float[np.ndarray, "F P"]:
    """Returns an intercept and levels - 1 contrasts an attribute; two levels are -1 and 1."""
    terms = [np.ones((len(personas), 1))]
    for attribute in attributes:
        size = len(attribute.levels)
        level = personas[attribute.name].map(attribute.levels.index).to_numpy()
        # Scaled so that a level's effect has the same variance however many levels there are.
        terms.append((_contrasts(size) * np.sqrt(size / (size - 1)))[level])
    return np.concatenate(terms, axis=1)


def _contrasts(size: int) -> Float[np.ndarray, "size contrasts"]:
    """Returns size - 1 orthonormal columns of sum zero, the first of them linear."""
    powers = np.vander(np.linspace(-1, 1, size), increasing=True)
    return np.linalg.qr(powers)[0][:, 1:]


def _variance(
    groups: list[_Contexts],
    effects: list[np.ndarray],
    tau: Float[np.ndarray, "questions"],
    variance: Float[np.ndarray, "2"],
) -> Float[np.ndarray, "2"]:
    """Returns squares of the effects, each kind's sum over the number that data determine.

    MacKay's fixed point for the maximum of the evidence.
    """
    square, determined = np.zeros(2), np.zeros(2)
    for group, theta in zip(groups, effects, strict=True):
        weight = group.weight(tau[group.question])
        information = group.information(group.covariance(group.mean(theta)), weight, variance)
        spread = np.diagonal(np.linalg.inv(information), axis1=1, axis2=2).reshape(theta.shape)
        known = 1 - spread * group.prior_precision(variance)
        for kind, of in enumerate((np.s_[:, 1:, :1], np.s_[:, 1:, 1:])):
            square[kind] += (theta[of] ** 2).sum()
            determined[kind] += known[of].sum()
    return np.maximum(square / np.maximum(determined, TOLERANCE), SMALLEST_VARIANCE)


def _strengths(evidence: Float[np.ndarray, "questions T"]) -> Float[np.ndarray, "questions"]:
    """Returns each question's tau (empirical Bayes: questions share a distribution of it)."""
    likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    share = np.full(len(STRENGTHS), 1 / len(STRENGTHS))
    for _ in range(MIXING_STEPS):
        joint = likelihood * share
        belief = joint / joint.sum(axis=1, keepdims=True)
        share = belief.mean(axis=0)
    return np.exp(belief @ np.log(STRENGTHS))


def _padded(p: Sequence[np.ndarray] | pd.Series) -> Float[np.ndarray, "cells width"]:
    padded = np.zeros((len(p), max(map(len, p))))
    for row, one in zip(padded, p, strict=True):
        row[: len(one)] = one
    return padded
