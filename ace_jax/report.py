"""Sets evaluated runs side by side: scores by granularity, gains, effect distances, a picture.

    python -m ace_jax.report --run base=runs/base --run trained=runs/trained --output runs/report
"""

import argparse
from pathlib import Path

import pandas as pd

from ace_jax import command
from ace_jax.analysis.alignment import SCORE_KEY, score_table
from ace_jax.analysis.effects import effect_table
from ace_jax.analysis.figures import score_by_granularity
from ace_jax.analysis.uncertainty import bootstrap_means
from ace_jax.command import say
from ace_jax.errors import InputError
