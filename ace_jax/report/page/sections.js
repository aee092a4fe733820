// The comparison taken apart: by country, by topic, by attribute; the order of options; and what all of it is.
const to = (code) => h("a", { href: "#", onclick: (event) => { event.preventDefault(); change({ country: code }); } }, countryName[code]);

function countries() {
  return [
    h("h2", {}, "By country"),
    h("p", {}, "Countries in rows, methods in columns; the best of a row in bold. Click a country to see everything for it alone."),
    view(["topic", "granularity"], countryTable),
    tables.tiers ? view(["granularity"], equity) : null,
  ];
}
function countryTable() {
  const codes = data.countries.map((country) => country.code);
  if (codes.length > 1) codes.unshift(ALL);
  const cell = (run, code) => scoreAt(run, code, state.topic, state.granularity);
  const rows = codes.map((code) => ({ code, best: Math.max(...runs.map((run) => cell(run, code)?.score ?? -1)) }))
    .filter((row) => row.best >= 0);
  const every = rows.flatMap((row) => runs.map((run) => cell(run, row.code)?.score)).filter(known);
  const [low, high] = [Math.min(...every), Math.max(...every)];
  const columns = [
    { key: "country", label: "Country", text: (row) => countryName[row.code], value: (row) => (row.code === ALL ? "" : countryName[row.code]), link: (row) => to(row.code) },
    ...runs.map((run) => ({
      key: run, label: run, value: (row) => cell(run, row.code)?.score, text: (row) => fixed(cell(run, row.code)?.score),
      best: (row) => runs.length > 1 && cell(run, row.code)?.score === row.best, tint: (row) => heat(cell(run, row.code)?.score, low, high),
      tip: (row) => { const one = cell(run, row.code); return one ? `${run}, ${countryName[row.code]}\n${fixed(one.score, 2)} ${interval(one.low, one.high, fixed, 2)}\n${plural(one.n_cells, "cell")}` : null; },
    })),
  ];
  return sortable({ columns, rows, caption: `Alignment score, ${state.topic === ALL ? "all topics" : state.topic}, ${granularityText(state.granularity)}` });
}
function equity() {
  const rows = tables.tiers.filter((row) => row.granularity === state.granularity);
  if (!rows.length) return null;
  const tiers = [...new Set(rows.map((row) => row.tier))].sort();
  const at = indexed(rows, "run", "tier");
  const columns = [{ key: "run", label: "Method", text: (row) => row.run, value: (row) => row.run },
    ...tiers.map((tier) => ({ key: "tier" + tier, label: `Tier ${tier}`, text: (row) => fixed(at(row.run, tier)?.score), value: (row) => at(row.run, tier)?.score })),
    { key: "gap", label: `Tier ${tiers[0]} \u2212 tier ${tiers.at(-1)}`, text: (row) => signed(gap(row)), value: gap }];
  function gap(row) {
    const [top, last] = [at(row.run, tiers[0]), at(row.run, tiers.at(-1))];
    return top && last ? top.score - last.score : null;
  }
  return [h("h3", {}, "Is it fair to countries with fewer resources?"),
    sortable({ columns, rows: runs.map((run) => ({ run })), caption: `Mean score by tier, ${granularityText(state.granularity)}; a gap near zero treats the tiers alike` }),
    h("p", { class: "note" }, "Tier 1: western and developed; tier 2: transitional economies; tier 3: Africa (paper, section 4.2). Countries that the paper does not name have no tier.")];
}

function topics() {
  return [h("h2", {}, "By topic"), view(["country", "granularity"], topicChart), view(["country", "topic"], unseen)];
}
function unseen() {
  const rows = (tables.composition || []).filter((row) => row.country === state.country && row.topic === state.topic);
  if (!rows.length) return null;
  const at = indexed(rows, "run", "persona");
  const columns = [{ key: "persona", label: "Persona", text: (row) => row.persona.replaceAll("/", ", "), value: (row) => row.persona },
    ...runs.map((run) => ({ key: run, label: run, value: (row) => at(run, row.persona)?.score, text: (row) => fixed(at(run, row.persona)?.score),
      small: (row) => interval(at(run, row.persona)?.low, at(run, row.persona)?.high) }))];
  return [h("h3", {}, "Personas that training never saw"),
    sortable({ columns, rows: [...new Set(rows.map((row) => row.persona))].map((persona) => ({ persona })),
      caption: `Alignment score of combinations that were held out, ${place()}` })];
}
function topicChart() {
  const rows = data.topics.map((topic) => ({ topic, marks: runs.map((run) => scoreAt(run, state.country, topic, state.granularity)).filter(Boolean) }))
    .filter((row) => row.marks.length);
  if (!rows.length) return h("p", { class: "note" }, "No topic was asked here.");
  rows.sort((one, other) => Math.max(...other.marks.map((mark) => mark.score)) - Math.max(...one.marks.map((mark) => mark.score)));
  const columns = [{ key: "topic", label: "Topic", text: (row) => row.topic, value: (row) => row.topic,
      link: (row) => h("a", { href: "#", onclick: (event) => { event.preventDefault(); change({ topic: row.topic }); } }, row.topic) },
    ...runs.map((run) => ({ key: run, label: run, value: (row) => row.marks.find((one) => one.run === run)?.score,
      text: (row) => fixed(row.marks.find((one) => one.run === run)?.score),
      small: (row) => { const one = row.marks.find((mark) => mark.run === run); return one ? interval(one.low, one.high) : ""; } }))];
  return [legend(runs), h("figure", {}, dotPlot({
    label: `Alignment score by topic, ${countryName[state.country]}`, unit: "alignment score (0\u2013100)",
    rows: rows.map((row) => ({ label: row.topic, marks: row.marks.map((one) => ({ run: one.run, value: one.score, low: one.low, high: one.high,
      tip: `${one.run}, ${row.topic}\n${fixed(one.score, 2)} ${interval(one.low, one.high, fixed, 2)}\n${plural(one.n_cells, "cell")}` })) })),
  }), h("figcaption", {}, `${countryName[state.country]}, ${granularityText(state.granularity)}, the best topic first.`)),
  numbers(sortable({ columns, rows, caption: `Alignment score by topic, ${countryName[state.country]}` }))];
}

function attributes() {
  return [
    h("h2", {}, "By attribute"),
    h("p", {}, "An effect is what switching one attribute of a persona does to the answers. A method that knows people moves its answers as the survey's move."),
    runs.length > 1 ? h("div", { class: "controls" }, choice("Method shown", "method", runs.map((run) => [run, run]))) : null,
    view(["country", "granularity"], slopeTable),
    view(["attribute", "country"], effectDistances),
    view(["country"], effectClasses),
    view(["method", "attribute"], effectTable),
    influence(),
  ];
}
function effectDistances() {
  const found = tables.effect_distances || [];
  if (!found.length) return h("p", { class: "note warn" }, "No effects: no two cells of these runs differ by one attribute only, all of them named.");
  const names = [...new Set(found.map((row) => row.run))];
  const rows = names.map((run) => effectAt(run, state.country, state.attribute)).filter(Boolean).sort((one, other) => one.distance - other.distance);
  if (!rows.length) return null;
  return [h("h3", {}, "How far are effects from the survey's?"), h("figure", {}, dotPlot({
    label: `Effect distance, ${title(state.attribute)}: ` + rows.map((row) => `${row.run} ${fixed(row.distance, 4)}`).join(", "),
    unit: "effect distance (Eq. 11), less is better", digits: 4,
    rows: rows.map((row) => ({ label: row.run, aside: !isRun.has(row.run), text: fixed(row.distance, 4), more: interval(row.low, row.high, fixed, 4),
      marks: [{ run: row.run, aside: !isRun.has(row.run), value: row.distance, low: row.low, high: row.high, tip: `${row.run}\n${fixed(row.distance, 5)} ${interval(row.low, row.high, fixed, 5)}` }] })),
  }), h("figcaption", {}, `${state.attribute === ALL ? "All attributes" : title(state.attribute)}, ${countryName[state.country].toLowerCase() === "all countries" ? "all countries" : countryName[state.country]}, the finest personas scored. A perfect model would still be at the sampling noise; predicting no effect is what a model does that ignores the persona.`))];
}
const toggleTitle = (name) => (name === "attributes" ? "All attributes" : title(name));
function slopeTable() {
  const rows = tables.slopes.filter((row) => row.country === state.country && row.granularity === state.granularity);
  if (!rows.length) return null;
  const at = indexed(rows, "run", "toggle");
  const toggles = [...new Set(rows.map((row) => row.toggle))];
  const columns = [{ key: "run", label: "Method", text: (row) => row.run, value: (row) => row.run },
    ...toggles.map((toggle) => ({ key: toggle, label: toggleTitle(toggle), value: (row) => at(row.run, toggle)?.slope,
      text: (row) => fixed(at(row.run, toggle)?.slope, 2),
      small: (row) => { const one = at(row.run, toggle); return one && known(one.low) ? interval(one.low, one.high, fixed, 2) : ""; },
      tip: (row) => { const one = at(row.run, toggle); return one ? `${row.run}, ${toggleTitle(toggle)}\n${one.verdict}` : null; } }))];
  return [h("h3", {}, "Do its answers move as the survey's move?"),
    sortable({ columns, rows: [...runs, ...data.references].filter((run) => rows.some((row) => row.run === run)).map((run) => ({ run, aside: !isRun.has(run) })),
      caption: `Slopes, ${countryName[state.country]}, ${granularityText(state.granularity)}` }),
    h("p", { class: "note" }, "A slope of 0: the answers do not move. 1: they move as in the survey, whose sampling noise is taken out. Intervals are 95\u00a0% over questions.")];
}
const KINDS = ["Aligned", "Erasure", "Stereotyping", "Flipped"];
function effectClasses() {
  const rows = (tables.classes || []).filter((row) => row.country === state.country);
  if (!rows.length) return null;
  const share = indexed(rows, "run", "class"), shown = [...new Set(rows.map((row) => row.run))];
  return [h("h3", {}, "Which way do effects go wrong?"),
    h("figure", {}, stacks(shown.map((run) => ({ label: run, parts: KINDS.map((kind) => share(run, kind).share / 100) })), KINDS),
      h("figcaption", {}, `Share of the effects of a question and toggle, ${countryName[state.country]}. Aligned: within two standard errors of the survey's effect. Otherwise flipped (the other way), stereotyping (too strong) or erasure (too weak).`))];
}
function effectTable() {
  const rows = (tables.effects || []).filter((row) => row.run === state.method && (state.attribute === ALL || row.attribute === state.attribute));
  if (!rows.length) return null;
  const columns = [
    { key: "question", label: "Question", text: (row) => row.question_id, value: (row) => row.question_id },
    { key: "toggle", label: "Toggle", text: (row) => row.combination, value: (row) => row.combination, words: true },
    { key: "data", label: "Survey", text: (row) => signed(row.data_effect), small: (row) => `\u00b1${fixed(2 * row.data_se)}`, value: (row) => row.data_effect },
    { key: "model", label: state.method, text: (row) => signed(row.model_effect), value: (row) => row.model_effect },
    { key: "off", label: "Difference", text: (row) => signed(row.model_effect - row.data_effect), value: (row) => row.model_effect - row.data_effect },
  ];
  return numbers(sortable({ columns, rows, caption: "Effects by question and toggle, all countries (points of the scale from first to last option; \u00b1 two standard errors)" }), `Effects of ${state.method} by question`);
}
function influence() {
  const rows = (tables.effects || []).filter((row) => row.run === first);
  if (!rows.length) return null;
  const sizes = {};
  for (const row of rows) (sizes[`${row.topic}\n${row.attribute}`] ??= []).push(row.data_size);
  const at = (topic, name) => { const of = sizes[`${topic}\n${name}`]; return of ? of.reduce((sum, one) => sum + one, 0) / of.length : undefined; };
  const names = data.attributes.map((attribute) => attribute.name).filter((name) => rows.some((row) => row.attribute === name));
  const shown = [...new Set(rows.map((row) => row.topic))];
  const every = shown.flatMap((topic) => names.map((name) => at(topic, name))).filter(known);
  const [least, most] = [Math.min(...every), Math.max(...every)];
  const columns = [{ key: "topic", label: "Topic", text: (row) => row.topic, value: (row) => row.topic },
    ...names.map((name) => ({ key: name, label: title(name), text: (row) => fixed(at(row.topic, name)), value: (row) => at(row.topic, name),
      tint: (row) => heat(at(row.topic, name), least, most) }))];
  return [h("h3", {}, "What moves people in the survey itself?"),
    sortable({ columns, rows: shown.map((topic) => ({ topic })),
      caption: "How far each attribute moves answers, all countries (0\u2013100, sampling noise included)" })];
}

// How far each method's answers move when the options are listed in the other order.
function order() {
  const rows = tables.order_gaps || [];
  const heading = h("h2", {}, "Order of options");
  if (!rows.length) return [heading, h("p", { class: "note" }, "These runs did not measure it. Evaluate them again.")];
  const at = indexed(rows, "run", "question_id");
  const methods = runs.filter((run) => at(run, ALL));
  const asked = [...new Set(rows.map((row) => row.question_id))].filter((id) => id !== ALL);
  const cell = (id) => (run) => at(run, id)?.gap;
  const columns = [{ key: "question", label: "Question", text: (row) => (row.id === ALL ? "All" : row.id), value: (row) => row.id },
    ...methods.map((run) => ({ key: run, label: run, value: (row) => cell(row.id)(run), text: (row) => fixed(cell(row.id)(run)) }))];
  return [heading,
    h("p", {}, "A model that answers the question and not its form says the same whichever option comes first. How far do answers move (0\u2013100) when the options are listed in the other order?"),
    sortable({ columns, rows: [ALL, ...asked].map((id) => ({ id })), caption: "Mean distance between the answers in both orders, coarsest cells" })];
}

function about() {
  const seeds = (tables.gains || []).filter((row) => row.country === ALL && row.granularity === state.granularity && row.n_seeds > 1);
  const facts = data.runs.map((run) => [h("dt", {}, run.name), h("dd", {}, run.what)]);
  return [
    h("h2", {}, "What was compared"),
    h("dl", {}, facts),
    data.notes.length ? h("div", { class: "note warn" }, h("b", {}, "What is not in this report"), h("ul", {}, data.notes.map((note) => h("li", {}, note)))) : null,
    h("h3", {}, "How to read it"),
    h("div", { class: "note" },
      h("p", {}, "The alignment score is 100 times one minus the Wasserstein distance between the model's and the survey's answers, divided by its maximum (Eq. 15): 100 is the survey itself. "
        + (data.average === "nested" ? "Averages are nested, as in the authors' code: cells within a combination of attributes and topic, these within a country, countries alike." : "Averages are flat: every cell of a country counts alike, and every country.")),
      h("p", {}, "Intervals are 95 %, from the spread between questions (Student's t), so they say what other questions of the kind would give."
        + " Where there is one question only, they are of sampling its respondents. Gains are paired, question by question; p is that of the same interval, and includes seeds."
        + (seeds.length ? ` Means over seeds: ${seeds.map((one) => `${one.run} (${one.n_seeds})`).join(", ")}; how far seeds differ is part of the intervals. The question explorer shows the mean of their answers.` : "")),
      h("p", {}, "The ceiling is the score that a perfect model would have: the survey is a sample, and a cell of few respondents lies off its own population.")),
  ];
}
