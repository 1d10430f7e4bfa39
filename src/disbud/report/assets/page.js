// Draws the page's charts, one after the other, from the data in the element "charts", and lets the reader choose what
// they show. Colours are the style sheet's variables, so that dark mode and print need no second drawing.
(() => {
  "use strict";
  const { templates, places } = JSON.parse(document.getElementById("charts").textContent);
  const font = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  const config = {
    background: null,
    font,
    padding: 1,
    view: { stroke: null },
    axis: {
      labelColor: "var(--ink)", titleColor: "var(--faint)", gridColor: "var(--line)", domainColor: "var(--line)",
      tickColor: "var(--line)", labelFont: font, titleFont: font, labelFontSize: 11, titleFontSize: 11,
      titleFontWeight: "normal", labelLimit: 0, titleLimit: 0, titlePadding: 8,
    },
    legend: {
      labelColor: "var(--ink)", titleColor: "var(--faint)", labelFont: font, titleFont: font, labelFontSize: 11,
      titleFontSize: 11, titleFontWeight: "normal",
    },
    text: { fill: "var(--ink)", font },
  };
  const unpacked = (values) => (Array.isArray(values) ? values : values.at.map((place) => values.of[place]));
  const rows = (columns) => {
    const lists = Object.entries(columns).map(([name, values]) => [name, unpacked(values)]);
    return lists[0][1].map((_, i) => Object.fromEntries(lists.map(([name, values]) => [name, values[i]])));
  };
  const options = {
    config, renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
    ast: true,  // expressions are interpreted, so that the page can forbid code made from text
  };
  const compiled = new Map();  // by template; cells after the first skip the way from Vega-Lite to Vega
  const views = new Map();  // by the place's id, of those that are drawn
  // The names chosen in the legends, by the parameter of the charts that they set; none chosen shows all.
  const chosen = { methods: new Set(), states: new Set() };
  const filter = async ({ id, template }) => {
    for (const { name } of templates[template].params ?? []) {
      if (name in chosen) await views.get(id).signal(name, [...chosen[name]]).runAsync();
    }
  };
  const draw = async ({ id, template }, columns) => {
    const place = document.getElementById(id);
    const cell = columns ? { cell: rows(columns) } : {};
    const description = place.getAttribute("aria-label");  // Vega replaces the label by the chart's own
    try {
      if (compiled.has(template)) {
        const spec = structuredClone(compiled.get(template));
        spec.data.find((data) => data.name === "cell").values = cell.cell;
        spec.description = description;
        views.set(id, (await vegaEmbed(place, spec, { ...options, mode: "vega" })).view);
      } else {
        const spec = { ...templates[template], description, datasets: { ...templates[template].datasets, ...cell } };
        const { vgSpec, view } = await vegaEmbed(place, spec, { ...options, mode: "vega-lite" });
        compiled.set(template, vgSpec);
        views.set(id, view);
      }
      if (chosen.methods.size + chosen.states.size) await filter({ id, template });
    } catch (error) {
      place.textContent = "This chart could not be drawn.";
      console.error(`${id}: ${error}`);
      document.documentElement.dataset.charts = "failed";
    }
  };

  const choice = (chooser) => {
    const selects = [...document.querySelectorAll(`#${chooser} select`)];
    return selects.length ? selects.map((select) => select.selectedIndex).join("/") : null;
  };
  const show = async (place) => {
    if (!place.chooser) return draw(place, place.columns);
    const key = choice(place.chooser) ?? Object.keys(place.choices)[0];
    const columns = place.choices[key];
    const figure = document.getElementById(place.id).closest("figure");
    figure.hidden = !columns;
    const whole = document.getElementById(place.chooser);
    whole.querySelector(".nothing").hidden = Boolean(whole.querySelector("figure:not([hidden])"));
    if (!columns) return;
    const view = views.get(place.id);
    if (view) await view.data("cell", rows(columns)).runAsync();
    else await draw(place, columns);
  };
  const pause = () => new Promise((resolve) => setTimeout(resolve));
  let ready = (async () => {
    for (const [i, place] of places.entries()) {
      await show(place);
      if (i % 6 === 5) await pause();
    }
    document.documentElement.dataset.charts ??= "drawn";
  })();
  const next = (work) => {
    document.documentElement.dataset.charts = "drawing";
    ready = ready.then(work).then(() => { document.documentElement.dataset.charts = "drawn"; });
  };

  for (const chooser of new Set(places.map((place) => place.chooser).filter(Boolean))) {
    const mine = places.filter((place) => place.chooser === chooser);
    document.getElementById(chooser).addEventListener("change", () => next(async () => {
      for (const place of mine) await show(place);
    }));
  }
  const buttons = [...document.querySelectorAll(".choosing button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const { only, sets } = button.dataset;
      if (!chosen[sets].delete(only)) chosen[sets].add(only);
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(chosen[other.dataset.sets].has(other.dataset.only)));
      }
      next(async () => {
        for (const place of places) {
          if (views.has(place.id)) await filter(place);
        }
      });
    });
  }
})();
