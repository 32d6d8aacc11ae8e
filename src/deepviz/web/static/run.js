// The page of a run: which of its rows are shown, in which order, and one of them in full.

import { keep, read, recall, write } from "./address.js";
import { call, get, Refused, useToken } from "./api.js";
import { $, announce, copy, download, element, say, within } from "./elements.js";
import { showGate, wireGate } from "./gate.js";
import { Grid } from "./grid.js";
import { asPython, conditions, EVERYTHING, parameters, TABS, viewFrom } from "./query.js";

const TYPED = 350; // ms after the last letter of a filter, when it is asked
const FILES = { text: "images.txt", table: "images.csv" };

/** @type {any} */
let run = null; // what the server knows of it
/** @type {import("./query.js").View} */
let view = { ...EVERYTHING };
/** @type {Set<number>} */
const picked = new Set(); // images, by their positions in the source
/** @type {Grid} */ let grid;
/** @type {import("./detail.js").Detail | null} */ let detail = null;
/** @type {import("./groups.js").Groups | null} */ let groups = null;
let opened = -1; // the row of the grid that is shown in full
let token = "";
let typing = 0;

addEventListener("DOMContentLoaded", begin);
addEventListener("popstate", follow);
addEventListener("hashchange", follow);

// Another token opens the page again; another view is shown.
function follow() {
  const said = read(location.hash);
  if (said.token && said.token !== token) return location.reload();
  if (!run || !said.view || JSON.stringify(said.view) === JSON.stringify(view)) return;
  const next = viewFrom(said.view, run);
  const same = parameters(next).toString() === parameters(view).toString();
  view = next;
  draw();
  if (!same) ask();
  arrange();
}

async function begin() {
  const said = read(location.hash);
  token = said.token || recall();
  useToken(token);
  if (said.token && keep(token)) history.replaceState(null, "", said.view ? write(said.view) : location.pathname + location.search);
  wire();
  if (!token) return showGate();
  grid = new Grid($("grid"), {
    open,
    picked: pick,
    isPicked: (image) => picked.has(image),
    counted,
    failed,
  });
  try {
    run = await get("run");
    view = viewFrom(said.view, run);
    remember(); // what the back button leads to
    offer();
    draw();
    ask();
    arrange();
  } catch (error) {
    tell(error);
  }
}

// What there is to choose from.
function offer() {
  const option = (value, text) => element("option", { value }, text);
  const counts = (pairs) => [option("", "all"), ...pairs.map(([name, count]) => option(name, `${name} (${count.toLocaleString("en")})`))];
  const { done, expected } = { done: run.shards.read, expected: run.shards.expected };
  const whole = done === expected ? "" : `, ${done.toLocaleString("en")} of ${expected.toLocaleString("en")} shards so far`;
  document.title = `${run.name}: DeepViz`;
  $("run-name").textContent = run.name;
  $("run-about").textContent = `${run.images.toLocaleString("en")} of ${run.count.toLocaleString("en")} images${whole}; ${run.model}`;
  $("run-problems").hidden = !run.problems.length;
  $("run-problems").textContent = run.problems.slice(0, 3).join("; ") + (run.problems.length > 3 ? `; and ${run.problems.length - 3} more` : "");
  $("reload").hidden = done === expected;
  $("method").replaceChildren(...run.methods.map((name) => option(name, name)), ...(run.methods.length > 1 ? [option("", "all methods")] : []));
  $("rank-pair").hidden = run.ranks < 2;
  $("rank").replaceChildren(...Array.from({ length: run.ranks }, (_, rank) => option(String(rank), `number ${rank + 1}`)), option("-1", "all"));
  $("label").replaceChildren(...counts(run.labels));
  $("prediction").replaceChildren(...counts(run.predictions));
  $("label").closest(".pair").hidden = !run.labels.length;
  $("prediction").closest(".pair").hidden = !run.predictions.length;
  $("correct").hidden = !run.judged;
  const tick = (name, count) => {
    $(`${name}-of`).textContent = count.toLocaleString("en");
    $(name).closest("label").hidden = !count;
  };
  tick("warnings", run.warnings);
  tick("failures", run.failures);
  $("sort").replaceChildren(option("", "order of the run"), ...run.sortable.filter((name) => name !== "index").map((name) => option(name, titles[name] ?? name)));
  $("n").replaceChildren(option("", "as many as there are"), ...Array.from({ length: 9 }, (_, n) => option(String(n + 2), String(n + 2))));
  $("by").querySelector("[value=label]").disabled = !run.labels.length;
  $("by").querySelector("[value=label]").checked = run.labels.length > 0;
  $("by").querySelector("[value=prediction]").checked = !run.labels.length;
  const metric = run.metrics[0];
  $("where-hint").textContent = `As Run.where takes it: ${metric ? `correct and ${metric.split("(")[0].replaceAll("-", "_")} < 0.3` : "not correct and probability > 0.9"}`;
  $("foot").textContent = `DeepViz ${run.versions.deepviz}, ${run.folder}`;
}

const titles = { image: "name", probability: "confidence", correct: "correctness", target_probability: "probability of the target", warnings: "number of warnings", failure: "failure" };

// The controls, as the view has them.
function draw() {
  for (const name of ["where", "label", "prediction", "method", "sort"]) if ($(name).value !== view[name]) $(name).value = view[name];
  $("rank").value = String(view.rank);
  for (const name of ["warnings", "failures"]) $(name).checked = view[name];
  for (const input of within($("correct"), "input")) /** @type {any} */ (input).checked = /** @type {any} */ (input).value === view.correct;
  $("descending").setAttribute("aria-pressed", String(view.descending));
  $("descending").textContent = view.descending ? "↓" : "↑";
  $("descending").disabled = !view.sort;
  const filtered = { ...view, method: "", rank: -1 };
  $("all").disabled = !conditions(filtered).length && !view.within;
  $("within").hidden = !view.within;
  $("within").textContent = `${view.cluster} ×`;
  $("within").setAttribute("aria-label", `${view.cluster}: show all again`);
  for (const name of TABS) {
    const on = name === view.tab;
    $(`tab-${name}`).setAttribute("aria-selected", String(on));
    $(`tab-${name}`).tabIndex = on ? 0 : -1;
    if (on) $("views").setAttribute("aria-labelledby", `tab-${name}`);
  }
}

function ask(at = 0) {
  $("where-problem").hidden = true;
  $("where").removeAttribute("aria-invalid");
  grid.show(parameters(view), { sort: view.sort, several: view.method === "", at });
}

function counted(total) {
  const rows = view.method === "" || view.rank < 0 ? "row" : "image";
  $("counted").textContent = `${total.toLocaleString("en")} ${total === 1 ? rows : `${rows}s`}`;
  $("none").hidden = total > 0;
  $("take-count").textContent = "";
  tellPicked();
  if (view.open >= 0) place();
}

// Of a bad filter, why it is one; the rows stay.
function failed(error) {
  if (error instanceof Refused && error.status === 404 && view.within) {
    groups?.forget();
    say(error.message, true);
    return change({ within: "", cluster: "" });
  }
  if (!(error instanceof Refused) || error.status !== 422) return tell(error);
  $("where-problem").textContent = error.message;
  $("where-problem").hidden = false;
  $("where").setAttribute("aria-invalid", "true");
  $("panel").open = true;
}

/** @param {Partial<import("./query.js").View>} part */
function change(part) {
  clearTimeout(typing);
  view = { ...view, where: $("where").value, ...part, open: -1 };
  opened = -1;
  draw();
  ask();
  remember();
  arrange(false);
}

function remember() {
  history.replaceState(null, "", write(view));
}

function pick(from, to, row) {
  if (from === to) {
    if (picked.has(row.index)) picked.delete(row.index);
    else picked.add(row.index);
    return tellPicked(true);
  }
  const asked = parameters(view);
  asked.set("first", String(from));
  asked.set("last", String(to));
  get(`run/range?${asked}`).then((images) => {
    for (const image of images) picked.add(image);
    tellPicked(true);
    grid.draw();
  }, tell);
}

function tellPicked(aloud = false) {
  $("picked").hidden = !picked.size;
  $("picked-count").textContent = `${picked.size.toLocaleString("en")} selected`;
  $("take-count").textContent = picked.size ? ` ${picked.size.toLocaleString("en")} selected` : " all shown";
  if (aloud) announce(`${picked.size} selected`);
  if (opened >= 0 || view.open >= 0) $("detail-pick").checked = picked.has(view.open);
}

function unpick() {
  picked.clear();
  tellPicked(true);
  grid.draw();
}

// One row in full.
function open(at, row) {
  opened = at;
  const first = view.open < 0;
  view = { ...view, open: row.index };
  if (first) history.pushState(null, "", write(view));
  else remember();
  arrange();
  place();
}

// What the view has: the grid, an image in full, or groups.
function arrange(focused = true) {
  const whole = view.open >= 0;
  const grouped = !whole && view.tab !== "images";
  const before = { whole: !$("detail").hidden, grid: !$("images").hidden };
  $("images").hidden = whole || grouped;
  $("detail").hidden = !whole;
  $("groups").hidden = !grouped;
  $("back").querySelector("span").textContent = { images: "All images", classes: "Classes", clusters: "Clusters" }[view.tab];
  if (!whole) {
    if (before.whole) detail?.leave();
    if (grouped) group();
    else if (!before.grid) {
      if (opened >= 0) grid.reveal(opened);
      if (focused) grid.focus();
    }
    opened = -1;
    return;
  }
  showDetail();
  $("detail-pick").checked = picked.has(view.open);
  if (!before.whole) {
    scrollTo(0, 0);
    $("detail-title").focus({ preventScroll: true });
  }
}

// What a page does not open with is loaded when it is asked for.
async function showDetail() {
  try {
    const { Detail } = await import("./detail.js");
    detail ??= new Detail({ failed: tell });
    if (view.open >= 0) detail.show(view.open);
  } catch (error) {
    tell(error);
  }
}

async function group() {
  const { Groups } = await import("./groups.js");
  if (view.open >= 0 || view.tab === "images") return; // gone on meanwhile
  groups ??= new Groups({
    show: (part) => change({ ...part, tab: "images" }),
    open: (image) => openImage(image),
    failed: tell,
  });
  const by = /** @type {any} */ (within($("by"), "input").find((input) => /** @type {any} */ (input).checked)).value;
  const tab = view.tab === "clusters" ? "clusters" : "classes";
  groups.show(tab, view, { by, n: Number($("n").value) || null, method: view.method || run.methods[0] });
}

function openImage(image) {
  opened = -1;
  view = { ...view, open: image };
  history.pushState(null, "", write(view));
  arrange();
  place();
}

function selectTab(name) {
  view = { ...view, tab: name, open: -1 };
  history.pushState(null, "", write(view));
  draw();
  arrange(false);
}

// Which of the rows is shown in full.
function place() {
  const known = opened >= 0;
  $("detail-of").textContent = known ? `${(opened + 1).toLocaleString("en")} of ${grid.total.toLocaleString("en")}` : "";
  $("previous").disabled = !known || opened === 0;
  $("next").disabled = !known || opened >= grid.total - 1;
  if (known) grid.near(opened);
}

async function turn(way) {
  const at = opened + way;
  if (opened < 0 || at < 0 || at >= grid.total) return;
  grid.near(at);
  for (let waited = 0; !grid.row(at) && waited < 100; waited++) await new Promise((done) => setTimeout(done, 30));
  const row = grid.row(at);
  if (row) open(at, row);
}

function close() {
  if (view.open < 0) return;
  view = { ...view, open: -1 };
  history.pushState(null, "", write(view));
  arrange();
}

async function take(what) {
  $("take").open = false;
  try {
    if (what === "link") return copy(location.origin + location.pathname + write(view), "Link");
    if (what === "python") return copy(asPython(run.folder, view), "Python code");
    const table = what === "table";
    const images = [...picked];
    const which = picked.size ? { images } : { where: conditions(view), sort: view.sort || null, descending: view.descending, within: view.within };
    const answer = await call("run/export", { method: "POST", json: { ...which, table } });
    download(await answer.blob(), FILES[what]);
    say(`${FILES[what]} saved: ${picked.size ? `${picked.size.toLocaleString("en")} selected images` : "all images that match"}`);
  } catch (error) {
    tell(error);
  }
}

function wire() {
  wireGate();
  for (const link of within(document, ".skip")) {
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the address behind # holds the view
      if (link.dataset.to === "where") $("panel").open = true;
      $(link.dataset.to).focus();
    });
  }
  $("where").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({}), TYPED);
  });
  $("where").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    change({});
  });
  for (const name of ["label", "prediction", "method", "sort"]) $(name).addEventListener("change", () => change({ [name]: $(name).value }));
  $("rank").addEventListener("change", () => change({ rank: Number($("rank").value) }));
  for (const name of ["warnings", "failures"]) $(name).addEventListener("change", () => change({ [name]: $(name).checked }));
  $("correct").addEventListener("change", (event) => change({ correct: event.target.value }));
  $("descending").addEventListener("click", () => change({ descending: !view.descending }));
  $("all").addEventListener("click", () => change({ where: "", label: "", prediction: "", correct: "", warnings: false, failures: false, within: "", cluster: "" }));
  $("within").addEventListener("click", () => change({ within: "", cluster: "" }));
  $("by").addEventListener("change", group);
  $("n").addEventListener("change", group);
  TABS.forEach((name, place) => {
    $(`tab-${name}`).addEventListener("click", () => selectTab(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way) return;
      const next = TABS[(place + way + TABS.length) % TABS.length];
      selectTab(next);
      $(`tab-${next}`).focus();
    });
  });
  $("unpick").addEventListener("click", unpick);
  $("reload").addEventListener("click", () => location.reload());
  $("back").addEventListener("click", close);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("detail-pick").addEventListener("change", () => {
    if ($("detail-pick").checked) picked.add(view.open);
    else picked.delete(view.open);
    tellPicked(true);
  });
  for (const button of within(document, "[data-take]")) button.addEventListener("click", () => take(button.dataset.take));
  document.addEventListener("click", (event) => {
    if (!$("take").contains(event.target)) $("take").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if ($("take").open) {
      $("take").open = false;
      $("take").querySelector("summary").focus();
    } else if (view.open >= 0 && !event.defaultPrevented) close();
  });
  const wide = matchMedia("(min-width: 900px)");
  const fit = () => ($("panel").open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
}

function tell(error) {
  if (error.name === "AbortError") return;
  if (error instanceof Refused && error.status === 401) return showGate();
  say(error.message, true);
  if (!(error instanceof Refused)) throw error;
}
