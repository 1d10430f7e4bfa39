// Draws the page's charts, one after the other, from the data in the element "charts". Colours are the style sheet's
// variables, so that dark mode and print need no second drawing.
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
    text: { fill: "var(--ink)", font },
  };
  const rows = (columns) => {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  };
  const options = {
    config, renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
    ast: true,  // expressions are interpreted, so that the page can forbid code made from text
  };
  const compiled = new Map();  // by template; cells after the first skip the way from Vega-Lite to Vega
  const draw = async ({ id, template, columns }) => {
    const place = document.getElementById(id);
    const cell = columns ? { cell: rows(columns) } : {};
    try {
      if (compiled.has(template)) {
        const spec = structuredClone(compiled.get(template));
        spec.data.find((data) => data.name === "cell").values = cell.cell;
        await vegaEmbed(place, spec, { ...options, mode: "vega" });
      } else {
        const spec = { ...templates[template], datasets: { ...templates[template].datasets, ...cell } };
        const { vgSpec } = await vegaEmbed(place, spec, { ...options, mode: "vega-lite" });
        compiled.set(template, vgSpec);
      }
    } catch (error) {
      place.textContent = "This chart could not be drawn.";
      console.error(`${id}: ${error}`);
      document.documentElement.dataset.charts = "failed";
    }
  };
  const pause = () => new Promise((resolve) => setTimeout(resolve));
  (async () => {
    for (const [i, place] of places.entries()) {
      await draw(place);
      if (i % 6 === 5) await pause();
    }
    document.documentElement.dataset.charts ??= "drawn";
  })();
})();
