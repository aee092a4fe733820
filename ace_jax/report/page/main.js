// The page: its sections, the choices that hold for all of them, and where one is.
const SECTIONS = [
  ["overview", "Overview", overview], ["standing", "", standings], ["countries", "Countries", countries], ["topics", "Topics", topics],
  ["attributes", "Attributes", attributes], ["questions", "Questions", questions], ["order", "Order", order], ["about", "About", about],
];
const START_ALL = [ALL, "All"];

function scope() {
  return h("div", { class: "scope", role: "group", "aria-label": "What is shown" }, h("div", { class: "controls" },
    choice("Country", "country", [START_ALL, ...data.countries.map((one) => [one.code, one.name])]),
    choice("Topic", "topic", [START_ALL, ...data.topics.map((topic) => [topic, topic])]),
    choice("Attribute", "attribute", [START_ALL, ...data.attributes.map((one) => [one.name, title(one.name)])]),
    choice("Granularity", "granularity", data.granularities.map((g) => [g, `${plural(+g, "attribute")} (G = ${g})`]))));
}

function go(name, focus) {
  const target = byId(name);
  if (!target) return;
  section = name;
  target.scrollIntoView({ behavior: focus ? "auto" : "instant" });
  if (focus) target.focus({ preventScroll: true });
}
function watchSections() {
  const links = [...document.querySelectorAll("nav a")];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const link of links) {
        const on = link.getAttribute("href") === "#" + entry.target.id.replace("standing", "overview");
        if (on) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
        if (on && innerWidth < 620) link.parentNode.parentNode.parentNode.scrollLeft = link.offsetLeft - 24;
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const [name] of SECTIONS) seen.observe(byId(name));
}

function main() {
  readAddress();
  watchTheme();
  watchTips();
  byId("sections").append(...SECTIONS.filter(([, text]) => text).map(([name, text]) => h("li", {}, h("a", { href: "#" + name,
    onclick: (event) => { event.preventDefault(); go(name, true); writeAddress(); } }, text))));
  for (const [name, text, draw] of SECTIONS) {
    const node = h("section", { id: name, tabindex: "-1", "aria-label": text || "Methods and references" });
    byId("main").append(node);
    node.append(...present(draw()));
    if (name === "overview") byId("main").append(scope());
  }
  byId("footer").append(h("p", { class: "note" }, data.made));
  watchSections();
  if (section) go(section, false);
  addEventListener("hashchange", () => {
    Object.assign(state, data.start);
    readAddress();
    for (const one of views) one.update();
    go(section, true);
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) for (const one of views) one.update();
    width = innerWidth;
  });
  document.documentElement.dataset.ready = "true";
}
