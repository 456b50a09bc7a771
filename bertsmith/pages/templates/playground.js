const settings = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
let about = null, masked = new Set(), tokens = [];

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// The answers of one question come in order: one that a later question overtook is dropped.
function asker(path, errors) {
  let latest = 0;
  return async (ask) => {
    const number = ++latest;
    let found;
    try {
      const response = await fetch(path, { method: "POST", body: JSON.stringify(ask) });
      found = await response.json();
    } catch {
      found = { error: "The playground does not answer; is it still running?" };
    }
    if (number !== latest) return null;
    at(errors).textContent = found.error ?? "";
    return found.error === undefined ? found : null;
  };
}

function soon(run) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(run, 120); };
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// Words for masks
const askFill = asker("fill", "text-error");

function showPieces() {
  at("pieces").replaceChildren(...tokens.map((token, number) => {
    const button = element("button", token.text, {
      type: "button", "aria-pressed": String(masked.has(number) || token.mask),
    });
    if (token.continues) button.classList.add("continues");
    if (token.unknown) button.classList.add("unknown");
    button.addEventListener("click", () => {
      if (!masked.delete(number)) masked.add(number);
      fill().then(() => at("pieces").children[number]?.focus());
    });
    return button;
  }));
}

function showMasks(masks) {
  at("masks").replaceChildren(...Object.entries(masks).map(([number, one]) => {
    const table = element("table");
    const token = tokens[number];
    const title = token.mask ? "for the mask" : `in the place of ${token.text}`;
    table.append(element("caption", one.true === null ? title : `${title} (${percent(one.true)})`));
    for (const guess of one.guesses) {
      const row = table.insertRow();
      row.append(element("th", guess.text, { scope: "row" }));
      const cell = row.insertCell(), bar = element("span", undefined, { class: "bar" });
      bar.style.width = `${(8 * guess.probability).toFixed(2)}rem`;
      cell.append(bar, ` ${percent(guess.probability)}`);
    }
    return table;
  }));
}

async function fill() {
  if (about === null || !about.fills) return;
  const found = await askFill({ text: at("text").value, masked: [...masked] });
  if (found === null) return;
  tokens = found.tokens;
  showPieces();
  showMasks(found.masks);
}

at("text").addEventListener("input", soon(async () => {
  const before = tokens.length;
  const asked = await askPieces({ text: at("text").value });
  // Masks stay where they are while words are typed behind them.
  if (asked !== null && asked.tokens.length < before) {
    masked = new Set([...masked].filter((number) => number < asked.tokens.length));
  }
  await fill();
  await look();
}));
const askPieces = asker("pieces", "text-error");

// Next sentence
const askFollows = asker("follows", "next-error");

async function follows() {
  if (about === null || !about.judges_next) return;
  const found = await askFollows({ text: at("first").value, other: at("second").value });
  if (found === null) return;
  at("follows").value = found.probability;
  at("follows-number").textContent = percent(found.probability);
}
for (const id of ["first", "second"]) at(id).addEventListener("input", soon(follows));

// Two sentences
const askNear = asker("nearness", "near-error");

function matrix(table, rows, columns, values, corner) {
  const head = element("tr");
  head.append(element("td", corner), ...columns.map((name) => element("th", name, { scope: "col" })));
  const body = rows.map((name, i) => {
    const row = element("tr");
    row.append(element("th", name, { scope: "row" }), ...columns.map((_, j) => {
      const cell = element("td", values[i][j].toFixed(2));
      const share = Math.max(0, Math.min(1, values[i][j]));
      cell.style.background = `color-mix(in srgb, var(--bar) ${Math.round(45 * share)}%, transparent)`;
      return cell;
    }));
    return row;
  });
  table.replaceChildren(head, ...body);
}

async function nearness() {
  if (about === null) return;
  const found = await askNear({ text: at("left").value, other: at("right").value });
  if (found === null) return;
  const shared = found.shared.map((one) => `${one.word} ${one.cosine.toFixed(4)}`).join(", ");
  at("near-text").textContent = `Cosine of the texts (means): ${found.text.toFixed(4)}. ` +
    `Words that stand in both: ${shared || "none"}.`;
  matrix(at("matrix"), found.words[0], found.words[1], found.cosines, "");
}
for (const id of ["left", "right"]) at(id).addEventListener("input", soon(nearness));

// Places of a word
const askPlaces = asker("places", "where-error");
let placesFound = null;

function showPlaces() {
  if (placesFound === null) return;
  const places = placesFound.places, { axis, layout } = themed();
  Plotly.react(at("map"), [{
    type: "scatter", mode: "markers", x: places.map((one) => one.x), y: places.map((one) => one.y),
    text: places.map((one) => escaped(`${one.left}[${one.word}]${one.right}`)), hoverinfo: "text",
    marker: { size: 9, color: colours()[0], opacity: 0.7 },
  }], { ...layout, xaxis: { ...axis, showticklabels: false }, yaxis: { ...axis, showticklabels: false },
        hovermode: "closest" }, chartConfig);
  at("places").replaceChildren(...places.map((one) =>
    element("li", `line ${one.line}: ${one.left}[${one.word}]${one.right}`)));
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

async function find() {
  at("count").textContent = "Looking …";
  const found = await askPlaces({ word: at("word").value });
  at("count").textContent = found === null ? "" :
    `${found.count} places` + (found.count > found.places.length ? `, ${found.places.length} shown` : "");
  for (const id of ["map", "places-list"]) at(id).hidden = found === null;
  placesFound = found;
  showPlaces();
}
at("find").addEventListener("click", find);
at("word").addEventListener("keydown", (event) => { if (event.key === "Enter") find(); });

// Attention
const askAttention = asker("attention", "look-error");
let seen = null;

function showAttention() {
  if (seen === null) return;
  const { axis, layout } = themed(), style = getComputedStyle(document.documentElement);
  const scale = ["--ground", "--bar"].map((name, n) => [n, style.getPropertyValue(name).trim()]);
  const names = seen.tokens.map((token, number) => escaped(`${number + 1} ${token}`));
  Plotly.react(at("heat"), [{
    type: "heatmap", z: seen.probabilities, x: names, y: names, zmin: 0, zmax: 1, colorscale: scale,
    hovertemplate: "%{y} → %{x}: %{z:.3f}<extra></extra>",
  }], { ...layout, xaxis: { ...axis, side: "top" }, yaxis: { ...axis, autorange: "reversed" },
        margin: { l: 90, r: 12, t: 90, b: 12 } }, { ...chartConfig, displayModeBar: false });
  if (at("heat-numbers").open) showNumbers();
}

function showNumbers() {
  if (seen === null) return;
  matrix(at("heat-table"), seen.tokens, seen.tokens, seen.probabilities, "from \\ to");
}
at("heat-numbers").addEventListener("toggle", showNumbers);

async function look() {
  if (about === null) return;
  const found = await askAttention({
    text: at("text").value, layer: Number(at("layer").value), head: Number(at("head").value),
  });
  if (found === null) return;
  seen = found;
  showAttention();
}
for (const id of ["layer", "head"]) at(id).addEventListener("change", look);

// The run
let live = [];

function showLive() {
  const losses = live.filter((panel) => panel.unit === "loss (nats)").slice(0, 2);
  losses.forEach((panel, number) => drawCurves(at(`live-${number}`), panel, [about.name], "step"));
  at("live-1").hidden = losses.length < 2;
}

async function everything() {
  await Promise.all([fill(), follows(), nearness()]);
  await look();
}

async function state() {
  let found;
  try {
    found = await (await fetch("state")).json();
    if (found.error !== undefined) throw new Error(found.error);
  } catch (error) {  // it is asked again: a run may just have removed what was looked at
    at("about").textContent = error.message;
    setTimeout(state, 5000 * settings.seconds);
    return;
  }
  const isNew = about === null || about.checkpoint !== found.about.checkpoint;
  about = found.about;
  if (isNew) {
    at("name").textContent = about.name;
    document.title = `${about.name} – playground`;
    at("about").textContent = `${about.architecture} of ${about.layers} layers, ${about.heads} heads; ` +
      `reads ${about.max_length} tokens. Model: ${about.checkpoint}.`;
    at("next").hidden = !about.judges_next;
    for (const id of ["fill-hint", "pieces", "masks"]) at(id).hidden = !about.fills;
    for (const [id, count] of [["layer", about.layers], ["head", about.heads]]) {
      if (at(id).length === count) continue;
      at(id).replaceChildren(...Array.from({ length: count }, (_, n) => element("option", n + 1, { value: n })));
    }
  }
  at("live").hidden = found.panels.length === 0 || found.is_finished;
  if (!at("live").hidden) {
    live = found.panels;
    at("progress").textContent = `Step ${found.step}; the answers below are of ${about.checkpoint}.`;
    showLive();
  }
  if (isNew) await everything();
  if (about.is_run && !found.is_finished) setTimeout(state, 1000 * settings.seconds);
}

isDark.addEventListener("change", () => { showLive(); showPlaces(); showAttention(); });
state();
