"""What training must not see (`data.holdout`)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ace_jax.errors import InputError


@dataclass(frozen=True)
class Holdout:
    """A share (0 < share < 1) of the questions, kept from training."""

    share: float


def parse(spec: str) -> Holdout | None:
    """Reads `none` or `question:SHARE`; raises InputError for anything else."""
    if spec == "none":
        return None
    unit, _, share = spec.partition(":")
    try:
        holdout = Holdout(float(share))
    except ValueError:
        holdout = Holdout(0.0)
    if unit != "question" or not 0 < holdout.share < 1:
        raise InputError(
            f"data.holdout is {spec!r}; use none, or question:SHARE with 0 < SHARE < 1 "
            "(question:0.2 holds out a fifth of the questions)"
        )
    return holdout


def split_questions(
    question_ids: Sequence[str], spec: str, seed: int
) -> tuple[list[str], list[str]]:
    """Splits question ids into (train, held out), each in the order given.

    Which are held out depends on the ids, the spec and the seed alone, not on their order or
    on the machine. Raises InputError for a spec that is not known or leaves nothing to train on.
    """
    holdout = parse(spec)
    if holdout is None:
        return list(question_ids), []
    count = max(1, round(holdout.share * len(question_ids)))
    if count >= len(question_ids):
        raise InputError(
            f"data.holdout {spec} holds out all {len(question_ids)} questions; use a smaller share"
        )
    held_out = set(sorted(question_ids, key=lambda name: _rank(name, seed))[:count])
    return (
        [name for name in question_ids if name not in held_out],
        [name for name in question_ids if name in held_out],
    )


def _rank(question_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{question_id}".encode()).hexdigest()
