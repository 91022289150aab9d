// The page: load a box, predict it with the model beside this file, show slices of what went in and came out.
import * as ort from "./ort.wasm.min.mjs";
import { addHistory, readSnapshot } from "./boxes.js";

const element = (id) => document.getElementById(id);
const state = { model: null, session: null, snapshots: [], current: null };

const PANELS = [
  { field: "n_igm", title: "gas density", unit: "of the mean", scale: "log", colours: "cool", relative: true },
  { field: "n_src", title: "sources", unit: "10⁴⁸ s⁻¹ Mpc⁻³", scale: "log", colours: "warm", depth: 2 },
  { field: "n_ion", title: "photons so far", unit: "10⁶⁶ Mpc⁻³", scale: "log", colours: "warm", depth: 2 },
  { field: "predicted", title: "ionised, predicted", unit: "fraction", scale: "unit", colours: "ion" },
  { field: "xi", title: "ionised, ray tracing", unit: "fraction", scale: "unit", colours: "ion" },
];

const COLOURS = {
  cool: [[8, 8, 24], [38, 42, 106], [40, 104, 150], [94, 178, 168], [240, 246, 220]],
  warm: [[10, 6, 12], [84, 16, 60], [184, 50, 48], [246, 146, 44], [255, 244, 190]],
  ion: [[16, 18, 30], [46, 58, 96], [120, 124, 150], [208, 178, 160], [255, 238, 214]],
};

async function start() {
  say("Loading the model …");
  ort.env.wasm.wasmPaths = new URL(".", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  ort.env.wasm.proxy = true; // computes in a worker, so that the page stays alive
  ort.env.logLevel = "error";
  state.model = await (await fetch("model.json")).json();
  const { name, version, inputs, redshift_range: range } = state.model;
  element("model").textContent = `${name} ${version}: ${Object.keys(inputs).join(", ")} → xi, trained at z = ${range.join(" to ")}`;
  const bytes = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  state.session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  show(
    state.model.samples.map(({ file, redshift }) => ({
      redshift,
      load: async () => readSnapshot(await (await fetch(file)).arrayBuffer(), file),
    })),
  );
}

/** Offer these snapshots, and begin with the middle one. */
function show(snapshots) {
  state.snapshots = snapshots;
  element("redshift").replaceChildren(...snapshots.map(({ redshift }, index) => new Option(`z = ${redshift}`, index)));
  element("redshift").value = Math.floor(snapshots.length / 2);
  return select();
}

async function select() {
  const snapshot = state.snapshots[element("redshift").value];
  state.current = snapshot;
  if (snapshot.load) {
    say("Loading the box …");
    Object.assign(snapshot, await snapshot.load(), { load: null });
  }
  if (snapshot !== state.current) return;
  moveTo(true);
  if (!snapshot.fields.predicted) await predict(snapshot);
  if (snapshot === state.current) report(snapshot);
}

async function predict(snapshot) {
  const { shape, fields } = snapshot;
  const feeds = { redshift: new ort.Tensor("float32", [snapshot.redshift], [1]) };
  for (const name of Object.keys(state.model.inputs)) {
    if (!fields[name]) throw new Error(`the model needs ${name}; the box has ${Object.keys(fields).join(", ")}`);
    // A copy: what goes to the worker is gone from here.
    feeds[name] = new ort.Tensor("float32", fields[name].slice(), [1, ...shape]);
  }
  say(`Predicting ${shape.join(" × ")} cells …`);
  const begin = performance.now();
  const { xi } = await state.session.run(feeds);
  snapshot.seconds = (performance.now() - begin) / 1000;
  fields.predicted = xi.data;
}

function report(snapshot) {
  const { shape, fields, seconds } = snapshot;
  const cells = shape[0] * shape[1] * shape[2];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / cells;
  let text = `${cells.toLocaleString("en")} cells predicted in ${seconds.toFixed(1)} s; `;
  text += `${(100 * mean(fields.predicted)).toFixed(1)} % of the volume is ionised`;
  if (fields.xi) {
    const average = mean(fields.xi);
    let residual = 0;
    let variance = 0;
    fields.xi.forEach((truth, cell) => {
      residual += (fields.predicted[cell] - truth) ** 2;
      variance += (truth - average) ** 2;
    });
    text += `, ${(100 * average).toFixed(1)} % in the ray tracing; R² = ${(1 - residual / variance).toFixed(3)}`;
  }
  say(`${text}. ${warnings(snapshot)}`);
  draw();
  document.body.dataset.predicted = snapshot.redshift;
}

function warnings(snapshot) {
  const side = snapshot.boxSize[0] / snapshot.shape[0];
  const { cell_size_mpc: trained, redshift_range: range } = state.model;
  const said = [];
  if (Math.abs(side / trained - 1) > 0.01) said.push(`Trained on cells of ${trained} Mpc, these are ${side.toPrecision(3)} Mpc.`);
  if (snapshot.redshift < range[0] || snapshot.redshift > range[1]) said.push("This redshift is outside the training.");
  return said.join(" ");
}

/** Fit the slider to the axis; with `centre`, to the middle slice. */
function moveTo(centre) {
  const { shape } = state.current;
  const axis = Number(element("axis").value);
  element("slice").max = shape[axis] - 1;
  if (centre) element("slice").value = Math.floor(shape[axis] / 2);
  draw();
}

function draw() {
  const { shape, boxSize, fields } = state.current;
  if (!shape) return;
  const axis = Number(element("axis").value);
  const index = Number(element("slice").value);
  const side = boxSize[axis] / shape[axis];
  element("where").textContent = `${index + 1} of ${shape[axis]} (${((index + 0.5) * side).toFixed(0)} Mpc)`;
  const [across, up] = [0, 1, 2].filter((other) => other !== axis);
  const length = (other) => `${"xyz"[other]}, ${boxSize[other].toFixed(0)} Mpc`;
  element("sides").textContent = `To the right: ${length(across)}. Up: ${length(up)}. Comoving; the box is periodic.`;
  const shown = PANELS.filter(({ field }) => fields[field] || field === "predicted");
  const panels = element("panels");
  if (panels.dataset.shown !== shown.map(({ field }) => field).join()) {
    panels.dataset.shown = shown.map(({ field }) => field).join();
    panels.replaceChildren(...shown.map(makePanel));
  }
  shown.forEach((panel, number) => paint(panels.children[number], panel, fields[panel.field], shape, axis, index));
}

function makePanel({ title, unit }) {
  const figure = document.createElement("figure");
  figure.innerHTML =
    `<figcaption>${title}<span>${unit}</span></figcaption><canvas class="map"></canvas>` +
    '<canvas class="scale" width="256" height="1"></canvas><div class="range"><span></span><span></span></div>';
  return figure;
}

function paint(figure, panel, values, shape, axis, index) {
  const [across, down] = [0, 1, 2].filter((other) => other !== axis);
  const step = [shape[1] * shape[2], shape[2], 1];
  const [width, height] = [shape[across], shape[down]];
  const canvas = figure.querySelector(".map");
  Object.assign(canvas, { width, height });
  if (!values) return;
  const limits = limitsOf(panel, values);
  const depth = panel.depth ?? 0;
  const slices = Array.from({ length: 2 * depth + 1 }, (_, near) => (index + near - depth + shape[axis]) % shape[axis]);
  const image = new ImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      let value = -Infinity; // sources are few: show the brightest of some slices
      for (const slice of slices) {
        value = Math.max(value, values[slice * step[axis] + column * step[across] + row * step[down]]);
      }
      image.data.set(colour(panel.colours, limits.place(value)), 4 * ((height - 1 - row) * width + column));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  const scale = new ImageData(256, 1);
  for (let x = 0; x < 256; x++) scale.data.set(colour(panel.colours, x / 255), 4 * x);
  figure.querySelector(".scale").getContext("2d").putImageData(scale, 0, 0);
  const [low, high] = figure.querySelectorAll(".range span");
  [low.textContent, high.textContent] = limits.labels;
}

const limitsCache = new WeakMap();

/** Where a value lies between the ends of the panel's colours, and what the ends are called. */
function limitsOf(panel, values) {
  if (panel.scale === "unit") return { place: (value) => value, labels: ["0", "1"] };
  if (!limitsCache.has(values)) {
    let sum = 0;
    let high = 0;
    let low = Infinity;
    for (const value of values) {
      sum += value;
      if (value > high) high = value;
      if (value > 0 && value < low) low = value;
    }
    const unit = panel.relative ? sum / values.length : 1;
    if (!panel.relative) low = Math.max(low, high / 1e4);
    const span = Math.log(high / low) || 1;
    limitsCache.set(values, {
      place: (value) => (value > 0 ? Math.log(value / low) / span : 0),
      labels: high > 0 ? [label(low / unit), label(high / unit)] : ["0", "0"],
    });
  }
  return limitsCache.get(values);
}

const label = (value) => Number(value.toPrecision(2)).toLocaleString("en", { maximumSignificantDigits: 2 });

function colour(name, place) {
  const stops = COLOURS[name];
  const position = Math.min(Math.max(place, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(position), stops.length - 2);
  const share = position - below;
  return [...stops[below].map((value, channel) => value + share * (stops[below + 1][channel] - value)), 255];
}

async function openFiles(files) {
  const snapshots = await Promise.all([...files].map(async (file) => readSnapshot(await file.arrayBuffer(), file.name)));
  if (!snapshots.length) return;
  const wanted = Object.keys(state.model.inputs);
  if (wanted.includes("n_ion") && snapshots.every(({ fields }) => fields.n_src && !fields.n_ion)) {
    addHistory(snapshots, state.model.cosmology);
  }
  snapshots.sort((a, b) => b.redshift - a.redshift);
  await show(snapshots);
}

function say(text, failed = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", failed);
}

const guarded = (action) => async (event) => {
  try {
    await action(event);
  } catch (error) {
    say(error.message, true);
    document.body.dataset.failed = error.message;
  }
};

element("redshift").addEventListener("change", guarded(select));
element("axis").addEventListener("change", () => moveTo(true));
element("slice").addEventListener("input", draw);
element("files").addEventListener("change", guarded((event) => openFiles(event.target.files)));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
document.addEventListener("drop", guarded((event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  return openFiles(event.dataTransfer.files);
}));
guarded(start)();
