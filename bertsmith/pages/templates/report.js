const data = JSON.parse(document.getElementById("data").textContent);
const along = document.getElementById("along");
const charts = data.panels.map((_, number) => document.getElementById(`chart-${number}`));

function draw() {
  data.panels.forEach((panel, number) => {
    drawCurves(charts[number], panel, data.runs, along.value);
  });
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
