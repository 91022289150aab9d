"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
/* `judged`: there is a truth. Without one, `evaluation` has the redshifts alone. */
const { evaluation, slices, methods, judged, photons_per_atom: photonsPerAtom, planck } = data;
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "text", "circle", "g", "title", "clipPath"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shown(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

/* ---------------------------------------------------------------- theme */

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
function setTheme(dark) { document.documentElement.dataset.theme = dark ? "dark" : "light"; }
setTheme(prefersDark.matches);
prefersDark.addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((node) => { node.open = true; });
});

/* ---------------------------------------------------------------- slices */

const state = { snapshot: slices.first, depth: Math.floor(slices.depths.length / 2), method: 0 };

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* The 256 colours of a map as opaque pixels (little-endian RGBA, as every browser stores them). */
function colours(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Uint32Array.from({ length: 256 }, (_, i) =>
    0xff000000 + bytes[3 * i] + (bytes[3 * i + 1] << 8) + (bytes[3 * i + 2] << 16));
}

function value(field, level) {
  const { low, high, log } = slices.scales[field];
  const position = low + (high - low) * level / 255;
  return log ? 10 ** position : position;
}

function plane(values) {
  const cells = slices.rows * slices.columns;
  const start = (state.snapshot * slices.depths.length + state.depth) * cells;
  return values.subarray(start, start + cells);
}

function currentPlane(field, fields) {
  if (field === "pred") return plane(fields.pred[state.method]);
  if (field === "spread") return plane(fields.spread[state.method] || new Uint8Array(fields.pred[0].length));
  if (field !== "difference") return plane(fields[field]);
  const pred = plane(fields.pred[state.method]);
  const truth = plane(fields.true);
  return Uint8Array.from(truth, (level, i) => Math.round((pred[i] - level + 255) / 2));
}

function drawMap(canvas, levels, colour) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(levels, (level) => colour[level]));
  context.putImageData(image, 0, 0);
}

function makePanel(field, title) {
  const colour = colours(slices.colours[slices.scales[field].colours]);
  const map = element("canvas", { class: "map", width: slices.columns, height: slices.rows, role: "img",
    "aria-label": title });
  map.style.aspectRatio = `${slices.side_mpc[0]} / ${slices.side_mpc[1]}`;
  const bar = element("canvas", { class: "bar", width: 256, height: 1 });
  drawMap(bar, Uint8Array.from({ length: 256 }, (_, level) => level), colour);
  const caption = element("figcaption", { title }, title);
  const panel = element("figure", { class: "panel" }, caption, map,
    element("div", { class: "axis" }, element("span", {}, "0"), element("span", {}, "x, y [Mpc]"),
      element("span", {}, shown(slices.side_mpc[0]))),
    bar,
    element("div", { class: "axis" }, element("span", {}, shown(value(field, 0), 2)),
      element("span", {}, slices.scales[field].units), element("span", {}, shown(value(field, 255), 2))));
  byId("panels").append(panel);
  return { field, map, caption, colour };
}

/* A file called xi.zarr needs no second mention. */
function captionOfXi(name) { return name === "xi" ? "Xi" : `Xi of ${name}`; }

async function showSlices() {
  if (typeof DecompressionStream === "undefined") {
    byId("readout").textContent = "This browser is too old to unpack the slices (no DecompressionStream).";
    return;
  }
  const fields = { pred: [], spread: [] };
  for (const [name, packed] of Object.entries(slices.fields)) fields[name] = await unpacked(packed);
  for (const method of slices.methods) {
    fields.pred.push(await unpacked(method.packed));
    fields.spread.push(method.spread ? await unpacked(method.spread) : null);
  }
  const titles = { density: "Gas density", sources: "Sources", true: "True xi", pred: "Predicted xi",
    spread: "Its error bar", difference: "Predicted − true" };
  const panels = Object.entries(titles).filter(([field]) => field in slices.scales)
    .map(([field, title]) => makePanel(field, title));

  byId("panels").style.setProperty("--panels", Math.max(5, panels.length));

  function draw() {
    for (const panel of panels) {
      drawMap(panel.map, currentPlane(panel.field, fields), panel.colour);
      if (panel.field === "pred") panel.caption.textContent = captionOfXi(slices.methods[state.method].name);
    }
    byId("redshift-value").textContent = `z = ${shown(slices.redshifts[state.snapshot], 4)}`;
    byId("depth-value").textContent = `${shown(slices.depths[state.depth], 4)} Mpc`;
  }

  function read(event, panel) {
    const bounds = panel.map.getBoundingClientRect();
    const column = Math.floor((event.clientX - bounds.left) / bounds.width * slices.columns);
    const row = Math.floor((event.clientY - bounds.top) / bounds.height * slices.rows);
    if (column < 0 || row < 0 || column >= slices.columns || row >= slices.rows) return;
    const x = (column + 0.5) / slices.columns * slices.side_mpc[0];
    const y = (slices.rows - row - 0.5) / slices.rows * slices.side_mpc[1];
    const cell = row * slices.columns + column;
    const values = panels.map(({ field }) =>
      `${titles[field].toLowerCase()} ${shown(value(field, currentPlane(field, fields)[cell]), 2)}`);
    byId("readout").textContent = `x ${shown(x)}, y ${shown(y)} Mpc: ${values.join(", ")}`;
  }
  for (const panel of panels) {
    panel.map.addEventListener("pointermove", (event) => read(event, panel));
    panel.map.addEventListener("pointerleave", () => { byId("readout").textContent = "\u00a0"; });
  }

  slices.methods.forEach((method, i) => byId("method").append(element("option", { value: i }, method.name)));
  byId("method-label").hidden = slices.methods.length < 2;
  const sliders = { redshift: ["snapshot", slices.redshifts.length], depth: ["depth", slices.depths.length] };
  for (const [id, [key, count]] of Object.entries(sliders)) {
    byId(id).max = count - 1;
    byId(id).value = state[key];
    byId(id).addEventListener("input", (event) => {
      state[key] = Number(event.target.value);
      draw();
      if (key === "snapshot") showSnapshotCharts();
    });
  }
  byId("method").addEventListener("input", (event) => { state.method = Number(event.target.value); draw(); });
  draw();
}

/* ---------------------------------------------------------------- charts */

/* By number of the style: the truth, the first prediction, the excursion set, and rivals from 3 on. */
const DASHES = ["", "", "7 3", "9 3 2 3", "5 2", "1 2", "12 3", "4 4", "9 3 2 3 2 3"];
const WIDTH = 460;
let charts = 0;
const MARGIN = { left: 66, right: 12, top: 8, bottom: 40 };

function linearTicks(low, high, count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) ticks.push(n * step);
  return ticks;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const steps = decades < 2.2 ? [1, 2, 5] : [1];
  const every = Math.ceil(decades / 6);
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
    if (e % every && decades > 6) continue;
    for (const n of steps) {
      const tick = n * 10 ** e;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

/* From data to pixels; an end of the range that is not given leaves a little room around the values. */
function axis({ log, reverse, range = [] }, values, from, to) {
  const usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  const least = Math.min(...usable);
  const most = Math.max(...usable);
  const room = log ? 1.25 : (most - least || Math.abs(most) || 1) * 0.06;
  const low = range[0] ?? (log ? least / room : least - room);
  const high = Math.max(range[1] ?? (log ? most * room : most + room), log ? low * 1.01 : low + 1e-12);
  const scale = log ? Math.log10 : (v) => v;
  const [a, b] = reverse ? [high, low] : [low, high];
  return {
    at: (v) => from + (scale(v) - scale(a)) / (scale(b) - scale(a)) * (to - from),
    ticks: log ? logTicks(low, high) : linearTicks(low, high),
    holds: (v) => Number.isFinite(v) && (!log || v > 0),
    low, high,
  };
}

/* One chart: series are {name, style, x, y, spread?}; x and y are {label, log, reverse, range}. */
function chart({ title, series, x, y, height = 280, rule, diagonal }) {
  const drawn = series.filter((s) => s.y.some((v, i) => Number.isFinite(v) && (!y.log || v > 0) && Number.isFinite(s.x[i])));
  const legend = element("div", { class: "legend" });
  const plot = element("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": title });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, title), legend, plot);
  if (!drawn.length) {
    plot.append(element("text", { x: WIDTH / 2, y: height / 2, "text-anchor": "middle" },
      "not defined here"));
    return figure;
  }
  const bottom = height - MARGIN.bottom;
  const xs = axis(x, drawn.flatMap((s) => s.x), MARGIN.left, WIDTH - MARGIN.right);
  const ys = axis(y, drawn.flatMap((s) => s.y), bottom, MARGIN.top);

  for (const tick of xs.ticks) {
    plot.append(element("line", { class: "grid", x1: xs.at(tick), x2: xs.at(tick), y1: MARGIN.top, y2: bottom }),
      element("text", { x: xs.at(tick), y: bottom + 16, "text-anchor": "middle" }, shown(tick)));
  }
  for (const tick of ys.ticks) {
    plot.append(
      element("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: ys.at(tick), y2: ys.at(tick) }),
      element("text", { x: MARGIN.left - 6, y: ys.at(tick) + 4, "text-anchor": "end" }, shown(tick)));
  }
  plot.append(
    element("rect", { class: "frame", x: MARGIN.left, y: MARGIN.top, width: WIDTH - MARGIN.left - MARGIN.right,
      height: bottom - MARGIN.top }),
    element("text", { x: (MARGIN.left + WIDTH - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label),
    element("text", { transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      y.label));
  if (rule !== undefined && rule >= ys.low && rule <= ys.high) {
    plot.append(element("line", { class: "rule", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: ys.at(rule),
      y2: ys.at(rule) }));
  }
  if (diagonal) {
    plot.append(element("line", { class: "rule", x1: xs.at(xs.low), x2: xs.at(xs.high), y1: ys.at(ys.low),
      y2: ys.at(ys.high) }));
  }
  // What leaves the frame is cut off there: a curve that ends at the edge goes on beyond it.
  charts += 1;
  const frame = element("rect", { x: MARGIN.left, y: MARGIN.top, width: WIDTH - MARGIN.left - MARGIN.right,
    height: bottom - MARGIN.top });
  plot.append(element("clipPath", { id: `frame-${charts}` }, frame));
  const curves = element("g", { "clip-path": `url(#frame-${charts})` });
  plot.append(curves);
  for (const s of drawn) {
    const colour = `var(--s${s.style})`;
    if (s.low) {
      const points = s.x.map((v, i) => [v, s.low[i], s.high[i]])
        .map(([v, l, h]) => [v, Math.max(l, ys.low), h])
        .filter(([v, l, h]) => xs.holds(v) && ys.holds(l) && ys.holds(h));
      const up = points.map(([v, , h]) => `${xs.at(v)},${ys.at(h)}`);
      const down = points.reverse().map(([v, l]) => `${xs.at(v)},${ys.at(l)}`);
      if (points.length) curves.append(element("path", { d: `M${up.concat(down).join("L")}Z`, fill: colour, opacity: 0.15 }));
    }
    let path = "";
    let pen = "M";
    s.x.forEach((v, i) => {
      const inside = xs.holds(v) && ys.holds(s.y[i]);
      if (!inside) { pen = "M"; return; }
      path += `${pen}${xs.at(v).toFixed(1)},${ys.at(s.y[i]).toFixed(1)}`;
      pen = "L";
    });
    curves.append(element("path", { d: path, fill: "none", stroke: colour, "stroke-width": s.style === 0 ? 2.4 : 1.8,
      "stroke-dasharray": DASHES[s.style] }));
    s.x.forEach((v, i) => {
      if (!xs.holds(v) || !ys.holds(s.y[i])) return;
      if (ys.at(s.y[i]) < MARGIN.top - 2 || ys.at(s.y[i]) > bottom + 2) return;
      plot.append(element("circle", { cx: xs.at(v), cy: ys.at(s.y[i]), r: 2.6, fill: colour },
        element("title", {}, `${s.name}: ${shown(v)}, ${shown(s.y[i], 4)}`)));
    });
    legend.append(element("span", {}, element("svg", { viewBox: "0 0 28 10" },
      element("path", { d: "M0,5L28,5", stroke: colour, "stroke-width": 2.4, "stroke-dasharray": DASHES[s.style] })),
    s.name));
    if (s.low) legend.append(element("span", {}, element("svg", { viewBox: "0 0 28 10" },
      element("rect", { width: 28, height: 10, fill: colour, opacity: 0.15 })), s.band));
  }
  return figure;
}

const redshifts = evaluation.redshifts.map((row) => row.redshift);
const TRUTH = { name: "truth", style: 0 };

function overRedshift(pick) {
  return methods.map((method) => ({ ...method, x: redshifts, y: method.result.redshifts.map(pick) }));
}

function show(id, specifications) {
  byId(id).replaceChildren(...specifications.filter((one) => judged || !one.judges).map((one) => chart(one)));
}

/* What there is beside the history where there is no truth. */
function surveyCharts(x) {
  if (judged) return [];
  const ends = [redshifts[0], redshifts[redshifts.length - 1]];
  const both = (value) => [value, value];
  const [depth, error] = planck;
  const depths = methods.flatMap((method) => method.result.redshifts.map((row) => 1.05 * row.optical_depth_below));
  const charted = [
    { title: "History of the mass", x, y: { label: "mass-weighted mean xi", range: [0, 1] },
      series: overRedshift((row) => row.mass_weighted_xi_pred) },
    { title: "Optical depth", x, y: { label: "optical depth below z", range: [0, Math.max(depth + 1.5 * error, ...depths)] },
      series: [{ name: "Planck 2018", style: 0, x: ends, y: both(depth), low: both(depth - error),
        high: both(depth + error), band: "its 1 σ" }, ...overRedshift((row) => row.optical_depth_below)] },
  ];
  if (photonsPerAtom) {
    charted.push({ title: "Photon budget", x, y: { label: "for each hydrogen atom", range: [0, null] },
      series: [{ name: "photons emitted", style: 2, x: redshifts, y: photonsPerAtom },
        ...overRedshift((row) => row.mass_weighted_xi_pred)] });
  }
  return charted;
}

function showHistoryCharts() {
  const x = { label: "redshift z", reverse: true };
  const truth = (pick) => ({ ...TRUTH, x: redshifts, y: evaluation.redshifts.map(pick) });
  show("history-charts", [
    { title: "Reionisation history", x, y: { label: "mean ionised fraction", range: [0, 1] },
      series: [truth((row) => row.mean_xi_true), ...overRedshift((row) => row.mean_xi_pred)] },
    ...surveyCharts(x),
    { title: "Error of the history", judges: true, x, y: { label: "mean xi, predicted − true" }, rule: 0,
      series: overRedshift((row) => row.mean_xi_pred - row.mean_xi_true) },
    { title: "Cell by cell", judges: true, x, y: { label: "R²", range: [null, 1] }, rule: 0, series: overRedshift((row) => row.r2) },
    { title: "Mean bubble size", x, y: { label: "mean free path [Mpc]", log: true },
      series: [truth((row) => row.bubble_size_mpc_true), ...overRedshift((row) => row.bubble_size_mpc_pred)] },
    { title: "Percolation", x, y: { label: "largest region / ionised volume", range: [0, 1] },
      series: [truth((row) => row.largest_cluster_true), ...overRedshift((row) => row.largest_cluster_pred)] },
    { title: "Topology", x, y: { label: "Euler characteristic" }, rule: 0,
      series: [truth((row) => row.euler_characteristic_true),
        ...overRedshift((row) => row.euler_characteristic_pred)] },
  ]);
}

/* A quantity in shells or bins: `truth` and `pred` name its arrays within the row's group. */
function pairs(group, x, truth, pred, scatter) {
  const rows = methods.map((method) => ({ ...method, found: method.result.redshifts[state.snapshot][group] }))
    .filter(({ found }) => found && found[pred]);
  const first = methods[0].result.redshifts[state.snapshot][group];
  const series = rows.map((method) => ({ ...method, x: method.found[x], y: method.found[pred] }));
  const spread = scatter && first ? first.modes.map((modes) => Math.sqrt(2 / modes)) : null;
  if (spread && !judged && series.length) {
    series[0].low = series[0].y.map((p, i) => p * (1 - spread[i]));
    series[0].high = series[0].y.map((p, i) => p * (1 + spread[i]));
    series[0].band = "its cosmic variance";
  }
  if (first && first[truth]) {
    series.unshift({ ...TRUTH, x: first[x], y: first[truth],
      band: "its cosmic variance", low: spread && first[truth].map((p, i) => p * (1 - spread[i])),
      high: spread && first[truth].map((p, i) => p * (1 + spread[i])) });
  }
  return series;
}

function ratios(series) {
  if (!judged) return [];
  const [truth, ...others] = series;
  return others.map((one) => ({ ...one, y: one.y.map((p, i) => p === null || !truth.y[i] ? null : p / truth.y[i]) }));
}

function showSnapshotCharts() {
  document.querySelectorAll(".current-redshift").forEach((node) => {
    node.textContent = `z = ${shown(redshifts[state.snapshot], 4)}`;
  });
  const k = { label: "k [Mpc⁻¹]", log: true };
  const radius = { label: "R [Mpc]", log: true };
  const spectra = pairs("spectrum", "k", "power_true", "power_pred", true);
  const brightness = pairs("spectrum", "k", "brightness_power_true", "brightness_power_pred", true);
  show("snapshot-charts", [
    { title: "Power spectrum of xi", x: k, y: { label: "k³P/2π²", log: true }, series: spectra },
    { title: "Power over true power", judges: true, x: k, y: { label: "ratio of power", range: [0, 2] }, rule: 1,
      series: ratios(spectra) },
    { title: "Cross-correlation with the truth", judges: true, x: k, y: { label: "r(k)", range: [null, 1.02] }, rule: 0,
      series: pairs("spectrum", "k", null, "cross_correlation") },
    { title: "Cross-correlation of xi with density", x: k, y: { label: "r(k)" }, rule: 0,
      series: pairs("spectrum", "k", "density_correlation_true", "density_correlation_pred") },
    { title: "21-cm power spectrum", x: k, y: { label: "k³P/2π² [mK²]", log: true }, series: brightness },
    { title: "21-cm power over true power", judges: true, x: k, y: { label: "ratio of power", range: [0, 2] }, rule: 1,
      series: ratios(brightness) },
    { title: "Bubble sizes, mean free path", x: radius, y: { label: "dP / d ln R", range: [0, null] },
      series: pairs("bubble_sizes", "radius_mpc", "probability_true", "probability_pred") },
    { title: "Bubble sizes, granulometry", x: radius, y: { label: "ionised volume in balls of R", range: [0, 1] },
      series: pairs("granulometry", "radius_mpc", "fraction_true", "fraction_pred") },
  ]);
}

/* Whether error bars are as long as errors are: none where no method has them. */
function errorBarChart(rows) {
  const range = [0, Math.max(0.1, ...rows.flatMap(({ found }) => [...found.predicted_spread, ...found.found_error]))];
  return rows.length ? [{ title: "Error bars", diagonal: true, x: { label: "predicted standard deviation of the error", range },
    y: { label: "root mean square error", range }, series: rows.map((one) => (
      { ...one, x: one.found.predicted_spread, y: one.found.found_error })) }] : [];
}

function showPooledCharts() {
  const group = (name) => methods.filter((method) => method.result.pooled && method.result.pooled[name])
    .map((method) => ({ ...method, found: method.result.pooled[name] }));
  const density = { label: "density over its mean, tenths of the volume", log: true };
  show("pooled-charts", [
    { title: "Reliability", x: { label: "predicted xi", range: [0, 1] }, y: { label: "mean true xi", range: [0, 1] },
      diagonal: true, series: group("reliability").map((one) => (
        { ...one, x: one.found.mean_xi_pred, y: one.found.mean_xi_true })) },
    { title: "Bias by density", x: density, y: { label: "mean of predicted − true" }, rule: 0,
      series: group("error_by_density").map((one) => ({ ...one, x: one.found.overdensity, y: one.found.bias })) },
    { title: "Squared error by density", x: density, y: { label: "MSE", range: [0, null] },
      series: group("error_by_density").map((one) => ({ ...one, x: one.found.overdensity, y: one.found.mse })) },
    ...errorBarChart(group("spread_calibration")),
  ]);
}

showHistoryCharts();
showSnapshotCharts();
if (judged) showPooledCharts();
showSlices();
