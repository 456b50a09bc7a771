"use strict";
// Okabe and Ito (2008): colours that are told apart by everyone; dashes tell runs apart in grey.
const light = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a06c00"];
const dark = ["#56b4e9", "#e69f00", "#2bc39a", "#e39ac3", "#4a9fe0", "#f0e442"];
const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const isDark = window.matchMedia("(prefers-color-scheme: dark)");
const isPrint = window.matchMedia("print");
const units = { step: "optimizer step", tokens: "tokens", minutes: "minutes" };
const chartConfig = {
  responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
};

function colours() { return isDark.matches && !isPrint.matches ? dark : light; }

function themed() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const axis = { color: ink, gridcolor: style.getPropertyValue("--line").trim(), zeroline: false,
                 automargin: true };
  return { ink, axis, layout: {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
    hoverlabel: { bgcolor: style.getPropertyValue("--ground").trim(), font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink },
    margin: { l: 56, r: 12, t: 8, b: 44 },
  } };
}

function traces(panel, runs, along) {
  const several = runs.length > 1;
  return panel.series.map((one) => {
    const name = several ? `${runs[one.run]}: ${one.kind}` : one.kind;
    const isFaint = one.kind === "training";
    const colour = one.kind === "validation" && !several ? 1 : one.run % light.length;
    return {
      type: "scatter", x: one[along], y: one.y, name, legendgroup: name,
      mode: one.kind === "validation" ? "lines+markers" : "lines",
      opacity: isFaint ? 0.25 : 1, showlegend: !isFaint, hoverinfo: isFaint ? "skip" : "all",
      line: { color: colours()[colour], width: isFaint ? 1 : 2,
              dash: isFaint ? "solid" : dashes[one.run % dashes.length] },
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

function drawCurves(chart, panel, runs, along) {
  const { ink, axis, layout } = themed();
  return Plotly.react(chart, traces(panel, runs, along), {
    ...layout, hovermode: "x unified",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, title: { text: units[along] } },
    yaxis: { ...axis, title: { text: panel.unit }, range: heights(panel) },
    shapes: panel.floors.map((floor) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: floor.y,
      y1: floor.y, line: { color: ink, width: 1, dash: "dot" } })),
    annotations: panel.floors.map((floor) => ({ xref: "paper", x: 1, xanchor: "right", y: floor.y,
      yanchor: "bottom", showarrow: false, text: floor.label, font: { color: ink, size: 11 } })),
  }, chartConfig);
}
