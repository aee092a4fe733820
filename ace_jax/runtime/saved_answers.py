"""The answers of an evaluation that is not done, saved in its directory to go on from."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ace_jax.errors import InputError
from ace_jax.evaluation.answers import Answers
from ace_jax.prompts.encode import Prompt
from ace_jax.runtime.claim import write_whole
from ace_jax.runtime.processes import from_first, on_first

FILE = "answers.partial"
EVERY_SECONDS = 120  # between two saves


@dataclass
class Progress:
    """Answers to the prompts of the first batches; zeros for the others."""

    p: Float[np.ndarray, "prompts K"]  # zeros beyond a prompt's options
    option_mass: Float[np.ndarray, "prompts"]  # before renormalising
    batches: int  # how many are answered

    @classmethod
    def empty(cls, prompts: int, options: int) -> "Progress":
        """Returns the start: no batch is answered."""
        return cls(np.zeros((prompts, options), np.float32), np.zeros(prompts, np.float32), 0)

    def by_name(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, Answers]:
        """Returns the answers under the names of their prompts, without padding.

        Raises `InputError` where one is not a number.
        """
        if not (np.isfinite(self.p).all() and np.isfinite(self.option_mass).all()):
            raise InputError(
                "the model's answers are not numbers; check the weights of base model and adapter"
            )
        answers, first = {}, 0
        for name, named in prompts.items():
            rows = slice(first, first + len(named))
            p = [
                values[: len(prompt.options)].astype(np.float64)
                for values, prompt in zip(self.p[rows], named, strict=True)
            ]
            answers[name] = Answers(p, self.option_mass[rows].astype(np.float64))
            first += len(named)
        return answers


class SavedAnswers:
    """The file with the answers so far; only process 0 reads and writes it.

    It belongs to one evaluation, and is complete or absent: a new one replaces the old one. `key`
    is everything that the answers depend on, as JSON holds it; only process 0's counts.
    """

    def __init__(self, workdir: Path, key: Mapping[str, object]):
        self._file = workdir / FILE
        self._key = json.loads(json.dumps(key))
        self._last = time.monotonic()

    def check(self) -> None:
        """Raises `InputError` for a file that is damaged or of another evaluation."""
        on_first(self._read)

    def restore(self, empty: Progress) -> Progress:
        """Returns what was saved, on every process, or `empty`; raises `InputError` as `check`."""
        found = on_first(self._read) or empty
        p, mass, batches = from_first((found.p, found.option_mass, np.int32(found.batches)))
        return Progress(np.array(p), np.array(mass), int(batches))

    def is_late(self) -> bool:
        """Returns whether it is time to save, by this host's clock."""
        return time.monotonic() - self._last > EVERY_SECONDS

    def save(self, progress: Progress) -> None:
        """Saves the answers so far; called by all processes. Raises `InputError` if it cannot."""
        self._last = time.monotonic()
        arrays = {name: np.asarray(value) for name, value in vars(progress).items()}
        record = {"key": json.dumps(self._key), "sha256": _digest(arrays)}
        on_first(lambda: write_whole(self._file, save(arrays, record)))

    def _read(self) -> Progress | None:
        if not self._file.is_file():
            return None
        try:
            with safe_open(self._file, "numpy") as saved:
                key = dict(json.loads(saved.metadata()["key"]))
                arrays = {name: saved.get_tensor(name) for name in ("p", "option_mass", "batches")}
                if saved.metadata()["sha256"] != _digest(arrays):
                    raise ValueError("is not what was saved")
        except (OSError, LookupError, SafetensorError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._file}: cannot be read ({error}); delete it to start again"
            ) from None
        names = sorted(key.keys() | self._key.keys())
        if differing := [name for name in names if key.get(name) != self._key.get(name)]:
            raise InputError(
                f"{self._file} has the answers of a stopped evaluation with another "
                f"{', '.join(differing)}; go on with that one, choose another --workdir, or delete "
                "the file"
            )
        return Progress(arrays["p"], arrays["option_mass"], int(arrays["batches"]))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    content = (arrays[name].tobytes() for name in sorted(arrays))
    return hashlib.sha256(b"".join(content)).hexdigest()


def delete_saved(workdir: Path) -> None:
    """Deletes the file, once everything made of it is written."""
    (workdir / FILE).unlink(missing_ok=True)
