"""Where a dataset comes from, and every rule that made it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ace_jax import __version__
from ace_jax.survey.codebook import Codebook, describe

COMPLETE = "level of every attribute known"


def make_manifest(
    codebook: Codebook, paths: list[Path], weights: str | None, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the manifest but for its counts.

    Args:
      codebook: as applied, with rules moved.
      paths: the files read; told by name and SHA-256.
      weights: the column of survey weights.
      notes: what the source says of itself (`sources.Raw`).
    """
    return {
        "version": __version__,
        "source": codebook.source,
        "citation": codebook.citation,
        # By name, so that the order on the command line does not show.
        "inputs": [
            {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(paths, key=lambda path: path.name)
        ],
        "attributes": {attribute.name: list(attribute.levels) for attribute in codebook.attributes},
        "rules": describe(codebook)
        | dict(notes)
        | {"weights": weights, "filters": [*notes.get("filters", []), COMPLETE]},
        "estimator": "raw",
    }
