"""Lists of prompts to answers, in batches whose prompts share what they have in common."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ace_jax.errors import check_positive
from ace_jax.evaluation.answers import Answers
from ace_jax.model.sharding import place_scoring, row_shards
from ace_jax.prompts.batches import Scoring, Shapes, alike, scoring
from ace_jax.prompts.encode import Prompt
from ace_jax.recipe import ROW_LENGTHS
from ace_jax.runtime.processes import Agreement, raise_if
from ace_jax.runtime.progress import progress
from ace_jax.runtime.saved_answers import Progress, SavedAnswers


@dataclass(frozen=True)
class Batching:
    """How prompts are laid out: how many share a trie, and the allowed trie nodes a row."""

    size: int = 80
    row_lengths: tuple[int, ...] = ROW_LENGTHS

    def shapes(self, prompts: Sequence[Prompt], mesh: Mesh) -> Shapes:
        """Returns the shapes of the batches; raises `InputError` if a prompt does not fit."""
        check_positive("batch.size", self.size)
        options = max(len(prompt.options) for prompt in prompts)
        shapes = Shapes(self.row_lengths, row_shards(mesh), options)
        shapes.check(prompts)
        return shapes


def ask(
    forward: Callable[[Scoring], Any],
    mesh: Mesh,
    prompts: Mapping[str, Sequence[Prompt]],
    batching: Batching,
    *,
    saved: SavedAnswers | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Answers]:
    """Returns the answers to lists of prompts, in their order, by name.

    Args:
      forward: the model on one batch: distributions and option mass, on the devices.
      mesh: devices.
      prompts: name -> prompts; those of one name share batches.
      batching: how they are laid out.
      saved: where answers are saved meanwhile, and gone on from.
      stop: set when this process is asked to end.

    Raises:
      InputError: a prompt longer than the longest row, or `saved` cannot be read or written.
      Stopped: any process was asked to end; all end after the same batch.
    """
    every = [prompt for named in prompts.values() for prompt in named]
    shapes = batching.shapes(every, mesh)
    batches, first = [], 0
    for named in prompts.values():
        batches += [[first + row for row in rows] for rows in alike(named, batching.size)]
        first += len(named)
    done = Progress.empty(len(every), shapes.options)
    done = saved.restore(done) if saved else done
    agreement, stopped = Agreement(mesh), False
    laid_out = (
        (rows, scoring([every[row] for row in rows], shapes, batching.size))
        for rows in batches[done.batches :]
    )
    with closing(progress("evaluate", "batch", done.batches, len(batches))) as bar:
        for rows, p, mass in _run(forward, mesh, laid_out):
            done.p[rows], done.option_mass[rows] = p, mass
            done.batches += 1
            bar.update()
            late = saved is not None and saved.is_late()
            stopped, late = np.asarray(agreement(bool(stop and stop.is_set()), late)).tolist()
            if saved and (stopped or late or done.batches == len(batches)):
                saved.save(done)
            if stopped:
                break
    raise_if(stopped, f"after batch {done.batches} of {len(batches)}")
    return done.by_name(prompts)


def _run(
    forward: Callable[[Scoring], Any], mesh: Mesh, batches: Iterator[tuple[list[int], Scoring]]
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yields each batch's rows, distributions and option mass.

    The next batch is laid out and started before this one's results are fetched.
    """
    started = ((rows, forward(place_scoring(batch, mesh))) for rows, batch in batches)
    for (rows, running), _ in pairwise(chain(started, [([], None)])):
        p, mass = jax.device_get(running)
        yield rows, p[: len(rows)], mass[: len(rows)]
