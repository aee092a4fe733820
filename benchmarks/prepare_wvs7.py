"""Measure `prepare --source wvs7` on a made-up cross-national CSV of the real one's size.

    python benchmarks/prepare_wvs7.py [--countries all]

Writes 97,000 respondents of 66 countries by 600 columns (codes, some as 1.0) to a temporary
directory, prepares it in a process of its own, and prints JSON: seconds, peak memory, size.
Arguments are handed on to prepare.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pycountry

from ace_jax.survey.codebook_file import BUILTIN, read_codebook

RESPONDENTS, COLUMNS, COUNTRIES = 97_000, 600, 66


def write(path: Path) -> None:
    """Writes the made-up file: every column of the codebook, weights, and others up to 600."""
    random = np.random.default_rng(0)
    codebook = read_codebook(BUILTIN / "wvs7.toml")
    others = (country.alpha_3 for country in pycountry.countries)
    countries = list(dict.fromkeys([*codebook.countries, *others]))[:COUNTRIES]
    columns: dict[str, np.ndarray] = {
        "B_COUNTRY_ALPHA": np.sort(random.choice(countries, RESPONDENTS)),
        "W_WEIGHT": random.uniform(0.3, 3, RESPONDENTS).round(6),
        "Q260": random.integers(1, 3, RESPONDENTS),
        "Q275": random.integers(0, 9, RESPONDENTS),
        "H_URBRURAL": random.integers(1, 3, RESPONDENTS),
        "Q273": random.integers(1, 7, RESPONDENTS),
    }
    for position, question in enumerate(codebook.questions):
        codes = random.choice([*question.option_codes, *question.option_codes, -1, -2], RESPONDENTS)
        columns[question.question_id] = (
            codes.astype(float).astype(str) if position % 10 == 0 else codes
        )
    columns["Q1"] = random.choice([1, 1, 1, 1, 1, 1, 1, 2, 3, 4], RESPONDENTS)
    for position in range(COLUMNS - len(columns)):
        columns[f"X{position}"] = random.integers(-5, 100, RESPONDENTS)
    table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
    pyarrow.csv.write_csv(table, path)


def main() -> None:
    """Prints one line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "wvs7.csv")
        write(path)
        size = path.stat().st_size
        files = ["--input", str(path), "--output", str(Path(directory, "dataset"))]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ace_jax.prepare", "--source", "wvs7", *files, *sys.argv[1:]],
            check=True,
        )
        seconds = time.perf_counter() - start
        manifest = json.loads(Path(directory, "dataset", "manifest.json").read_text("utf-8"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # Linux: KiB
    print(
        json.dumps(
            {
                "respondents": RESPONDENTS,
                "columns": COLUMNS,
                "file_bytes": size,
                "arguments": sys.argv[1:],
                "cores": os.cpu_count(),
                "seconds": round(seconds, 1),
                "peak_memory_bytes": peak,
                "granularity": manifest["counts"]["granularity"],
            }
        )
    )


if __name__ == "__main__":
    main()
