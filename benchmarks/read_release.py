"""Measure reading the authors' training file, on a made-up JSONL of the real one's form.

    python benchmarks/read_release.py [CONTEXTS]

Writes CONTEXTS (default 6,250) contexts of 32 pairs over 16 personas, prompts of some 700
characters, to a temporary directory, reads the file in a process of its own and prints JSON:
seconds, and peak memory before (what importing takes) and after.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

READ = """
import json, resource, sys, time
from pathlib import Path
from ace_jax.survey.readers.release_train import read_train
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: KiB
before, start = peak(), time.perf_counter()
release = read_train(Path(sys.argv[1]))
seconds = round(time.perf_counter() - start, 1)
print(json.dumps({
    "pairs": len(release.pairs), "contexts": int(release.pairs["context"].nunique()),
    "endpoints": len(release.texts), "characters_kept": sum(map(len, release.texts)),
    "seconds": seconds, "peak_bytes_before": before, "peak_bytes": peak(),
}))
"""


def write(path: Path, contexts: int) -> None:
    """Writes the made-up file, a context after another, its pairs by attribute."""
    random = np.random.default_rng(0)
    personas = list(product((0, 1), repeat=4))
    with path.open("w", encoding="utf-8") as file:
        for context in range(contexts):
            options = list(range(1, int(random.integers(2, 11)) + 1))
            question = f"Question {context}: " + "how much do you agree with this? " * 17
            answers = random.dirichlet(np.ones(len(options)), size=len(personas))
            groups = {
                persona: {
                    "prompt_text": f"You are {persona} and live there.\n{question}\nAnswer:\n",
                    "p_real": dict(zip(map(str, options), answer.tolist(), strict=True)),
                    "mode_option": options[int(answer.argmax())],
                }
                for persona, answer in zip(personas, answers, strict=True)
            }
            for attribute, zero in product(range(4), personas):
                if zero[attribute] == 0:
                    one = (*zero[:attribute], 1, *zero[attribute + 1 :])
                    pair = {"options": options, "group_A": groups[zero], "group_B": groups[one]}
                    file.write(json.dumps(pair) + "\n")


def main() -> None:
    """Prints one line of JSON."""
    contexts = int(sys.argv[1]) if len(sys.argv) > 1 else 6_250
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "all_countries.jsonl")
        write(path, contexts)
        size = path.stat().st_size
        read = [sys.executable, "-c", READ, str(path)]
        said = subprocess.run(read, check=True, capture_output=True, text=True).stdout
    print(json.dumps({"file_bytes": size, "cores": os.cpu_count()} | json.loads(said)))


if __name__ == "__main__":
    main()
