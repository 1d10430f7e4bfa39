// The long table: filters over all columns and over each, sorting by a click on a head, pages, rows that open.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("listing-data").textContent);
  const { columns, values, texts } = data;
  const count = data.details.length;
  const pageSize = 25;
  const fewest = 1, most = 24;  // different words from which on a column is chosen from a list, and up to how many
  const make = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const formats = columns.map(({ decimals }) => new Intl.NumberFormat("en", decimals === null
    ? { maximumSignificantDigits: 9 } : { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
  const value = (column, row) => {
    const found = values[column][row];
    return columns[column].kind === "words" && found !== null ? texts[found] : found;
  };
  const shown = (column, row) => {
    const found = value(column, row);
    if (found === null) return "\u2013";
    const { kind } = columns[column];
    if (kind === "words") return found;
    return kind === "share" ? `${formats[column].format(100 * found)}\u00a0%` : formats[column].format(found);
  };
  const haystacks = Array.from({ length: count }, (_, row) => [
    ...columns.map((_, column) => shown(column, row)), ...data.details[row].map(([, text]) => texts[text]),
  ].join("\u0000").toLowerCase());

  // "> 0.9", "<= 5", "0.9 .. 0.95" or a part of what is shown; percentages are written as they stand in the table.
  const condition = (column, text) => {
    const scale = columns[column].kind === "share" ? 100 : 1;
    const near = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b));
    const number = "([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\\s*%?";
    const compared = new RegExp(`^\\s*(<=|>=|<|>|=)\\s*${number}\\s*$`, "i").exec(text);
    const between = new RegExp(`^\\s*${number}\\s*\\.\\.\\s*${number}\\s*$`, "i").exec(text);
    if (columns[column].kind !== "words" && (compared || between)) {
      const test = compared
        ? { "<": (v, b) => v < b && !near(v, b), ">": (v, b) => v > b && !near(v, b), "=": near,
            "<=": (v, b) => v < b || near(v, b), ">=": (v, b) => v > b || near(v, b) }[compared[1]]
        : (v, a, b) => (v > a || near(v, a)) && (v < b || near(v, b));
      const bounds = (compared ? [compared[2]] : between.slice(1)).map(Number);
      return (row) => value(column, row) !== null && test(value(column, row) * scale, ...bounds);
    }
    const wanted = text.trim().toLowerCase();
    return (row) => shown(column, row).toLowerCase().includes(wanted);
  };

  let order = Array.from({ length: count }, (_, row) => row);
  let sorted = { column: -1, sign: 1 };
  let page = 0, whole = false;
  const open = new Set();
  const anywhere = make("input", { type: "search", placeholder: `Find ${data.called}s`, "aria-label": "Filter all columns" });
  const status = make("span", { role: "status" });
  const previous = make("button", { type: "button" }, "Previous");
  const following = make("button", { type: "button" }, "Next");
  const clear = make("button", { type: "button" }, "Clear filters");
  const filters = columns.map(({ name, kind }, column) => {
    const words = [...new Set(values[column].map((_, row) => shown(column, row)))];
    if (kind === "words" && words.length > fewest && words.length <= most) {
      const options = words.sort().map((word) => make("option", { value: word }, word));
      return make("select", { "aria-label": `Filter ${name}` }, make("option", { value: "" }, "any"), ...options);
    }
    const hint = kind === "words" ? "" : kind === "share" ? "> 90" : "> 1";
    return make("input", { type: "text", placeholder: hint, size: "5", "aria-label": `Filter ${name}` });
  });
  const heads = columns.map(({ name, kind }, column) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      sorted = { column, sign: sorted.column === column ? -sorted.sign : 1 };
      page = 0;
      show();
    });
    return make("th", { scope: "col", class: kind === "words" ? "" : "number" }, button);
  });
  const body = make("tbody");
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", { class: "opener" }), ...heads),
    make("tr", { class: "filters" }, make("td", { class: "opener" }), ...filters.map((filter) => make("td", {}, filter)))), body);

  const matching = () => {
    const conditions = filters.flatMap((filter, column) => {
      if (!filter.value.trim()) return [];
      if (filter.tagName === "SELECT") return [(row) => shown(column, row) === filter.value];
      return [condition(column, filter.value)];
    });
    for (const word of anywhere.value.toLowerCase().split(/\s+/).filter(Boolean)) {
      conditions.push((row) => haystacks[row].includes(word));
    }
    const found = order.filter((row) => conditions.every((holds) => holds(row)));
    if (sorted.column < 0) return found;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    return found.sort((a, b) => {
      const [left, right] = [value(sorted.column, a), value(sorted.column, b)];
      if (left === null || right === null) return (left === null) - (right === null);  // what is missing comes last
      return sorted.sign * compare(left, right) || a - b;
    });
  };
  const opened = (row) => {
    const pairs = data.details[row].map(([key, text]) => {
      const long = texts[text].includes("\n") || texts[key].startsWith("Again");
      return make("div", {}, make("dt", {}, texts[key]), make("dd", {}, make(long ? "pre" : "span", {}, texts[text])));
    });
    return make("tr", { class: "opened" }, make("td", { colspan: columns.length + 1 }, make("dl", { class: "pairs" }, ...pairs)));
  };
  const line = (row) => {
    const button = make("button", { type: "button", "aria-expanded": String(open.has(row)), "aria-label": "Details" },
      open.has(row) ? "\u2212" : "+");
    button.addEventListener("click", () => {
      if (!open.delete(row)) open.add(row);
      show();
    });
    const cells = columns.map(({ kind }, column) => {
      const text = shown(column, row);
      const content = column === 0 && data.links[row] !== null ? make("a", { href: data.links[row] }, text) : text;
      return make("td", { class: kind === "words" ? "" : "number" }, content);
    });
    return make("tr", { class: data.states[row] }, make("td", { class: "opener" }, button), ...cells);
  };
  const show = () => {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / pageSize));
    page = Math.min(page, pages - 1);
    const start = whole ? 0 : page * pageSize;
    const rows = found.slice(start, whole ? undefined : start + pageSize);
    body.replaceChildren(...rows.flatMap((row) => (open.has(row) ? [line(row), opened(row)] : [line(row)])));
    const of = found.length === count ? "" : `, of ${count.toLocaleString("en")} in all`;
    status.textContent = found.length
      ? `${data.called}s ${start + 1}\u2013${start + rows.length} of ${found.length.toLocaleString("en")}${of}`
      : `no ${data.called} of ${count.toLocaleString("en")} fits`;
    previous.disabled = page === 0;
    following.disabled = page === pages - 1;
    for (const [column, head] of heads.entries()) {
      if (column === sorted.column) head.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  };
  previous.addEventListener("click", () => { page -= 1; show(); });
  following.addEventListener("click", () => { page += 1; show(); });
  for (const filter of [anywhere, ...filters]) filter.addEventListener("input", () => { page = 0; show(); });
  clear.addEventListener("click", () => {
    for (const filter of [anywhere, ...filters]) filter.value = "";
    page = 0;
    show();
  });
  addEventListener("beforeprint", () => { whole = true; show(); });
  addEventListener("afterprint", () => { whole = false; show(); });
  document.getElementById("listing").append(
    make("p", { class: "controls" }, anywhere, " ", clear),
    make("div", { class: "scrolling", tabindex: "0", role: "region", "aria-label": `all ${data.called}s` }, table),
    make("p", { class: "controls" }, status, " ", previous, " ", following),
  );
  show();
})();
