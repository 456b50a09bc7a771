"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito (2008): colours that are told apart by everyone; dashes tell runs apart in grey.
const light = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a06c00"];
const dark = ["#56b4e9", "#e69f00", "#2bc39a", "#e39ac3", "#4a9fe0", "#f0e442"];
const isDark = window.matchMedia("(prefers-color-scheme: dark)");
const isPrint = window.matchMedia("print");
const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const along = document.getElementById("along");
const units = { step: "optimizer step", tokens: "tokens", minutes: "minutes" };
const charts = data.panels.map((_, number) => document.getElementById(`chart-${number}`));

function traces(panel) {
  const several = data.runs.length > 1;
  const colours = isDark.matches && !isPrint.matches ? dark : light;
  return panel.series.map((one) => {
    const colour = colours[one.run % colours.length];
    const name = several ? `${data.runs[one.run]}: ${one.kind}` : one.kind;
    const isFaint = one.kind === "training";
    return {
      type: "scatter", x: one[along.value], y: one.y, name, legendgroup: name,
      mode: one.kind === "validation" ? "lines+markers" : "lines",
      opacity: isFaint ? 0.25 : 1, showlegend: !isFaint, hoverinfo: isFaint ? "skip" : "all",
      line: { color: one.kind === "validation" && !several ? colours[1] : colour,
              width: isFaint ? 1 : 2, dash: isFaint ? "solid" : dashes[one.run % dashes.length] },
    };
  });
}

// The first steps fall from ln V; the part that is still moving fills the picture.
function heights(panel) {
  const later = panel.floors.map((floor) => floor.y);
  for (const one of panel.series) {
    if (one.kind === "training") continue;
    later.push(...(one.kind === "smoothed" ? one.y.slice(Math.floor(one.y.length / 20)) : one.y));
  }
  const low = Math.min(...later), high = Math.max(...later), margin = 0.06 * (high - low) || 0.01;
  return [low - margin, high + margin];
}

function layout(panel) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const axis = { color: ink, gridcolor: line, zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
    margin: { l: 56, r: 12, t: 8, b: 44 }, hovermode: "x unified",
    hoverlabel: { bgcolor: style.getPropertyValue("--ground").trim(), font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, title: { text: units[along.value] } },
    yaxis: { ...axis, title: { text: panel.unit }, range: heights(panel) },
    shapes: panel.floors.map((floor) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: floor.y,
      y1: floor.y, line: { color: ink, width: 1, dash: "dot" } })),
    annotations: panel.floors.map((floor) => ({ xref: "paper", x: 1, xanchor: "right", y: floor.y,
      yanchor: "bottom", showarrow: false, text: floor.label, font: { color: ink, size: 11 } })),
  };
}

function draw() {
  data.panels.forEach((panel, number) => Plotly.react(charts[number], traces(panel), layout(panel), {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  }));
}

function move(how) {
  for (const chart of charts) {
    if (how === "all") { Plotly.relayout(chart, { "xaxis.autorange": true }); continue; }
    const [low, high] = chart._fullLayout.xaxis.range, width = high - low;
    const by = { in: [0.25, -0.25], out: [-0.5, 0.5], back: [-0.5, -0.5], on: [0.5, 0.5] }[how];
    Plotly.relayout(chart, { "xaxis.range": [low + by[0] * width, high + by[1] * width] });
  }
}

along.addEventListener("change", draw);
for (const button of document.querySelectorAll("[data-move]")) {
  button.addEventListener("click", () => move(button.dataset.move));
}
for (const query of [isDark, isPrint]) query.addEventListener("change", draw);
draw();
