"""The page's packed answers, and the page in a real browser (headless Chromium, if there is one).

What a reader would do is done by a script that is added to a copy of the page; what comes of it is
read from the document that Chromium hands back.
"""

import base64
import html
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from test_report import NASTY, predictions, write_out, write_questions

from ace_jax.report.compare import compare
from ace_jax.report.page.content import pack, page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=8000",
)


def test_packed_answers_come_back_to_within_one_rounding():
    draws = np.random.default_rng(0)
    countries, people, options = 2, 5, np.array([4, 2])
    question, country, persona = (axis.ravel() for axis in np.indices((2, countries, people)))
    n = draws.integers(1, 10**6, len(question))
    sources = []
    for _ in range(3):
        p = draws.dirichlet(np.ones(4), len(question))
        p[question == 1, 2:] = 0
        sources.append(p / p.sum(axis=1, keepdims=True))
    chunks = pack(np.stack([question, country, persona, n], axis=1), sources, options)
    for place, k in enumerate(options):
        raw = zlib.decompress(base64.b64decode(chunks[place]))
        size = 4 * countries * people
        rows = question == place
        assert np.frombuffer(raw[:size], "<u4").tolist() == n[rows].tolist()
        steps = np.frombuffer(raw[size:], np.uint8).reshape(3, countries, k - 1, people)
        shares = np.cumsum(steps, axis=-1, dtype=np.uint8) / 255
        for source, p in enumerate(sources):
            expected = np.cumsum(p[rows], axis=1)[:, : k - 1]
            found = shares[source].transpose(0, 2, 1).reshape(expected.shape)
            assert np.abs(found - expected).max() <= 0.5 / 255 + 1e-12


def test_no_text_can_end_the_element_that_holds_it():
    text = "</script><!-- <script> & \u2028"
    whole = page("<b> {{ data }}", {"text": text}, ["chunk"])
    held = re.search(r'id="data">(.*?)</script>', whole)[1]
    assert not set("<>&\u2028") & set(held)
    assert json.loads(held)["text"] == text
    assert "<title>&lt;b&gt; {{ data }}</title>" in whole


def near(table, weight):
    """Predictions that are nearer to the survey's answers."""
    pairs = zip(table["p_data"], table["p_model"], strict=True)
    return table.assign(p_model=[weight * data + (1 - weight) * model for data, model in pairs])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page on three methods, whose texts are as bad as can be."""
    directory = tmp_path_factory.mktemp("page")
    eight = tuple(f"q{i}" for i in range(8))
    tables = [predictions(seed, questions=eight) for seed in (1, 2, 3)]
    for name, table in zip(("base", "other", "trained"), tables, strict=True):
        gap = {"mean": 0.25, "n_cells": 1, "questions": {"q1": 0.25}}
        mine = {"order_gap": gap} if name == "trained" else {}
        write_out(directory / name, table if name != "trained" else near(table, 0.8), **mine)
        write_questions(directory / name, eight, text=NASTY, topic=f"Trust {NASTY}")
    comparison = compare({name: directory / name for name in ("base", "other", "trained")})
    comparison.save_html(directory / "index.html")
    return comparison, directory / "index.html"


@pytest.fixture
def index(report):
    return report[1]


def opened(index, tmp_path, script="", address=""):
    """Returns the document after `script`, an async function's body, has run in the page."""
    text = index.read_text(encoding="utf-8")
    watch = """<script>addEventListener("error", (event) => {
      document.documentElement.dataset.error = event.message; });</script></head>"""
    act = f"""<script>(async () => {{
      const wait = (ms = 300) => new Promise((done) => setTimeout(done, ms));
      const pick = (label, value) => {{
        const select = [...document.querySelectorAll("label")]
          .find((one) => one.firstChild.textContent === label).querySelector("select");
        select.value = value; select.dispatchEvent(new Event("change")); }};
      const say = (value) => {{ document.documentElement.dataset.said = JSON.stringify(value); }};
      await wait(); {script} }})();</script></body>"""
    copy = tmp_path / "copy.html"
    before, _, after = text.rpartition("</body>")
    copy.write_text(before.replace("</head>", watch, 1) + act + after, encoding="utf-8")
    document = chromium(copy.as_uri() + address, tmp_path)
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    return document


def chromium(address, tmp_path):
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def said(document):
    found = re.search(r'data-said="([^"]*)"', document)[1]
    return json.loads(found.replace("&quot;", '"').replace("&lt;", "<").replace("&amp;", "&"))


@browser
def test_the_page_opens_with_a_verdict_and_all_its_parts(index, tmp_path):
    document = opened(index, tmp_path)
    assert "answers most like the survey" in document
    for part in ("overview", "countries", "topics", "attributes", "questions", "order", "about"):
        assert f'<section id="{part}"' in document
    assert (
        "Opening\N{HORIZONTAL ELLIPSIS}" not in document
    )  # the first question is unpacked and drawn
    assert "<script>alert" not in document


@browser
def test_the_explorer_shows_what_the_cells_hold(report, tmp_path):
    comparison, path = report
    table = comparison.methods["trained"][0].predictions
    persona = table[
        (table["granularity"] == 1)
        & (table["education"] == "College Educated")
        & (table["country"] == "USA")
        & (table["question_id"] == "q2")
    ].iloc[0]
    script = """
      const question = [...document.querySelectorAll("select")]
        .find((one) => [...one.options].some((option) => option.value === "q2"));
      question.value = "q2"; question.dispatchEvent(new Event("change"));
      const country = [...document.querySelectorAll("#questions label")]
        .find((one) => one.firstChild.textContent === "Country").querySelector("select");
      country.value = "USA"; country.dispatchEvent(new Event("change"));
      pick("Gender", ""); pick("Education", "College Educated"); await wait(600);
      say([...document.querySelectorAll("#questions tbody tr")]
        .map((row) => [...row.children].map((cell) => cell.textContent)));"""
    rows = said(opened(path, tmp_path, script))
    assert [row[0] for row in rows] == ["none", "some", "all"]
    for column, name in ((1, "p_data"), (4, "p_model")):
        shown = np.array([float(row[column]) for row in rows])
        assert np.abs(shown - 100 * persona[name]).max() < 0.5


@browser
def test_effects_classes_and_order_gaps_are_those_of_the_tables(report, tmp_path):
    script = """
      const rows = (table) => [...table.querySelectorAll("tbody tr")]
        .map((row) => [...row.children].map((cell) => cell.textContent));
      const effects = [...document.querySelectorAll("#attributes table")]
        .find((one) => one.ariaLabel.startsWith("Effects by question"));
      const bars = [...document.querySelectorAll("#attributes .track")].map((one) => one.ariaLabel);
      say({ effects: rows(effects), bars, order: rows(document.querySelector("#order table")) });"""
    found = said(opened(report[1], tmp_path, script))
    tables = report[0].tables
    effects = tables["effects"].query("run == 'trained' and country == 'ALL'")
    for row, effect in zip(found["effects"], effects.to_dict("records"), strict=True):
        shown = [
            float(text.replace("\N{MINUS SIGN}", "-").partition("\N{PLUS-MINUS SIGN}")[0])
            for text in row[2:4]
        ]
        assert shown == pytest.approx([effect["data_effect"], effect["model_effect"]], abs=0.05)
    classes = tables["classes"].query("country == 'ALL'")
    for bar, (run, of) in zip(found["bars"], classes.groupby("run", sort=False), strict=True):
        assert bar.startswith(f"{run}: ")
        shown = dict(re.findall(r"(\w+) (\d+) %", bar))
        shares = of.set_index("class")["share"].to_dict()
        assert {name: int(share) for name, share in shown.items()} == pytest.approx(shares, abs=0.5)
    assert found["order"] == [["All", "25.0"], ["q1", "25.0"]]


@browser
def test_every_two_methods_are_compared(report, tmp_path):
    script = """
      const table = [...document.querySelectorAll("#standing table")]
        .find((one) => one.ariaLabel.startsWith("Score of a row less"));
      say([...table.querySelectorAll("tr")].map((row) => [...row.children].map((cell) =>
        [cell.textContent.replace("\u2212", "-"), cell.classList.contains("best")])));"""
    (_, *heads), *rows = said(opened(report[1], tmp_path, script))
    others = [head.lstrip("- ") for head, _ in heads]
    shown = {
        (row[0][0], other): cell
        for row in rows
        for other, cell in zip(others, row[1:], strict=True)
    }
    known = report[0].tables["differences"].query("granularity == 4")
    assert len(shown) == 9
    for of in known.to_dict("records"):
        sure = of["p_value"] < 0.05
        for sign, pair in ((1, (of["run"], of["other"])), (-1, (of["other"], of["run"]))):
            text, bold = shown[pair]
            assert float(text) == pytest.approx(sign * of["difference"], abs=0.0501)
            assert bold == sure
    assert {bold for _, bold in shown.values()} == {True, False}


@browser
def test_a_gain_on_one_question_is_not_said_to_hold_for_others(tmp_path):
    alone = [predictions(seed, questions=("q1",)) for seed in (1, 2)]
    for name, table in zip(("base", "trained"), (alone[0], near(alone[1], 1)), strict=True):
        write_out(tmp_path / name, table)
    comparison = compare({name: tmp_path / name for name in ("base", "trained")})
    comparison.save_html(tmp_path / "index.html")
    script = """say(document.querySelector("#overview .lead").textContent);"""
    verdict = said(opened(tmp_path / "index.html", tmp_path, script))
    assert "of one question, which says nothing of others" in verdict
    assert "more than the choice of questions explains" not in verdict


@browser
def test_tables_sort_and_choices_last_in_the_address(index, tmp_path):
    script = """
      const head = () => document.querySelector("#countries th:nth-child(2)");
      const values = () => [...document.querySelectorAll("#countries .scroll")][0]
        .querySelectorAll("td:nth-child(2)");
      head().querySelector("button").click();
      const down = [head().ariaSort || head().getAttribute("aria-sort"),
        ...[...values()].map((cell) => parseFloat(cell.textContent))];
      head().querySelector("button").click();
      const up = [head().getAttribute("aria-sort"),
        ...[...values()].map((cell) => parseFloat(cell.textContent))];
      say({ down, up, country: document.querySelector(".scope select").value });"""
    found = said(opened(index, tmp_path, script, "#countries?country=USA"))
    assert found["country"] == "USA"
    assert found["down"] == ["descending", *sorted(found["down"][1:], reverse=True)]
    assert found["up"] == ["ascending", *sorted(found["up"][1:])]


@browser
def test_it_can_be_used_with_a_keyboard_and_in_the_dark(index, tmp_path):
    script = """
      const theme = document.getElementById("theme");
      const before = document.documentElement.dataset.theme; theme.click();
      const reachable = [...document.querySelectorAll("button, select, input, a[href], summary")];
      const nameless = reachable.filter((one) => !(one.textContent.trim() || one.ariaLabel
        || one.closest("label")));
      say({ changed: before !== document.documentElement.dataset.theme,
        hidden: reachable.filter((one) => one.tabIndex < 0).length, nameless: nameless.length,
        charts: [...document.querySelectorAll("figure > svg")].every((one) => one.ariaLabel) });"""
    found = said(opened(index, tmp_path, script))
    assert found == {"changed": True, "hidden": 0, "nameless": 0, "charts": True}


@browser
def test_it_fits_a_telephone(index, tmp_path):
    measure = """<script>addEventListener("load", () => setTimeout(() => {
      parent.document.documentElement.dataset.said =
        JSON.stringify([document.documentElement.dataset.ready, innerWidth,
          document.documentElement.scrollWidth]); }, 500));</script>"""
    page = html.escape(index.read_text(encoding="utf-8") + measure)
    frame = tmp_path / "frame.html"
    style = "width:360px;height:900px;border:0"
    frame.write_text(f'<iframe srcdoc="{page}" style="{style}"></iframe>', encoding="utf-8")
    ready, width, content = said(chromium(frame.as_uri(), tmp_path))
    assert (ready, width) == ("true", 360)
    assert content <= width
