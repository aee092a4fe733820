// Shared by all scripts: creating elements, reading tables, the current view and its address.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const ALL = "ALL";

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}
// Flattens nested lists; parts that are null or false are not shown.
const present = (parts) => [parts].flat(Infinity).filter((part) => part || part === 0);
const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// A table comes as the names of its columns and its rows.
const records = ({ columns, data: rows }) => rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));
const tables = Object.fromEntries(
  Object.entries(data.tables).map(([name, table]) => [name, records(table)]),
);

// An index of a table by the values of some columns, so that a chart need not search it.
function indexed(rows, ...keys) {
  const index = new Map();
  for (const row of rows) index.set(keys.map((key) => row[key]).join("\u0001"), row);
  return (...values) => index.get(values.join("\u0001"));
}

const known = (value) => value !== null && value !== undefined;
const rounded = (value, digits) => (+value.toFixed(digits) || 0).toFixed(digits).replace("-", "\u2212"); // no minus zero
const fixed = (value, digits = 1) => (known(value) ? rounded(value, digits) : "\u2013");
const signed = (value, digits = 1) => (known(value) ? (+value.toFixed(digits) >= 0 ? "+" : "") + fixed(value, digits) : "\u2013");
const interval = (low, high, format = fixed, digits = 1) =>
  known(low) && known(high) ? `[${format(low, digits)}, ${format(high, digits)}]` : "";
const runs = data.runs.map((run) => run.name);
const colour = (run) => `var(--c${runs.indexOf(run) % 9})`;
const countryName = Object.fromEntries(data.countries.map((country) => [country.code, country.name]));
countryName[ALL] = "All countries";
const title = (name) => name.replace(/_/g, " ").replace(/^./, (first) => first.toUpperCase());
const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// The current view. It is kept in the address, so that a view can be linked to.
const state = { ...data.start };
const views = [];
let section = "";

function readAddress() {
  const [name, query] = location.hash.slice(1).split("?");
  for (const [key, value] of new URLSearchParams(query || "")) {
    if (key in data.start) state[key] = value;
  }
  section = name;
}
function writeAddress() {
  const changed = Object.entries(state).filter(([key, value]) => value !== data.start[key]);
  const query = new URLSearchParams(changed).toString();
  const hash = "#" + section + (query ? "?" + query : "");
  if (hash !== location.hash && (query || section)) history.replaceState(null, "", hash);
}
// A part of the page that is redrawn when something that it depends on changes.
function view(needs, draw, host = h("div")) {
  const update = () => host.replaceChildren(...present(draw()));
  views.push({ needs, update });
  update();
  return host;
}
function change(values) {
  Object.assign(state, values);
  writeAddress();
  for (const one of views) if (one.needs.some((need) => need in values)) one.update();
}

function choice(label, key, options, attributes = {}) {
  const select = h("select", {
    ...attributes,
    onchange: (event) => change({ [key]: event.target.value }),
  });
  select.append(...options.map(([value, text]) => h("option", { value }, text)));
  const update = () => (select.value = state[key]);
  views.push({ needs: [key], update });
  update();
  return h("label", {}, label, select);
}

// Values on hover, on touch and, for whatever can have the focus, on focus.
function placeTip(target, x, y) {
  const tip = byId("tip");
  tip.textContent = target.getAttribute("data-tip");
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(innerWidth - box.width - 8, x - box.width / 2)) + "px";
  tip.style.top = (y - box.height - 14 < 8 ? y + 18 : y - box.height - 14) + "px";
}
function watchTips() {
  const show = (event) => {
    const target = event.target.closest && event.target.closest("[data-tip]");
    if (target) placeTip(target, event.clientX, event.clientY);
    else byId("tip").hidden = true;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => (byId("tip").hidden = true), { passive: true });
}

function watchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  let chosen = null;
  try { chosen = localStorage.getItem("ace-theme"); } catch { /* no storage for files: the system's */ }
  const apply = () => {
    root.dataset.theme = chosen || (dark.matches ? "dark" : "light");
    byId("theme").textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", `Switch to ${root.dataset.theme === "dark" ? "light" : "dark"} colours`);
  };
  dark.addEventListener("change", apply);
  byId("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("ace-theme", chosen); } catch { /* it holds for this visit */ }
    apply();
  });
  apply();
}
