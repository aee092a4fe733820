// Which method wins, by how much, how sure one can be, and against what.
const scoreAt = indexed(tables.scores || [], "run", "country", "topic", "granularity");
const gainAt = indexed(tables.gains || [], "run", "country", "granularity");
const ceilingAt = (country, granularity) => scoreAt(first, country, ALL, granularity);
const differenceAt = indexed(tables.differences || [], "run", "other", "granularity");
const effectAt = indexed(tables.effect_distances || [], "run", "country", "attribute");
const first = runs[0];
const isRun = new Set(runs);
const granularityText = (g) => `${plural(+g, "attribute")} named (G = ${g})`;
const place = () => countryName[state.country] + (state.topic === ALL ? "" : ", " + state.topic);

// Everything that has a score where we are, the best first: methods and references.
function standing(country = state.country, topic = state.topic) {
  return [...runs, ...data.references]
    .map((run) => scoreAt(run, country, topic, state.granularity))
    .filter((row) => row && known(row.score))
    .sort((one, other) => other.score - one.score);
}

function verdict() {
  const methods = standing(state.country, ALL).filter((row) => isRun.has(row.run));
  if (!methods.length) return [h("h1", {}, "No cell to compare here"), h("p", { class: "lead" }, "Choose another country or granularity.")];
  const best = methods[0];
  const where = state.country === ALL ? plural(data.countries.length, "country").replace("countrys", "countries") : countryName[state.country];
  const gain = gainAt(best.run, state.country, state.granularity);
  const ceiling = ceilingAt(state.country, state.granularity);
  const heading = runs.length === 1
    ? [h("b", {}, best.run), ` reaches ${fixed(best.score)} of 100`]
    : ["Of the models, ", h("b", {}, best.run), " answers most like the survey: ", `${fixed(best.score)} of 100`];
  const parts = [];
  if (best.run !== first && gain) {
    parts.push(h("b", {}, `${signed(gain.gain)} points`), ` over ${first}`);
    if (known(gain.low)) {
      parts.push(` (95\u00a0% interval ${interval(gain.low, gain.high, signed)}), `,
        gain.n_questions < 2 ? "of one question, which says nothing of others"
          : gain.low > 0 ? "more than the choice of questions explains" : "so it may as well be none");
    }
    parts.push(". ");
  } else if (runs.length > 1) parts.push(`No method does better than ${first}, the one to compare with. `);
  if (ceiling && known(ceiling.ceiling)) {
    parts.push(`A perfect model would reach ${fixed(ceiling.ceiling)} with so few respondents a cell, so this is `,
      h("b", {}, `${fixed((100 * best.score) / ceiling.ceiling, 0)}\u00a0%`), " of what can be reached. ");
  }
  return [
    h("p", { class: "over" }, `${data.survey} \u00b7 ${where} \u00b7 ${granularityText(state.granularity)}`),
    h("h1", {}, heading),
    h("p", { class: "lead" }, parts),
  ];
}

function scoreChart() {
  const rows = standing();
  if (!rows.length) return h("p", { class: "note" }, "No cell of this topic here.");
  const best = rows.find((row) => isRun.has(row.run));
  const ceiling = state.topic === ALL ? ceilingAt(state.country, state.granularity) : null;
  const lines = ceiling && known(ceiling.ceiling) ? [{ label: "ceiling", value: ceiling.ceiling }] : [];
  const tip = (row) => `${row.run}\n${fixed(row.score, 2)} ${interval(row.low, row.high, fixed, 2)}\n${plural(row.n_cells, "cell")}`;
  return h("figure", {}, dotPlot({
    label: `Alignment scores, ${place()}: ` + rows.map((row) => `${row.run} ${fixed(row.score)}`).join(", "),
    unit: "alignment score (0\u2013100)", lines,
    rows: rows.map((row) => ({
      label: row.run, aside: !isRun.has(row.run), strong: row === best,
      marks: [{ run: row.run, aside: !isRun.has(row.run), value: row.score, low: row.low, high: row.high, tip: tip(row) }],
      text: fixed(row.score), more: interval(row.low, row.high),
    })),
  }), h("figcaption", {}, `${place()}, ${granularityText(state.granularity)}. `, `Means are ${data.average}; bars are 95 % intervals over questions.`,
    data.references.length ? ` Hollow marks need no model; ${data.oracles.join(" and ")} are oracles, which use the survey's own answers.` : ""));
}

function comparison() {
  const rows = standing(state.country, ALL).map((row) => ({
    ...row, aside: !isRun.has(row.run), gained: isRun.has(row.run) && row.run !== first ? gainAt(row.run, state.country, state.granularity) : null,
    effect: effectAt(row.run, state.country, ALL), of_seeds: gainAt(row.run, state.country, state.granularity),
    part: ceilingAt(state.country, state.granularity),
  }));
  const top = Math.max(...rows.filter((row) => !row.aside).map((row) => row.score));
  const columns = [
    { key: "run", label: "Method", text: (row) => row.run, value: (row) => row.run },
    { key: "score", label: "Score", text: (row) => fixed(row.score), small: (row) => interval(row.low, row.high),
      value: (row) => row.score, best: (row) => !row.aside && row.score === top },
  ];
  if (runs.length > 1) columns.push(
    { key: "gain", label: `Gain over ${first}`, text: (row) => (row.gained ? signed(row.gained.gain) : "\u2013"),
      small: (row) => (row.gained ? interval(row.gained.low, row.gained.high, signed) : ""), value: (row) => row.gained?.gain });
  if (rows.some((row) => known(row.gained?.p_value))) columns.push(
    { key: "p", label: "p, paired", text: (row) => pValue(row.gained?.p_value), value: (row) => row.gained?.p_value });
  if (rows.some((row) => known(row.of_seeds?.seed_sd))) columns.push(
    { key: "seeds", label: "SD over seeds", text: (row) => fixed(row.of_seeds?.seed_sd, 2), small: (row) => (row.of_seeds?.n_seeds > 1 ? `(${row.of_seeds.n_seeds})` : ""),
      value: (row) => row.of_seeds?.seed_sd });
  if (rows.some((row) => known(row.part?.ceiling))) columns.push(
    { key: "part", label: "% of ceiling", text: (row) => (row.part ? fixed((100 * row.score) / row.part.ceiling, 0) : "\u2013"),
      value: (row) => row.part && row.score / row.part.ceiling });
  if (rows.some((row) => row.effect)) columns.push(
    { key: "effect", label: "Effect distance", text: (row) => fixed(row.effect?.distance, 4), value: (row) => row.effect?.distance });
  return sortable({ columns, rows, caption: `Methods and references, ${countryName[state.country]}, ${granularityText(state.granularity)}` });
}
const pValue = (p) => (!known(p) ? "\u2013" : p < 0.001 ? "< 0.001" : p.toFixed(3));

// Every method and reference less every other one. A table has two of them once.
function differences() {
  const names = standing(ALL, ALL).map((row) => row.run);
  if (!tables.differences || names.length < 3) return null;
  const less = (run, other) => {
    const one = differenceAt(run, other, state.granularity);
    if (one) return one;
    const turned = differenceAt(other, run, state.granularity);
    return turned && { ...turned, difference: -turned.difference, low: -turned.high, high: -turned.low };
  };
  const most = Math.max(...tables.differences.map((row) => Math.abs(row.difference)));
  const columns = [{ key: "run", label: "Method", text: (row) => row.run, value: (row) => row.run },
    ...names.filter((name) => isRun.has(name)).map((other) => ({
      key: other, label: `\u2212 ${other}`, value: (row) => less(row.run, other)?.difference,
      text: (row) => (row.run === other ? "" : signed(less(row.run, other)?.difference)), best: (row) => (less(row.run, other)?.p_value ?? 1) < 0.05,
      tint: (row) => diverging(less(row.run, other)?.difference, most),
      tip: (row) => { const one = less(row.run, other); return one ? `${row.run} less ${other}\n${signed(one.difference, 2)} ${interval(one.low, one.high, signed)}\np ${pValue(one.p_value)}` : null; },
    }))];
  return [h("h3", {}, "Which differences are more than chance?"),
    sortable({ columns, rows: names.map((run) => ({ run, aside: !isRun.has(run) })),
      caption: `Score of a row less that of a column, over all countries and topics, ${granularityText(state.granularity)}` }),
    h("p", { class: "note" }, "In bold: a 95\u00a0% interval without zero, and p below 0.05. One in twenty such tests finds something where there is nothing.")];
}

function byGranularity() {
  if (data.granularities.length < 2) return h("p", { class: "note" }, `Only one granularity was evaluated (G = ${data.granularities[0]}).`);
  const points = (run) => data.granularities
    .map((g) => scoreAt(run, state.country, state.topic, g))
    .filter(Boolean)
    .map((row) => ({ at: row.granularity, value: row.score, low: row.low, high: row.high,
      tip: `${row.run}, G = ${row.granularity}\n${fixed(row.score, 2)} ${interval(row.low, row.high, fixed, 2)}` }));
  const series = runs.map((run) => ({ run, points: points(run) })).filter((one) => one.points.length);
  const ceiling = data.granularities.map((g) => ceilingAt(state.country, g)).filter((row) => row && known(row.ceiling))
    .map((row) => ({ at: row.granularity, value: row.ceiling }));
  const lines = state.topic === ALL && ceiling.length ? [{ label: "ceiling", points: ceiling, dash: "5 4" }] : [];
  if (!series.length) return null;
  return [h("h3", {}, "Does it last as personas become finer?"),
    h("figure", {}, legend(series.map((one) => one.run)), linePlot({ series, lines, ticks: data.granularities,
      width: Math.min(720, pageWidth()), unit: "persona granularity", label: `Alignment score by granularity, ${place()}` }),
    h("figcaption", {}, `Alignment score, ${place()}. Bars are 95 % intervals over questions.`))];
}

const WHERE = ["country", "topic", "granularity"];
const marks = () => data.marks.length
  ? h("div", { class: "note warn", role: "note" }, h("b", {}, "Before you compare"), h("ul", {}, data.marks.map((mark) => h("li", {}, mark)))) : null;
const answersInWords = () => h("ul", { class: "lead" }, data.said.map((sentence) => h("li", {}, sentence)));
const overview = () => [view(WHERE, verdict), answersInWords(), marks()];
const standings = () => [scoreChart, comparison, differences, byGranularity].map((draw) => view(WHERE, draw));
