"""The answers of an evaluation that is not done, kept in its directory to go on from."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ace_jax.errors import InputError
from ace_jax.prompts.encode import Prompt
from ace_jax.runtime.processes import as_leading, lead

FILE = "answers.partial"
EVERY_SECONDS = 120  # between two times that answers are kept, while they come
P, MASS, BATCHES, ASKED = "p", "option_mass", "batches", "asked"


@dataclass
class SoFar:
    """Answers to the prompts of the first batches; zeros to the others.

    Attributes:
      p: the distribution over each prompt's options, and zeros beyond them.
      option_mass: probability on the options before renormalising.
      batches: how many are answered.
    """

    p: Float[np.ndarray, "prompts K"]
    option_mass: Float[np.ndarray, "prompts"]
    batches: int

    @classmethod
    def none(cls, prompts: int, options: int) -> "SoFar":
        """Returns that no batch is answered."""
        return cls(np.zeros((prompts, options), np.float32), np.zeros(prompts, np.float32), 0)


class Partial:
    """The file with the answers so far; read and written by the leading process alone.

    It belongs to one evaluation, and is complete or absent: a new one takes the old one's place.

    Args:
      workdir: where it lies.
      asked: all that the answers depend on, to put in JSON; only the leading process's counts.
    """

    def __init__(self, workdir: Path, asked: Mapping[str, object]):
        self._file = workdir / FILE
        self._asked = json.loads(json.dumps(asked))
        self._last = time.monotonic()

    def check(self) -> None:
        """Raises `InputError` where there is a file that is damaged or of another evaluation."""
        lead(self._check)

    def restore(self, none: SoFar) -> SoFar:
        """Returns what was kept, on every process; `none` where that is nothing.

        Raises `InputError` as `check`.
        """
        found = lead(lambda: self._read(none)) or none
        p, mass, batches = as_leading((found.p, found.option_mass, np.int32(found.batches)))
        return SoFar(np.array(p), np.array(mass), int(batches))

    def is_late(self) -> bool:
        """Returns whether it is time to keep the answers, by this host's clock."""
        return time.monotonic() - self._last > EVERY_SECONDS

    def keep(self, so_far: SoFar) -> None:
        """Writes the answers so far; called by all processes.

        Raises `InputError` where they cannot be written.
        """
        self._last = time.monotonic()
        lead(lambda: self._write(so_far))

    def drop(self) -> None:
        """Deletes the file, when all that was made of it is written."""
        lead(lambda: self._file.unlink(missing_ok=True))

    def _check(self) -> None:
        if not self._file.is_file():
            return
        try:
            with safe_open(self._file, "numpy") as kept:
                asked = dict(json.loads(kept.metadata()[ASKED]))
        except (OSError, LookupError, SafetensorError, TypeError, ValueError) as error:
            raise self._damaged(error) from None
        differing = sorted(
            name
            for name in asked.keys() | self._asked.keys()
            if asked.get(name) != self._asked.get(name)
        )
        if differing:
            raise InputError(
                f"{self._file} has answers of an evaluation that was stopped, of another "
                f"{', '.join(differing)}; go on with that one, choose another --workdir, or delete "
                "the file"
            )

    def _read(self, none: SoFar) -> SoFar:
        self._check()
        if not self._file.is_file():
            return none
        try:
            with safe_open(self._file, "numpy") as kept:
                so_far = SoFar(
                    kept.get_tensor(P), kept.get_tensor(MASS), int(kept.get_tensor(BATCHES))
                )
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            raise self._damaged(error) from None
        if (so_far.p.shape, so_far.option_mass.shape) != (none.p.shape, none.option_mass.shape):
            raise self._damaged("of other shapes")
        return so_far

    def _write(self, so_far: SoFar) -> None:
        arrays = {
            P: so_far.p,
            MASS: so_far.option_mass,
            BATCHES: np.array(so_far.batches, np.int32),
        }
        whole = self._file.with_suffix(".new")
        try:
            with whole.open("wb") as file:
                file.write(save(arrays, {ASKED: json.dumps(self._asked)}))
                file.flush()
                os.fsync(file.fileno())
            whole.replace(self._file)
        except OSError as error:
            raise InputError(
                f"{whole}: cannot be written ({error.strerror}); make room and run the same "
                "command again"
            ) from None

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self._file}: cannot be read ({reason}); delete it to ask anew")


def digest(prompts: Iterable[Prompt]) -> str:
    """Returns the SHA-256 (hex) of the prompts' and their options' tokens."""
    hashed = hashlib.sha256()
    for prompt in prompts:
        hashed.update(json.dumps([prompt.tokens, prompt.options]).encode())
    return hashed.hexdigest()
