// The page: what is compared, asked of the server, and handed to the stage.

import { Refused, get, upload, useToken } from "./api.js";
import { AttentionView, layerOf } from "./attention.js";
import { cellKey, choosable, classesOf, columns, difference, fillColumns, labelOf, modelShown, offered, rows, takesLayer, targetIn, targetsOf, textTarget } from "./columns.js";
import { Drawings } from "./drawing.js";
import { $, announce, say, withChance, within } from "./elements.js";
import { showGate, wireGate } from "./gate.js";
import { drawChannels, noChannels } from "./inside.js";
import { lastDrawable, offeredLayers } from "./layers.js";
import { drawBy, drawClasses, drawDifference, drawInsideOf, drawLayerList, drawLayers, drawMethods, drawModels, drawVersus } from "./panel.js";
import * as permalink from "./permalink.js";
import { Preview } from "./preview.js";
import { Results } from "./results.js";
import { ClassSearch } from "./search.js";
import { takeAway } from "./share.js";
import { Stage } from "./stage.js";
import { info, known, view } from "./state.js";
import { Strip } from "./strip.js";
import { LayerTree } from "./tree.js";
import { Trust } from "./trust.js";
import { Work } from "./work.js";

// what is said below a map, besides the title of its column
const TOLD = { methods: (record) => record.detail, layers: () => "", models: (record) => record.caption };
const results = new Results();
const work = new Work(results, {
  prepare: allPredictions,
  began() {
    redraw();
    remember();
    layOut();
  },
  changed: layOut,
  broken() {
    redraw();
    layOut();
  },
  told: showJob,
  ended: finish,
  forgotten: dropForgotten,
  failed: tell,
});
const preview = new Preview(results, { show: (shown) => stage?.preview(shown && { ...shown, cells: [...shown.cells, ...differenceCells(shown.photograph, shown.target)] }), failed: tell });
let token = "";
let stage, trust, drawings, strip, tree, attention;

addEventListener("DOMContentLoaded", open);
addEventListener("hashchange", () => {
  const said = permalink.read(location.hash);
  if ((said.token && said.token !== token) || (said.view && JSON.stringify(said.view) !== JSON.stringify(view))) location.reload();
});

addEventListener("pagehide", () => {
  work.stop();
  preview.leave();
  trust?.leave();
  drawings?.stop();
});

async function open() {
  const said = permalink.read(location.hash);
  token = said.token || permalink.recall();
  useToken(token);
  if (said.token && permalink.keep(token)) history.replaceState(null, "", said.view ? permalink.write(said.view) : location.pathname + location.search);
  wireOnce();
  if (!token) return showGate();
  try {
    const start = await get("start");
    known.models = start.models;
    if (start.reads !== "images") $("file").removeAttribute("accept"); // slices of a series may have no ending
    $("foot").textContent = `DeepViz ${start.versions.deepviz}, PyTorch ${start.versions.torch}`;
    for (const photograph of await get("photographs")) known.photographs.push(distinct(photograph));
    Object.assign(view, {
      model: start.models[0].id,
      photographs: start.photographs,
      methods: start.methods.map((name) => ({ name })),
    });
    const restored = permalink.restore(said.view, (text) => say(text, true));
    view.active = view.photographs.includes(view.active) ? view.active : (view.photographs[0] ?? "");
    stage = new Stage($("stage"), { look: view.look, looked: remember, lost });
    strip = new Strip({ toggle: togglePhotograph, activate, only, remove, clear, add });
    tree = new LayerTree(chooseInside);
    new ClassSearch({ labels: () => known.labels, chances: probabilities, choose: find, refuse });
    drawings = new Drawings(tell);
    attention = new AttentionView($("of-attention"), { choose: chooseInside, failed: tell });
    trust = new Trust($("believed"), $("verdicts"), { metrics: start.metrics, told: showJob, failed: tell });
    selectTab(view.tab, false);
    await useModel(view.model);
    if (!restored && start.job) work.watch(start.job, start.methods.map((name) => ({ name, model: start.models[0].id, layer: null })));
    await work.compare();
  } catch (error) {
    tell(error);
  }
}

// A photograph under a name that no other one has.
function distinct(photograph) {
  const taken = new Set(known.photographs.map((one) => one.name));
  let name = photograph.name;
  for (let count = 2; taken.has(name); count++) name = `${photograph.name} (${count})`;
  return { ...photograph, name };
}

function remember() {
  if (stage) view.look = stage.look();
  history.replaceState(null, "", permalink.write(view));
}

let asking = 0; // for the lists of a model: what was asked last counts

// Take a model once all is there that is known about it; false if another was chosen meanwhile.
async function useModel(model) {
  const mine = ++asking;
  const path = `models/${model}`;
  const lists = await Promise.all([get(`${path}/methods`), get(`${path}/layers`), get(`${path}/labels`)]);
  if (mine !== asking) return false;
  if (model !== view.model) Object.assign(view, { model, targets: {}, versus: null, layer: null, inside: null, layers: [] });
  [known.methods, known.tree, known.labels] = lists;
  known.tree.layers = offeredLayers(known.tree.layers);
  view.methods = view.methods.filter((one) => known.methods.some((method) => method.name === one.name && !method.reason));
  const usable = (layer) => known.tree.layers.some((row) => row.layer === layer && row.usable);
  if (view.layer && !usable(view.layer)) view.layer = null;
  view.layers = view.layers.filter(usable);
  if (!offered().some(([name]) => name === view.by)) view.by = "methods";
  fillColumns();
  redraw();
  return true;
}

async function changeModel(model) {
  try {
    if (await useModel(model)) await work.compare();
  } catch (error) {
    redraw(); // the list of models says which one is shown
    tell(error);
  }
}

async function predictions(photograph) {
  const key = `${view.model} ${photograph}`;
  if (!known.predictions.has(key)) {
    const asked = get(`models/${view.model}/photographs/${photograph}/predictions`);
    known.predictions.set(key, asked);
    asked.then((classes) => known.classes.set(key, classes), () => known.predictions.delete(key));
  }
  return known.predictions.get(key);
}

function redraw() {
  preview.leave(); // what a preview lies on may go
  drawModels(known.models, view.model, changeModel);
  strip?.show(known.photographs, view.photographs, view.active);
  const active = info(view.active);
  $("classes-of").textContent = active ? `of ${active.name}` : "";
  const classes = active ? classesOf(view.active) : [];
  const { embeds, texts } = modelShown() ?? {};
  $("class-name").placeholder = texts ? "Type a text" : "Find another class";
  $("classes-hint").textContent = texts ? "Add a second image, or type a text." : "Add a second image to compare it with.";
  $("classes-hint").hidden = !embeds || !active || classes.length > 0 || targetsOf(view.active).length > 0;
  drawClasses(classes, active ? targetsOf(view.active) : [], (target) => labelOf(view.active, target), { pin, preview: (target) => preview.begin(target), leave: () => preview.leave() });
  drawVersus(classes.filter((one) => typeof one.index === "number").map((one) => [one.index, one.label]), view.versus, chooseVersus);
  drawBy(offered(), view.by, chooseBy);
  const problems = new Map(columns().map((one) => [one.name, results.problem(one)]));
  const shownDifference = difference();
  drawDifference(choosable().map((one) => [one.key, one.title]), shownDifference && [shownDifference.one.key, shownDifference.other.key], chooseDifference);
  const layered = view.by === "layers";
  $("methods-of").textContent = layered ? "that take a layer" : "";
  const offeredMethods = layered ? known.methods.filter((one) => takesLayer({ name: one.name })) : known.methods;
  drawMethods(offeredMethods, view.methods, problems, { toggle: toggleMethod, change: changeOption });
  drawLayers(known.tree, view.layer, view.by === "methods" && view.methods.some(takesLayer), chooseLayer);
  drawLayerList(known.tree, view.layers, view.by === "layers", toggleLayer);
  if (view.tab === "inside") drawInside();
}

function activate(id) {
  view.active = id;
  redraw();
  remember();
  reveal(id);
  announce(`Classes of ${info(id).name}`);
}

function togglePhotograph(id) {
  if (view.photographs.includes(id)) return remove(id);
  view.photographs.push(id);
  view.active = id;
  changedPhotographs(`${info(id).name} is compared, ${view.photographs.length} in all`);
  reveal(id);
}

function only(id) {
  if (!info(id)) return;
  view.photographs = [id];
  view.active = id;
  changedPhotographs(`Only ${info(id).name} is compared`);
}

function remove(id) {
  const at = view.photographs.indexOf(id);
  if (at < 0) return;
  view.photographs.splice(at, 1);
  if (view.active === id) view.active = view.photographs[Math.min(at, view.photographs.length - 1)] ?? "";
  changedPhotographs(`${info(id).name} is no longer compared`);
}

function clear() {
  view.photographs = [];
  view.active = "";
  changedPhotographs("No image is compared");
}

function changedPhotographs(said) {
  announce(said);
  redraw();
  work.soon();
}

// Bring an image into view: in the strip at once, among the rows when its row is there and seen.
let revealed = null;
function reveal(id = revealed) {
  if (id === null) return;
  revealed = id;
  strip.reveal(id);
  if (view.tab === "inside") return;
  (view.tab === "compare" ? stage : trust).reveal(id);
  revealed = null;
}

function chooseVersus(other) {
  view.versus = other;
  redraw();
  work.soon();
}

function chooseDifference(two) {
  view.difference = two;
  redraw();
  remember();
  layOut();
}

function find(index) {
  if (!view.active) return say("Choose an image first.", true);
  if (typeof index === "number" && modelShown()?.texts) index = textTarget(String(index));
  if (!targetsOf(view.active).includes(index)) pin(index);
}

function refuse(text) {
  if (text && modelShown()?.texts) {
    $("class-name").value = "";
    find(textTarget(text));
  } else if (/^\d+$/.test(text)) say(`There is no class ${text}: the model has ${known.labels.length}.`, true);
  else if (text) say("No class with that name.", true);
}

// The probability of each class of the image at hand; none while they cannot be told.
async function probabilities() {
  const key = `${view.model} ${view.active}`;
  if (!view.active) return [];
  if (!known.chances.has(key)) {
    known.chances.set(key, get(`models/${view.model}/photographs/${view.active}/probabilities`).catch(() => (known.chances.delete(key), [])));
  }
  return known.chances.get(key);
}

function pin(index) {
  preview.leave();
  const now = [...targetsOf(view.active)];
  const at = now.indexOf(index);
  if (at < 0) now.push(index);
  else if (now.length > 1) now.splice(at, 1);
  else return say("Keep at least one class selected.");
  view.targets[view.active] = now;
  redraw();
  work.soon();
}

function toggleMethod(name) {
  const at = view.methods.findIndex((one) => one.name === name);
  if (at >= 0 && view.methods.length === 1) {
    redraw();
    return say("Keep at least one method selected.");
  }
  if (at >= 0) view.methods.splice(at, 1);
  else view.methods.push({ name });
  fillColumns();
  redraw();
  work.soon();
}

function changeOption(name, option, value) {
  let one = view.methods.find((each) => each.name === name);
  if (!one) view.methods.push((one = { name }));
  one.options = { ...one.options };
  if (value === undefined) delete one.options[option];
  else one.options[option] = value;
  redraw();
  work.soon();
}

// Take the option that mends a map, for its method.
function mend({ name }, { option, value, title }) {
  changeOption(name, option, value);
  announce(title);
}

function chooseLayer(layer) {
  view.layer = layer;
  $("layer-all").value = layer ?? known.tree.default;
  work.soon();
}

function chooseBy(by) {
  view.by = by;
  fillColumns();
  redraw();
  work.soon();
}

function toggleLayer(layer) {
  const at = view.layers.indexOf(layer);
  if (at < 0) view.layers.push(layer);
  else if (view.layers.length > 1) view.layers.splice(at, 1);
  else say("Keep at least one layer selected.");
  redraw();
  work.soon();
}

async function add(files) {
  for (const file of files) {
    try {
      const photograph = await upload(file);
      if (!info(photograph.id)) known.photographs.push(distinct(photograph));
      if (!view.photographs.includes(photograph.id)) view.photographs.push(photograph.id);
      view.active = photograph.id;
    } catch (error) {
      tell(error);
    }
  }
  redraw();
  reveal(view.active);
  announce(files.length === 1 ? `${info(view.active)?.name ?? files[0].name} is compared` : `${view.photographs.length} images are compared`);
  await work.compare();
}

// The classes of all photographs; one whose classes cannot be told is left out, by name.
async function allPredictions() {
  const answers = await Promise.allSettled(view.photographs.map(predictions));
  const failed = answers.flatMap((answer, n) => (answer.status === "rejected" ? [[view.photographs[n], answer.reason]] : []));
  for (const [photograph, error] of failed) {
    if (error.status === 404) dropPhotograph(photograph);
    else if (failed.length === answers.length) throw error;
    else say(`${info(photograph)?.name}: ${error.message}`, true);
  }
}

// A photograph that the server does not have any more.
function dropPhotograph(photograph) {
  const gone = info(photograph);
  if (!gone) return;
  known.photographs = known.photographs.filter((one) => one !== gone);
  view.photographs = view.photographs.filter((id) => id !== photograph);
  if (!view.photographs.length && known.photographs.length) view.photographs = [known.photographs[0].id];
  view.active = view.photographs.includes(view.active) ? view.active : (view.photographs[0] ?? "");
  say(`${gone.name} is no longer on the server: add it again.`, true);
  work.soon();
}

// Whether the server has forgotten photographs that are shown; they go.
async function dropForgotten() {
  const there = new Set((await get("photographs")).map((one) => one.id));
  const gone = view.photographs.filter((id) => !there.has(id));
  gone.forEach(dropPhotograph);
  return gone.length > 0;
}

function finish(reason) {
  results.end(reason);
  if (reason !== "cancelled") say(reason, true);
  layOut();
}

function showJob(state) {
  const under = state !== null && (state.state === "queued" || state.state === "running");
  $("job").hidden = !under;
  if (!under) return;
  $("job-bar").max = state.total;
  $("job-bar").value = state.done;
  const far = state.so_far[0] ? ` (${state.so_far[0].told})` : "";
  $("job-text").textContent = state.state === "queued" ? "Waiting for the model" : `${state.now}, ${state.done + 1} of ${state.total}${far}`;
}

// Hand the stage what there is: results, and empty places for those to come.
function layOut() {
  const shown = columns();
  const titles = [...shown, difference()].filter(Boolean).map((one) => one.title);
  stage.show(
    rows().map((row) => ({
      ...row,
      columns: titles,
      keys: shown.map((one) => keyIn(row, one)),
      told: (record, n) => (shown[n] && shown[n].versus === undefined ? TOLD[view.by](record) : record.caption),
      mend: ({ remedy }, n) => remedy && shown[n] && { title: remedy.title, run: () => mend(shown[n], remedy) },
      detail: withChance(row),
      cells: [...shown.map((one) => results.cell(row.photograph.id, row.target, one) ?? underWay(row, one)), ...differenceCells(row.photograph.id, row.target)],
    })),
  );
  if (view.tab === "trust") drawTrust();
}

const keyIn = (row, one) => cellKey(row.photograph.id, targetIn(row.photograph.id, row.target, one), one);

// A map that is not done, as far as it is.
function underWay(row, one) {
  const soFar = results.soFar(row.photograph.id, row.target, one);
  return soFar && { soFar };
}

// The difference of two columns in a row, if one is chosen: the ids of both maps, or what there is instead of one.
function differenceCells(photograph, target) {
  const chosen = difference();
  if (!chosen) return [];
  const of = [chosen.one, chosen.other].map((one) => results.cell(photograph, target, one));
  const words = { title: chosen.title, raised: `more in ${chosen.one.title}`, lowered: `more in ${chosen.other.title}` };
  if (of.every((cell) => typeof cell === "string")) return [{ of, words }];
  return [of.some((cell) => typeof cell === "object" && cell !== null) ? { reason: "No difference: one of the two maps is missing." } : null];
}

// The checks of the maps that are there; those to come are checked when they have come.
function drawTrust() {
  trust.show(
    rows().map((row) => ({
      photograph: row.photograph.id,
      title: row.photograph.name,
      detail: withChance(row),
      cells: columns()
        .map((one) => ({ id: results.cell(row.photograph.id, row.target, one), title: one.title, model: one.model }))
        .filter((one) => typeof one.id === "string"),
    })),
  );
}

// A result that the server has forgotten is computed again; a photograph that it has forgotten is told.
function lost(id, error, photograph) {
  if (error.status !== 404) return tell(error);
  if (id === null) return dropPhotograph(photograph);
  results.forget(id);
  work.soon();
}

let inside = ""; // the model, image and layer that the Inside tab shows

// The layers of attention of the model; asked for once, when the Inside tab is looked at.
async function askForAttention(model) {
  if (known.attention.has(model)) return;
  known.attention.set(model, { layers: [], reason: "" }); // until they are known
  try {
    known.attention.set(model, await get(`models/${model}/attention`));
    if (view.tab === "inside" && view.model === model) drawInside();
  } catch (error) {
    known.attention.delete(model);
    tell(error);
  }
}

function drawInside() {
  askForAttention(view.model);
  const attended = known.attention.get(view.model) ?? { layers: [], reason: "" };
  drawInsideOf(attended, known.tree, view.of, chooseInsideOf);
  const attending = view.of === "attention" && attended.layers.length > 0;
  $("of-channels").hidden = attending;
  $("of-attention").hidden = !attending;
  const layers = known.tree.layers.filter((row) => row.grid);
  const layer = layers.some((row) => row.layer === view.inside) ? view.inside : (view.layer ?? lastDrawable(layers));
  const attentive = attending ? layerOf(attended.layers, view.inside) : null;
  tree.show(known.tree.layers, attentive ?? layer);
  if (attending) return attention.show(view.model, info(view.active) ?? null, attended.layers, attentive);
  if (!view.active) {
    drawings.stop();
    inside = "";
    return noChannels(layer ?? "");
  }
  const key = `${view.model} ${view.active} ${layer}`;
  if (layer && view.active && inside !== key) {
    inside = key;
    drawChannels(view.model, info(view.active), layer, { drawings, retry: drawInside, choose: lookInto }).then((shown) => {
      if (!shown && inside === key) inside = ""; // what failed may be asked for again
    });
  }
}

// Another image's activations.
function lookInto(id) {
  if (!view.photographs.includes(id)) view.photographs.push(id);
  view.active = id;
  changedPhotographs(`Activations for ${info(id).name}`);
  strip.reveal(id);
}

function chooseInsideOf(of) {
  view.of = of;
  remember();
  drawInside();
}

function chooseInside(name) {
  view.inside = name;
  remember();
  drawInside();
}

function selectTab(name, focus = true) {
  view.tab = name;
  for (const each of permalink.TABS) {
    const on = each === name;
    $(`tab-${each}`).setAttribute("aria-selected", String(on));
    $(`tab-${each}`).tabIndex = on ? 0 : -1;
    $(each).hidden = !on;
  }
  if (focus) $(`tab-${name}`).focus();
  if (name === "inside" && known.tree) drawInside();
  if (name === "trust") drawTrust();
  else trust.leave();
  if (focus) reveal();
}

async function take(what) {
  $("take").open = false;
  try {
    remember();
    await takeAway(what, results);
  } catch (error) {
    if (error.status !== 404) return tell(error);
    if (await dropForgotten().catch(() => false)) return;
    results.forgetAll();
    work.soon();
    say("Some maps have expired and are being recomputed: save again when they are ready.", true);
  }
}

function wireOnce() {
  wireGate();
  for (const link of within(document, ".skip")) {
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the address behind # holds the view
      $("panel").open ||= link.dataset.to !== "maps";
      skipTo(link.dataset.to);
    });
  }
  permalink.TABS.forEach((name, place) => {
    $(`tab-${name}`).addEventListener("click", () => {
      selectTab(name);
      remember();
    });
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way) return;
      selectTab(permalink.TABS[(place + way + permalink.TABS.length) % permalink.TABS.length]);
      remember();
    });
  });
  $("job-cancel").addEventListener("click", () => {
    trust.cancel();
    if (work.cancel()) finish("cancelled");
  });
  for (const button of within(document, "[data-take]")) {
    button.addEventListener("click", () => take(button.dataset.take));
  }
  document.addEventListener("click", (event) => {
    if (!$("take").contains(event.target)) $("take").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && $("take").open) {
      $("take").open = false;
      $("take").querySelector("summary").focus();
    }
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    const files = pasted.filter((file) => file.type.startsWith("image/"));
    if (files.length) add(files);
    else if (pasted.length) say("The clipboard holds no image.", true);
  });
  let depth = 0;
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (carries(event) && ++depth) $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (carries(event) && --depth <= 0) $("drop").hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) add(files);
  });
  const wide = matchMedia("(min-width: 900px)");
  const fit = () => ($("panel").open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
}

// The first thing of a part of the page that can have the focus.
function skipTo(part) {
  const places = { images: "#photographs [tabindex='0']", classes: "#classes [tabindex='0']", methods: "#methods input:enabled" };
  const maps = { compare: "#stage .dv-frame", inside: "#of-channels:not([hidden]) #channels button, #of-attention:not([hidden]) .attended", trust: "#believed [tabindex='0']" };
  const empty = { images: "file", classes: "class-name" };
  const place = document.querySelector(places[part] ?? maps[view.tab]);
  (place ?? $(empty[part] ?? view.tab)).focus();
}

function tell(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Refused && error.status === 401) return showGate();
  say(error.message, true);
  if (!(error instanceof Refused)) throw error;
}
