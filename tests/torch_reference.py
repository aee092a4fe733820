"""A slow, obvious PyTorch reference of the ACE-Align paper (section 3 and Eq. 15).

One forward pass per option, no sharing, no batching, no padding. The functions take a loaded
Hugging Face causal language model (bare or wrapped by peft) and leave its mode alone: call
``model.eval()`` first to switch dropout off. Nothing here imports the package under test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

Normalizer = Literal["options", "vocabulary"]


@dataclass(frozen=True)
class Endpoint:
    """One persona and question (s, q): prompt, options, survey distribution, index of its mode."""

    prompt_ids: list[int]
    options: list[list[int]]
    p_data: list[float]
    mode: int


@dataclass(frozen=True)
class Pair:
    """One (A, Z): the same context with A = 0 (``s0``) and with A = 1 (``s1``)."""

    s0: Endpoint
    s1: Endpoint


def option_log_likelihoods(
    model: nn.Module, prompt_ids: list[int], options: list[list[int]]
) -> Tensor:
    """Eq. 2: l(y) = sum_j log p(t_j | prompt, t_<j) for each of the K options."""
    if not prompt_ids or not all(options):
        raise ValueError("the prompt and every option need at least one token")
    device = next(model.parameters()).device
    likelihoods = []
    for option in options:
        ids = torch.tensor([prompt_ids + option], device=device)
        log_p = model(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
        # The logits at position i predict the token at position i + 1.
        start = len(prompt_ids)
        terms = [log_p[start + j - 1, token] for j, token in enumerate(option)]
        likelihoods.append(torch.stack(terms).sum())
    return torch.stack(likelihoods)


def option_distribution(log_likelihoods: Tensor) -> Tensor:
    """Eq. 3: the likelihoods renormalised within the question's own K options."""
    return log_likelihoods.softmax(dim=-1)


def anchor_loss(model: nn.Module, pairs: Sequence[Pair], normalizer: Normalizer) -> Tensor:
    """Eq. 13 summed over both endpoints of a pair, mean over pairs.

    ``options``: -log of Eq. 3 at the mode. ``vocabulary``: -Eq. 2 of the mode's verbalisation.
    """
    if normalizer not in ("options", "vocabulary"):
        raise ValueError(f"unknown normalizer {normalizer!r}")
    losses = []
    for pair in pairs:
        for end in (pair.s0, pair.s1):
            scores = option_log_likelihoods(model, end.prompt_ids, end.options)
            if normalizer == "options":
                scores = scores.log_softmax(dim=-1)
            losses.append(-scores[end.mode])
    return torch.stack(losses).sum() / len(pairs)


def effect_loss(model: nn.Module, pairs: Sequence[Pair]) -> Tensor:
    """Eq. 5-12: mean over pairs of (1/K) sum_k |CDF of the model effect - CDF of the data's|."""
    distances = []
    for pair in pairs:
        s0, s1 = pair.s0, pair.s1
        p0 = option_distribution(option_log_likelihoods(model, s0.prompt_ids, s0.options))
        p1 = option_distribution(option_log_likelihoods(model, s1.prompt_ids, s1.options))
        effect_model = p1 - p0  # Eq. 6
        effect_data = p1.new_tensor(s1.p_data) - p0.new_tensor(s0.p_data)  # Eq. 8
        delta = effect_model.cumsum(0) - effect_data.cumsum(0)  # Eq. 9, 10
        distances.append(delta.abs().mean())  # Eq. 11
    return torch.stack(distances).mean()  # Eq. 12


def total_loss(
    model: nn.Module, pairs: Sequence[Pair], alpha: float, beta: float, normalizer: Normalizer
) -> Tensor:
    """Eq. 14: alpha * anchor + beta * effect."""
    return alpha * anchor_loss(model, pairs, normalizer) + beta * effect_loss(model, pairs)


def alignment_score(p: ArrayLike | Tensor, q: ArrayLike | Tensor) -> float:
    """Eq. 15 for one cell: 1 - W1(p, q) / (K - 1), options at positions 0 .. K-1."""
    p_weights, q_weights = (
        x.detach().cpu().double().numpy() if isinstance(x, Tensor) else np.asarray(x, np.float64)
        for x in (p, q)
    )
    positions = np.arange(len(p_weights))
    w1 = wasserstein_distance(positions, positions, p_weights, q_weights)
    return float(1.0 - w1 / (len(positions) - 1))


def lora_gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of ``loss`` by name of every trainable (LoRA) parameter; ``.grad`` is untouched."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trainable.values()))
    return dict(zip(trainable, gradients, strict=True))


def train_adapter(
    model: nn.Module,
    batches: list[list[Pair]],
    alpha: float,
    beta: float,
    normalizer: Normalizer,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> list[float]:
    """One AdamW step on Eq. 14 per batch, in place; the losses are those before each step."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay
    )
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = total_loss(model, batch, alpha, beta, normalizer)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses
