// Charts as inline SVG, drawn at the width that they will have, so that text keeps its size.
const pageWidth = () => Math.min(1048, document.documentElement.clientWidth - (innerWidth < 545 ? 32 : 40));

// Marks differ in shape as well as in colour.
const SHAPES = [
  (x, y, r) => s("circle", { cx: x, cy: y, r }),
  (x, y, r) => s("rect", { x: x - r * 0.9, y: y - r * 0.9, width: r * 1.8, height: r * 1.8 }),
  (x, y, r) => s("path", { d: `M${x} ${y - r * 1.2}l${r * 1.15} ${r * 2.1}h${-r * 2.3}z` }),
  (x, y, r) => s("path", { d: `M${x} ${y - r * 1.3}l${r * 1.3} ${r * 1.3}l${-r * 1.3} ${r * 1.3}l${-r * 1.3} ${-r * 1.3}z` }),
  (x, y, r) => s("path", { d: `M${x} ${y + r * 1.2}l${r * 1.15} ${-r * 2.1}h${-r * 2.3}z` }),
];
function mark(run, x, y, r, attributes = {}) {
  const place = Math.max(0, runs.indexOf(run));
  const node = SHAPES[place % SHAPES.length](x, y, r);
  return put(node, { fill: colour(run), ...attributes }, []);
}
function legend(names) {
  return h("ul", { class: "legend" }, names.map((name) =>
    h("li", {}, s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, mark(name, 8, 8, 5.4)), name)));
}

function ticksOf(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= raw * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) ticks.push(tick);
  return { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}
function domainOf(values, { zero = false, least = 0 } = {}) {
  const numbers = values.filter(known);
  let low = Math.min(...numbers, ...(zero ? [0] : []));
  let high = Math.max(...numbers, ...(zero ? [0] : []));
  const pad = Math.max((high - low) * 0.06, (least - (high - low)) / 2, 1e-6);
  return [low - (zero && low === 0 ? 0 : pad), high + pad];
}
function drawing(width, height, label, ...children) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, style: `max-width:${width}px`, role: "img", "aria-label": label }, children);
}

// One row a thing, its marks with intervals on one axis. Rows: {label, marks: [{run, value, low,
// high, tip, hollow}], text, aside}. `lines`: values that stand for the whole chart.
function dotPlot({ rows, label, lines = [], zero = false, unit = "", digits = 1, width = pageWidth() }) {
  const small = width < 560;
  const left = small ? 4 : Math.min(220, 16 + 7.2 * Math.max(...rows.map((row) => row.label.length)));
  const right = rows.some((row) => row.text) ? (small ? 4 : 172) : 12;
  // Marks of a row stand below one another, and nearly clear of each other.
  const most = Math.max(...rows.map((row) => row.marks.length));
  const spread = most > 1 ? 6 : 0;
  const half = (spread * (most - 1)) / 2;
  const rowHeight = small ? 46 + 2 * half : Math.max(33, 2 * half + 18);
  const top = lines.length ? 26 : 8;
  const values = rows.flatMap((row) => row.marks.flatMap((one) => [one.value, one.low, one.high]));
  const [low, high] = domainOf([...values, ...lines.map((line) => line.value)], { zero });
  const x = (value) => left + 8 + ((value - low) / (high - low)) * (width - left - right - 16);
  const bottom = top + rows.length * rowHeight;
  const scale = ticksOf(low, high, small ? 4 : 7);
  const grid = scale.ticks.map((tick) => [
    s("line", { class: zero && Math.abs(tick) < 1e-9 ? "axis" : "grid", x1: x(tick), x2: x(tick), y1: top, y2: bottom }),
    s("text", { class: "soft", x: x(tick), y: bottom + 18, "text-anchor": "middle" },
      fixed(tick, Math.max(scale.digits, 0))),
  ]);
  const references = lines.filter((line) => known(line.value)).map((line) => [
    s("line", { x1: x(line.value), x2: x(line.value), y1: top - 6, y2: bottom, stroke: "var(--soft)", "stroke-dasharray": "4 4" }),
    s("text", { class: "soft", x: x(line.value), y: 13, "text-anchor": x(line.value) > width * 0.72 ? "end" : "middle" },
      `${line.label} ${fixed(line.value, digits)}`),
  ]);
  const drawn = rows.map((row, place) => {
    const y = top + rowHeight * place + (small ? 32 + half : rowHeight / 2);
    const written = small ? y - 15 - half : y + 4.5;
    return [
      s("text", { x: left ? (small ? 4 : left - 8) : 4, y: written, "text-anchor": small ? "start" : "end",
        class: row.aside ? "soft" : row.strong ? "strong" : null }, row.label),
      s("line", { class: "grid", x1: left + 8, x2: width - right, y1: y, y2: y }),
      row.marks.map((one, which) => {
        const dy = y + (which - (row.marks.length - 1) / 2) * spread;
        const ink = one.aside ? "var(--soft)" : colour(one.run);
        return [
          known(one.low) && s("line", { x1: x(one.low), x2: x(one.high), y1: dy, y2: dy, stroke: ink,
            "stroke-width": row.marks.length > 1 ? 1.6 : 2.6, "stroke-linecap": "round", opacity: 0.75 }),
          known(one.value) && (one.aside
            ? s("circle", { cx: x(one.value), cy: dy, r: 5, fill: "var(--bg)", stroke: ink, "stroke-width": 1.8, "data-tip": one.tip })
            : mark(one.run, x(one.value), dy, row.marks.length > 1 ? 4.6 : 6.2, { "data-tip": one.tip })),
        ].filter(Boolean);
      }),
      row.text && s("text", { x: small ? width - 4 : width - right + 14, y: written,
        "text-anchor": small ? "end" : "start", class: row.aside ? "soft" : row.strong ? "strong" : null },
        row.text, s("tspan", { class: "soft" }, "  " + (row.more || ""))),
    ].filter(Boolean);
  });
  const name = unit && s("text", { class: "soft", x: width - right, y: bottom + 36, "text-anchor": "end" }, unit);
  return drawing(width, bottom + (unit ? 42 : 26), label, grid, references, drawn.flat(), name || []);
}

// Lines over granularity. Series: {run, points: [{at, value, low, high, tip}]}.
function linePlot({ series, ticks, label, unit, lines = [], width }) {
  const height = width < 500 ? 270 : 310;
  const [left, right, top, bottom] = [42, 10, 12, height - 44];
  const every = series.flatMap((one) => one.points.flatMap((point) => [point.value, point.low, point.high]));
  const [low, high] = domainOf([...every, ...lines.flatMap((line) => line.points.map((point) => point.value))]);
  const scale = ticksOf(low, high, 5);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const gap = (width - left - right) / ticks.length;
  const x = (at) => left + gap * (ticks.indexOf(at) + 0.5);
  const path = (points, shift) =>
    points.map((point, place) => `${place ? "L" : "M"}${x(point.at) + shift} ${y(point.value)}`).join("");
  return drawing(width, height, label,
    scale.ticks.map((tick) => [
      s("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      s("text", { class: "soft", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, fixed(tick, scale.digits)),
    ]),
    ticks.map((tick) => s("text", { class: "soft", x: x(tick), y: bottom + 20, "text-anchor": "middle" }, `G = ${tick}`)),
    unit && s("text", { class: "soft", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, unit),
    lines.map((line) => [
      s("path", { d: path(line.points, 0), fill: "none", stroke: "var(--soft)", "stroke-width": 1.5, "stroke-dasharray": line.dash }),
      line.points.length ? s("text", { class: "soft", x: x(line.points[0].at) - gap * 0.32, y: y(line.points[0].value) - 6 }, line.label) : [],
    ]),
    series.map((one, place) => {
      const shift = (place - (series.length - 1) / 2) * Math.min(9, gap / (series.length + 2));
      return [
        s("path", { d: path(one.points, shift), fill: "none", stroke: colour(one.run), "stroke-width": 2, opacity: 0.85 }),
        one.points.map((point) => [
          known(point.low) ? s("line", { x1: x(point.at) + shift, x2: x(point.at) + shift, y1: y(point.low), y2: y(point.high),
            stroke: colour(one.run), "stroke-width": 2, opacity: 0.75 }) : [],
          mark(one.run, x(point.at) + shift, y(point.value), 4.8, { "data-tip": point.tip }),
        ]),
      ];
    }).flat(3));
}

// Shares as one bar a row. Rows: {label, parts: [share in order of `kinds`]}.
function stacks(rows, kinds) {
  return [
    h("ul", { class: "legend" }, kinds.map((kind) => h("li", {}, h("i", { style: `background:var(--${kind.toLowerCase()})` }), kind))),
    h("div", { class: "stack" }, rows.map((row) => [
      h("div", { class: "name", title: row.label }, row.label),
      h("div", { class: "track", role: "img",
        "aria-label": `${row.label}: ` + kinds.map((kind, i) => `${kind} ${fixed(100 * row.parts[i], 0)} %`).join(", ") },
        kinds.map((kind, i) => row.parts[i] > 0 ? h("span", {
          class: kind === "Erasure" || kind === "Stereotyping" ? "dark" : "",
          style: `flex:${row.parts[i]} 0 0;background:var(--${kind.toLowerCase()})`,
          "data-tip": `${row.label}: ${kind} ${fixed(100 * row.parts[i], 1)} %`,
        }, row.parts[i] >= 0.09 ? fixed(100 * row.parts[i], 0) : "") : null)),
    ])),
  ];
}
