"""docs/architecture.md names every module, and none that is not there."""

import re

from test_train import ROOT

PACKAGE = ROOT / "ace_jax"


def test_every_module_has_a_row():
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.startswith("|")]
    named = [name for row in rows for name in re.findall(r"`([a-z_/]+[a-z])`", row[2])]
    there = [path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    assert sorted(name.split("/")[-1] for name in named) == sorted(path.stem for path in there)
