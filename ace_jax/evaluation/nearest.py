"""Which questions of a survey are worded most like a new one (TF-IDF, cosine similarity)."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.prompts.encode import Question


def nearest_questions(
    questions: Sequence[Question], known: pd.DataFrame, most: int
) -> pd.DataFrame:
    """Returns the questions of a survey that are most like each new one, the nearest first.

    Args:
      questions: new ones.
      known: question_id, text and option_labels of the survey's.
      most: how many a question.

    Returns:
      Columns question_id, rank (from 1), nearest_id, similarity (0: no word in common; 1: the same
      words) and nearest_text.
    """
    texts = [" ".join([question.text, *question.options]) for question in questions]
    others = [
        " ".join([text, *labels])
        for text, labels in zip(known["text"], known["option_labels"], strict=True)
    ]
    weights = _tf_idf(texts + others)
    similarity = weights[: len(texts)] @ weights[len(texts) :].T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :most]
    many, rows = order.shape[1], order.ravel()
    return pd.DataFrame(
        {
            "question_id": np.repeat([question.id for question in questions], many),
            "rank": np.tile(np.arange(1, many + 1), len(questions)),
            "nearest_id": known["question_id"].to_numpy()[rows],
            "similarity": np.take_along_axis(similarity, order, axis=1).ravel(),
            "nearest_text": known["text"].to_numpy()[rows],
        }
    )


def _tf_idf(texts: Sequence[str]) -> Float[np.ndarray, "texts words"]:
    """Returns rows of norm 1: how often each word is in a text, less what is in most texts."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    words = sorted({word for count in counts for word in count})
    table = np.array([[count[word] for word in words] for count in counts], float)
    table *= np.log((1 + len(texts)) / (1 + (table > 0).sum(axis=0))) + 1
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
