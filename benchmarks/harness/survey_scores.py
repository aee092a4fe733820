"""What lm-evaluation-harness makes of a document: alignment score (Eq. 15) and option mass."""

import math


def process_results(doc, results):
    """Scores the log-likelihoods of the labels against the survey's shares."""
    logs = [result[0] for result in results]
    mass = sum(map(math.exp, logs))
    cumulative, moved = 0.0, 0.0
    for log, share in zip(logs[:-1], doc["p"][:-1], strict=True):
        cumulative += math.exp(log) / mass - share
        moved += abs(cumulative)
    return {"alignment": 100 * (1 - moved / (len(logs) - 1)), "option_mass": mass}
