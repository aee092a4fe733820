"""docs/results.md: the reports' numbers, what made them, and the words that people add."""

import json
import runpy

import pandas as pd
import pytest
from test_report import predictions, write_out
from test_train import ROOT

from ace_jax.errors import InputError
from ace_jax.report import __main__ as report

MODEL = {"name": "tiny", "dtype": "float32", "sha256": "12" * 32}
DATA = {"path": "made up", "sha256": "34" * 32, "holdout": "question:0.3@0", "min_n": 10}
SAID = "It worked, mostly.\n"


def evaluated(out, model_seed, **identity):
    out.parent.mkdir(parents=True, exist_ok=True)
    common = {"version": "0", "model": MODEL, "adapter": None, "data": DATA, "seed": 0}
    write_out(out, predictions(model_seed), **common | identity)


@pytest.fixture
def output(tmp_path):
    """What launch/results.sh leaves of one hold-out: a method of two seeds, and a reference."""
    here = tmp_path / "results" / "questions"
    prompt = {"template": "question_first"}
    evaluated(here / "base", 1, prompt=prompt)
    evaluated(here / "uniform", 2, reference="uniform", model=None, prompt=None)
    runs = ["--run", f"base={here / 'base'}"]
    log = []
    for seed in (0, 1):
        scored, train = (here / f"ace-{seed}" / name for name in ("scored", "train"))
        adapter = {"path": str(train / "adapter"), "sha256": "0" * 64}
        evaluated(scored, 3 + seed, adapter=adapter, seed=seed, prompt=prompt)
        train.mkdir()
        config = {"objective": {"stages": [[1.0, 0.0, 3], [0.0, 1.0, 3]]}}
        (train / "config.json").write_text(json.dumps(config))
        (train / "metrics.jsonl").write_text('{"step": 1}\n{"step": 1234}\n')
        log.append(f"2026-11-2{5 + seed}\tpython -m ace_jax.train --workdir {train}")
        runs += ["--run", f"ace={scored}"]
    runs += ["--run", f"uniform={here / 'uniform'}", "--output", str(here / "report")]
    report.main(runs)
    audit = pd.DataFrame({"run": "base", "variant": ["unaltered", "reversed_options"]})
    audit = audit.assign(granularity=4, score=[61.25, 58.5], moved=[0, 12.5], option_mass=99.5)
    audit.to_csv(here / "report" / "audit.csv", index=False)
    log.append(f"2026-11-26\tpython -m ace_jax.report {' '.join(runs)}")
    log.append("2026-11-26\tpython -m ace_jax.train --workdir somewhere/else")
    (here.parent / "commands.tsv").write_text("\n".join(log) + "\n")
    (here / "report" / "command.txt").write_text("bash launch/results.sh -s 0\\ 1\n")
    return here.parent


@pytest.fixture
def made(output, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results_words.md").write_text(SAID)
    main = runpy.run_path(str(ROOT / "scripts/results_page.py"))["main"]
    for _ in range(2):  # made again, it is the same
        main([str(output), "--docs", str(docs)])
    return docs


def test_the_page_has_the_reports_numbers(output, made):
    page = (made / "results.md").read_text()
    gains = pd.read_csv(output / "questions" / "report" / "gains.csv")
    overall = gains[gains["country"] == "ALL"].set_index(["run", "granularity"])
    for granularity in (1, 4):
        block = page.split(f"**G = {granularity}**")[1].split("\n\n")[1]
        rows = {line.split(" | ")[0].strip("| "): line for line in block.splitlines()}
        assert list(rows)[2:] == ["base", "ace", "(uniform)"]
        of = overall.loc[("ace", granularity)]
        for text in (
            f"{of['score']:.1f} [{of['ci_low']:.1f}, {of['ci_high']:.1f}]",
            f"{of['gain']:+.1f} [{of['gain_low']:+.1f}, {of['gain_high']:+.1f}]",
            f"{of['seed_sd']:.2f} (2 seeds)",
        ):
            assert text in rows["ace"]
    apart = pd.read_csv(output / "questions" / "report" / "differences.csv")
    of = apart[(apart["granularity"] == 4) & (apart["run"] == "ace")].set_index("other").loc["base"]
    block = page.split("**Differences**")[1].split("\n\n")[1].replace("**", "").splitlines()
    assert block[0] == "|  | - base | - ace | - uniform |"
    assert block[2].startswith(f"| base |  | {-of['difference']:+.1f} |")
    assert block[3].startswith(f"| ace | {of['difference']:+.1f} |  |")
    distances = pd.read_csv(output / "questions" / "report" / "effect_distances.csv")
    of = distances[(distances["country"] == "ALL") & (distances["attribute"] == "ALL")].iloc[0]
    assert f"{of['distance']:.4f} [{of['distance_low']:.4f}" in page
    assert f"| {of['distance_no_effect']:.4f} |" in page
    assert "| base | 99.5 % | 61.2 | 58.5 (12.5) |" in page


def test_the_page_says_what_made_it_and_keeps_what_people_wrote(made):
    page = (made / "results.md").read_text()
    assert page.count(SAID) == 1
    assert "bash launch/results.sh -s 0\\ 1    # 2026-11-25 to 2026-11-26" in page
    assert "tiny in float32 (SHA-256 121212121212)" in page
    assert "| ace | question_first | 0 / 1 | (1, 0, 3), (0, 1, 3) | 1,234 |" in page
    assert "| base | question_first |  | none | 0 |" in page
    assert "somewhere/else" not in page
    assert (made / "figures" / "results_questions_granularity.png").is_file()


def test_results_that_are_not_there_are_refused(output, tmp_path):
    main = runpy.run_path(str(ROOT / "scripts/results_page.py"))["main"]
    with pytest.raises(InputError, match=r"has no results; run launch/results\.sh first"):
        main([str(tmp_path / "nowhere"), "--docs", str(tmp_path)])
    (output / "questions" / "report" / "command.txt").unlink()
    with pytest.raises(InputError, match=r"command\.txt is missing; run launch/results\.sh again"):
        main([str(output), "--docs", str(tmp_path)])
