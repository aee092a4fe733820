// One question at a time: what the survey's respondents and each model answered, for any persona.
const SURVEY = "Survey";
const opened = new Map();

// A question's chunk: n (uint32) of every country x persona, then for every source (survey, runs),
// country and option but the last, the cumulative share of each persona as a step to the next one
// (uint8, wrapping round), 255 being everything. Deflated, in base64.
async function unpackQuestion(place) {
  const text = byId(`chunk-${place}`).textContent.trim();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const [people, options] = [data.personas.length, data.questions[place].options.length];
  const cells = data.countries.length * people;
  const n = new Uint32Array(raw.buffer.slice(0, 4 * cells));
  const shares = raw.subarray(4 * cells);
  for (let row = 0; row < shares.length; row += people) {
    for (let one = row + 1; one < row + people; one++) shares[one] += shares[one - 1];
  }
  return { n: (country, persona) => n[country * people + persona], p: (source, country, persona) => {
    const out = [];
    let before = 0;
    for (let option = 0; option < options - 1; option++) {
      const at = ((source * data.countries.length + country) * (options - 1) + option) * people + persona;
      out.push((shares[at] - before) / 255);
      before = shares[at];
    }
    return [...out, (255 - before) / 255];
  } };
}

const personaKey = (levels) => levels.join("\u0001");
const personaAt = new Map(data.personas.map((levels, place) => [personaKey(levels), place]));
const chosenLevels = () => data.attributes.map((attribute) => attribute.levels.indexOf(state["p." + attribute.name]));
const personaText = (levels) => data.attributes.map((attribute, i) => attribute.levels[levels[i]]).filter(Boolean).join(", ") || "anyone";

function questions() {
  if (!data.explorer) return [h("h2", {}, "Question explorer"), h("p", { class: "note warn" }, "There are too many answers for one page; predictions.parquet of each run has them all.")];
  const place = data.attributes.map((attribute) =>
    choice(title(attribute.name), "p." + attribute.name, [["", "not named"], ...attribute.levels.map((level) => [level, level])]));
  const toggles = [["", "none"], ...data.attributes.filter((one) => one.levels.length > 1).map((one) => [one.name, `${title(one.name)}: ${one.levels[0]} \u2192 ${one.levels[1]}`])];
  return [
    h("h2", {}, "Question explorer"),
    h("p", {}, "What respondents said, and what each method says they said. Name a persona, or switch one attribute to see how answers shift."),
    h("div", { class: "panel" },
      h("div", { class: "controls" }, finder()),
      h("div", { class: "controls" }, choice("Country", "q.country", data.countries.map((one) => [one.code, one.name])), place,
        choice("Show the shift of", "toggle", toggles))),
    view(["question", "q.country", "toggle", ...data.attributes.map((one) => "p." + one.name)], drawQuestion),
  ];
}

// The list of questions, narrowed by topic (the page's) and by words typed.
function finder() {
  const list = h("select", { onchange: (event) => change({ question: event.target.value }) });
  const words = h("input", { type: "search", placeholder: "words of a question, or its id", oninput: fill });
  const text = (one) => (one.text && one.text !== one.id ? `${one.id} \u00b7 ${one.text}` : one.id);
  function fill() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = data.questions.filter((one) => (state.topic === ALL || one.topic === state.topic) &&
      wanted.every((word) => `${one.id} ${one.text} ${one.topic}`.toLowerCase().includes(word)));
    list.replaceChildren(...found.map((one) => h("option", { value: one.id }, text(one).slice(0, 140))));
    if (!found.some((one) => one.id === state.question)) {
      list.prepend(h("option", { value: "" }, `${plural(found.length, "question")} \u2013 choose one`));
      list.value = "";
    } else list.value = state.question;
  }
  const step = (by) => {
    const ids = [...list.options].map((option) => option.value).filter(Boolean);
    const next = ids[Math.max(0, Math.min(ids.length - 1, ids.indexOf(state.question) + by))];
    if (next) change({ question: next });
  };
  views.push({ needs: ["question", "topic"], update: fill });
  fill();
  return [h("label", {}, "Find", words), h("label", { class: "wide", style: "flex:3 1 18rem" }, "Question", list),
    h("div", {}, h("button", { type: "button", class: "quiet", onclick: () => step(-1) }, "Previous"), " ",
      h("button", { type: "button", class: "quiet", onclick: () => step(1) }, "Next"))];
}

function drawQuestion() {
  const place = Math.max(0, data.questions.findIndex((one) => one.id === state.question));
  const question = data.questions[place];
  const host = h("div", {}, h("p", { class: "note" }, "Opening\u2026"));
  if (!opened.has(place)) opened.set(place, unpackQuestion(place));
  opened.get(place).then(
    (answers) => host.replaceChildren(...present(shown(answers, question))),
    (error) => host.replaceChildren(h("p", { class: "warn" }, `This question could not be opened (${error.message}).`)),
  );
  return [h("p", { class: "question" }, question.text || question.id),
    h("p", { class: "note" }, [question.id, question.topic, plural(question.options.length, "option")].filter(Boolean).join(" \u00b7 ")), host];
}
function shown(answers, question) {
  const country = data.countries.findIndex((one) => one.code === state["q.country"]);
  const levels = chosenLevels();
  const which = data.attributes.findIndex((one) => one.name === state.toggle);
  const ends = which < 0 ? [levels] : [0, 1].map((level) => levels.map((old, i) => (i === which ? level : old)));
  const cells = ends.map((end) => personaAt.get(personaKey(end)));
  if (which < 0 && levels.every((level) => level < 0)) {
    return [h("p", { class: "note warn" }, "Name at least one attribute: personas of a country as a whole are not part of an evaluation.")];
  }
  if (cells.some((cell) => cell === undefined || !answers.n(country, cell))) {
    return [h("p", { class: "note warn" }, `No cell for ${ends.map(personaText).join(" or ")} in ${data.countries[country].name}: too few were asked, or the granularity was not evaluated.`)];
  }
  const sources = [SURVEY, ...runs];
  const shares = sources.map((_, source) => {
    const [one, other] = cells.map((cell) => answers.p(source, country, cell));
    return other ? other.map((share, i) => share - one[i]) : one;
  });
  const people = cells.map((cell) => answers.n(country, cell).toLocaleString("en")).join(" and ");
  const caption = which < 0 ? `${data.countries[country].name}: ${personaText(levels)}. ${people} respondents.`
    : `${data.countries[country].name}: ${personaText(ends[0])} \u2192 ${personaText(ends[1])}. ${people} respondents. Bars right of the line: more often chosen after the switch.`;
  const key = h("ul", { class: "legend" }, h("li", {}, h("i", { style: "background:var(--line);border:1.5px solid var(--soft)" }), SURVEY));
  key.append(...legend(runs).children);
  const columns = [{ key: "option", label: "Option", text: (row) => row.label, value: (row) => row.place },
    ...sources.map((name, source) => ({ key: name, label: name, value: (row) => shares[source][row.place],
      text: (row) => (which < 0 ? fixed : signed)(100 * shares[source][row.place]) }))];
  return [key, h("figure", {}, distribution(question.options, sources, shares, which >= 0), h("figcaption", {}, caption)),
    numbers(sortable({ columns, rows: question.options.map((label, place) => ({ label, place })), caption: `${which < 0 ? "Per cent of answers" : "Change in percentage points"}, ${caption}` }))];
}

// Options in rows: the survey as a bar, every method as its mark on it.
function distribution(options, sources, shares, shift) {
  const width = pageWidth();
  const small = width < 640;
  const left = small ? 4 : Math.min(330, 24 + 7.2 * Math.max(...options.map((label) => label.length)));
  const bar = Math.max(small ? 20 : 24, 5 * (sources.length - 1)); // room for a mark of every method
  const rowHeight = bar + (small ? 38 : 18);
  const unit = shift ? " points" : " %";
  const [low, high] = domainOf(shares.flat().map((share) => 100 * share), { zero: true, least: 6 });
  const x = (value) => left + 8 + ((value - low) / (high - low)) * (width - left - 24);
  const bottom = 6 + options.length * rowHeight;
  const scale = ticksOf(low, high, small ? 4 : 8);
  const room = Math.floor((left - 16) / 7);
  return drawing(width, bottom + (shift ? 42 : 26), "Answers by option: " + options.map((label, i) => `${label} ${fixed(100 * shares[0][i], 0)} %`).join(", "),
    scale.ticks.map((tick) => [s("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 4, y2: bottom }),
      s("text", { class: "soft", x: x(tick), y: bottom + 18, "text-anchor": "middle" }, `${(shift && tick ? signed : fixed)(tick, scale.digits)}${shift ? "" : " %"}`)]),
    s("line", { class: "axis", x1: x(0), x2: x(0), y1: 2, y2: bottom }),
    shift ? s("text", { class: "soft", x: width - 16, y: bottom + 36, "text-anchor": "end" }, "change in percentage points") : [],
    options.map((label, row) => {
      const y = 6 + rowHeight * row + (small ? rowHeight - bar / 2 - 10 : rowHeight / 2);
      const value = 100 * shares[0][row];
      const cut = !small && label.length > room ? label.slice(0, room - 1) + "\u2026" : label;
      return [
        s("text", { x: small ? 4 : left - 4, y: small ? y - bar / 2 - 6 : y + 4.5, "text-anchor": small ? "start" : "end", "data-tip": label }, cut),
        s("rect", { x: Math.min(x(0), x(value)), y: y - bar / 2, width: Math.abs(x(value) - x(0)), height: bar, fill: "var(--line)",
          stroke: "var(--soft)", "stroke-width": 1.2, "data-tip": `${SURVEY}: ${label}\n${(shift ? signed : fixed)(value)}${unit}` }),
        sources.slice(1).map((run, i) => mark(run, x(100 * shares[i + 1][row]), y + (i - (sources.length - 2) / 2) * 5, 5,
          { "data-tip": `${run}: ${label}\n${(shift ? signed : fixed)(100 * shares[i + 1][row])}${unit}`, stroke: "var(--bg)", "stroke-width": 1 })),
      ].flat();
    }).flat());
}
