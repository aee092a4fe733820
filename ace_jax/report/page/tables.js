// Tables that sort by any column. Columns: {key, label, text(row), value(row), best, tint(row)};
// the first column names the row. Rows marked `aside` stay, but in a quieter ink.
function sortable({ columns, rows, caption, sort = null }) {
  let by = sort;
  const body = h("tbody");
  const heads = columns.map((column) => {
    const numeric = column !== columns[0];
    const head = h("th", { scope: "col", class: column.words ? "text" : null }, h("button", {
      type: "button",
      onclick: () => {
        const again = by && by.key === column.key;
        by = { key: column.key, down: again ? !by.down : numeric };
        fill();
      },
    }, column.label));
    return head;
  });
  const order = (column) => (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0; // what is missing comes last
    return (typeof a === "string" ? a.localeCompare(b) : a - b) * (by.down ? -1 : 1);
  };
  function fill() {
    heads.forEach((head, place) => {
      const on = by && by.key === columns[place].key;
      head.setAttribute("aria-sort", on ? (by.down ? "descending" : "ascending") : "none");
    });
    const sorted = by ? [...rows].sort(order(columns.find((column) => column.key === by.key))) : rows;
    body.replaceChildren(...sorted.map((row) =>
      h("tr", { class: row.aside ? "aside" : null }, columns.map((column, place) => {
        if (!place) return h("th", { scope: "row", title: column.text(row) }, column.link ? column.link(row) : column.text(row));
        const tint = column.tint && column.tint(row);
        const small = column.small && column.small(row);
        const names = [column.best && column.best(row) ? "best" : "", tint ? "heat" : "", column.words ? "text" : ""].join(" ").trim();
        return h("td", { class: names || null, style: tint ? `--tint:${tint}` : null,
          "data-tip": column.tip ? column.tip(row) : null },
          column.text(row), small ? h("small", {}, " " + small) : null);
      }))));
  }
  fill();
  return [h("p", { class: "caption" }, caption), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { "aria-label": caption }, h("thead", {}, h("tr", {}, heads)), body))];
}

// A tint between nothing and the heat colour, by where a value lies between two others.
function heat(value, low, high, name = "heat") {
  if (!known(value)) return null;
  const part = high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0.5;
  return `color-mix(in srgb, var(--${name}) ${Math.round(4 + 52 * part)}%, transparent)`;
}
function diverging(value, biggest) {
  if (!known(value)) return null;
  return heat(Math.abs(value), 0, biggest, value >= 0 ? "more" : "less");
}
const numbers = (content, name = "The numbers") => h("details", {}, h("summary", {}, name), content);
