// The Trust tab: for each map what happens when its pixels are taken away or put in, and what is left of it when the
// network forgets what it learned. Curves and pictures are asked for once; the cursor moves without a request.

import { fromBase64 } from "../viewer/decode.js";
import { call, follow, get, post } from "./api.js";
import { element } from "./elements.js";

// What is done to the pixels; titles and directions come from the catalog.
const DONE = {
  deletion: { short: "removed", said: "most relevant pixels removed" },
  insertion: { short: "inserted", said: "most relevant pixels inserted into a blurred image" },
};
const SIGNS = { full: "✓", partly: "◐", little: "!", none: "✕", unknown: "?" };
const SETTLE = 150; // milliseconds without a new figure before verdicts are asked for
const FIRST = 0.2; // of the pixels, where the cursor begins
const MOST = 1800; // results in a request
const WIDTH = 240;
const HEIGHT = 120;

export class Trust {
  #cards = new Map();
  #known = new Map(); // by id and part
  #wanted = [];
  #models = new Map();
  #asked = new Set();
  #rows = [];
  #shown = "";
  #given = false; // up: until other maps are shown
  #running = null;
  #revealed = null;
  #at = { metric: "deletion", share: FIRST };

  // `metrics`: the catalog's titles and directions; `told`: gets every state of the job under way, null at its end;
  // `failed`: errors.
  constructor(holder, verdicts, { metrics, told, failed }) {
    this.holder = holder;
    this.verdicts = verdicts;
    this.metrics = metrics;
    this.told = told;
    this.failed = failed;
  }

  // Bring the cards of an image into view, once they are there.
  reveal(photograph) {
    this.#revealed = photograph;
    this.#scroll();
  }

  #scroll() {
    const at = this.#rows.findIndex((row) => row.photograph === this.#revealed && row.cells.length);
    if (at < 0) return;
    this.#revealed = null;
    this.holder.children[at].scrollIntoView({ block: "nearest" });
  }

  // Rows of { photograph, title, detail, cells: [{ id, title, model }] }, of maps that are there.
  show(rows) {
    this.#models = new Map(rows.flatMap((row) => row.cells.map((cell) => [cell.id, cell.model])));
    this.#wanted = [...this.#models.keys()];
    const shown = JSON.stringify(rows);
    if (shown !== this.#shown) {
      this.#shown = shown;
      this.#rows = rows;
      this.#given = false;
      this.#lay();
      this.#judge();
    }
    this.#ask();
  }

  // What the images say together: figures with intervals, and a verdict where there are enough of them.
  #judge() {
    clearTimeout(this.judging);
    this.judging = setTimeout(async () => {
      const results = this.#wanted.filter((id) => this.#known.has(`${id} strip`)).slice(0, MOST);
      try {
        const found = results.length ? await post("verdicts", { results }) : [];
        drawVerdicts(this.verdicts, found, new Set(this.#models.values()).size > 1);
      } catch (error) {
        if (error.status !== 404) this.failed(error); // what is forgotten is computed again
      }
    }, SETTLE);
  }

  #lay() {
    const kept = new Set(this.#wanted);
    for (const id of this.#cards.keys()) if (!kept.has(id)) this.#cards.delete(id);
    this.holder.replaceChildren(
      ...this.#rows.map((row) =>
        element(
          "section",
          { class: "believed", "aria-label": `${row.title}, ${row.detail}` },
          element("h3", {}, row.title, element("span", { class: "of" }, ` ${row.detail}`)),
          row.cells.length
            ? element("div", { class: "cards" }, ...row.cells.map((cell) => this.#card(cell).element))
            : element("p", { class: "hint" }, "Its maps are still being computed."),
        ),
      ),
    );
    if (!this.#rows.length) this.holder.replaceChildren(element("p", { class: "hint" }, "Choose an image to compare: its maps are checked here."));
    this.#rescale();
    this.#move(this.#at.metric, this.#at.share);
    this.#scroll();
  }

  // Nothing more is asked for until the tab is shown again.
  leave() {
    this.#wanted = [];
    this.#given = false;
    for (const id of this.#asked) {
      if (!["curves", "strip"].every((part) => this.#known.has(`${id} ${part}`))) this.#asked.delete(id);
    }
    this.#stop();
  }

  // No more checks of what is shown now.
  cancel() {
    if (!this.#running) return;
    this.#stop();
    this.#giveUp("Not checked: cancelled.");
  }

  #giveUp(reason) {
    this.#given = true;
    for (const card of this.#cards.values()) card.giveUp(reason);
  }

  #stop() {
    if (!this.#running) return;
    this.#running.abort.abort();
    if (this.#running.job) call(`jobs/${this.#running.job}`, { method: "DELETE" }).catch(() => {});
    this.#running = null;
    this.told(null);
  }

  #card(cell) {
    if (!this.#cards.has(cell.id)) {
      this.#cards.set(cell.id, new Card(cell.title, this.metrics, (metric, share) => this.#move(metric, share)));
      for (const part of ["curves", "strip"]) {
        const known = this.#known.get(`${cell.id} ${part}`);
        if (known) this.#cards.get(cell.id).take(part, known);
      }
    }
    return this.#cards.get(cell.id);
  }

  // The same point of every curve of the page.
  #move(metric, share) {
    this.#at = { metric, share };
    for (const card of this.#cards.values()) card.point(metric, share);
  }

  async #ask() {
    const all = this.#wanted.filter((id) => !this.#asked.has(id));
    // one request is of one model; the others' turn comes at its end
    const missing = all.filter((id) => this.#models.get(id) === this.#models.get(all[0])).slice(0, 64);
    if (this.#running) {
      if (this.#running.ids.every((id) => this.#wanted.includes(id))) return; // more is asked for at its end
      this.#stop();
    }
    if (!missing.length || this.#given) return;
    for (const id of missing) this.#cards.get(id)?.wait();
    const mine = (this.#running = { ids: missing, abort: new AbortController(), job: null });
    const { signal } = mine.abort;
    const taken = new Set();
    try {
      const job = await post("checks", { results: missing }, { signal });
      mine.job = job.id;
      const last = await follow(
        job,
        (state) => {
          this.told(state);
          for (const { id, part } of state.results) {
            if (taken.has(`${id} ${part}`)) continue;
            taken.add(`${id} ${part}`);
            this.#fetch(id, part);
          }
        },
        signal,
      );
      if (last.state === "failed") throw new Error(last.error);
      this.#running = null;
      this.told(null);
      if (last.state !== "done") return;
      for (const id of missing) this.#asked.add(id);
      this.#ask();
    } catch (error) {
      if (this.#running === mine) this.#running = null;
      if (error.name === "AbortError") return;
      this.told(null);
      this.#giveUp(error.message);
      this.failed(error);
    }
  }

  async #fetch(id, part) {
    try {
      const found = await get(`results/${id}/checks/${part}`);
      const known = part === "curves" && !found.error ? await opened(found) : found;
      this.#known.set(`${id} ${part}`, known);
      this.#cards.get(id)?.take(part, known);
      if (part === "curves") this.#rescale();
      else this.#judge();
      this.#cards.get(id)?.point(this.#at.metric, this.#at.share);
    } catch (error) {
      this.failed(error);
    }
  }

  // One scale for all curves of a row, so that heights compare.
  #rescale() {
    for (const row of this.#rows) {
      const cards = row.cells.map((cell) => this.#cards.get(cell.id));
      const top = Math.max(0, ...cards.map((card) => card.highest));
      for (const card of cards) card.draw(roundUp(top));
    }
  }
}

const roundUp = (value) => [0.1, 0.2, 0.4, 0.6, 0.8, 1].find((top) => value <= top) ?? value;

// Curves with their pictures decoded to pixels.
async function opened(found) {
  const [width, height] = found.size;
  const pixels = found.picture ? await bytesOf(found.picture, width, height) : null;
  const start = {};
  for (const [metric, address] of Object.entries(found.start)) start[metric] = await bytesOf(address, width, height);
  return { ...found, when: fromBase64(found.when), pixels, start };
}

async function bytesOf(address, width, height) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
}

class Card {
  constructor(title, metrics, moved) {
    this.title = title;
    this.moved = moved;
    this.curves = null;
    this.canvas = element("canvas", { class: "perturbed", role: "img", width: 224, height: 224 });
    this.reading = element("p", { class: "reading" });
    this.charts = Object.keys(DONE).map((metric) => new Chart(metric, metrics[metric], title, moved));
    this.said = element("p", { class: "said" }, "Computing …");
    this.strip = element("ol", { class: "strip", "aria-label": `${title} while layers get random weights` });
    this.randomised = element("p", { class: "said" });
    this.element = element(
      "article",
      { class: "card", "aria-label": title },
      element("h4", {}, title),
      element(
        "div",
        { class: "tried" },
        element("figure", {}, this.canvas, element("figcaption", {}, this.reading)),
        element("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)),
      ),
      this.said,
      this.strip,
      this.randomised,
    );
  }

  take(part, known) {
    if (known.error) {
      (part === "curves" ? this.said : this.randomised).textContent = known.error;
    } else if (part === "curves") {
      this.curves = known;
      this.said.textContent = sentence(known.said);
      this.draw(roundUp(this.highest));
    } else {
      this.#takeStrip(known);
    }
  }

  #takeStrip({ stages }) {
    this.randomised.textContent = "";
    this.strip.replaceChildren(
      ...stages.map(({ share, similarity, picture }, n) => {
        const where = n === 0 ? "trained" : `${Math.round(100 * share)} % random`;
        const figure = n === 0 ? "" : similarity === null ? "blank" : number(similarity);
        const told = n === 0 ? "" : similarity === null ? ", blank" : `, similarity ${figure}`;
        const image = element("img", { src: picture, alt: `The map, ${where}${told}` });
        return element("li", {}, image, element("span", { "aria-hidden": "true" }, where), element("b", { "aria-hidden": "true" }, figure));
      }),
    );
  }

  // What is not there yet is said to come, or not to.
  wait() {
    this.#untold("Computing …");
  }

  giveUp(reason) {
    this.#untold(reason);
  }

  #untold(text) {
    if (!this.curves) this.said.textContent = text;
    if (!this.strip.children.length) this.randomised.textContent = text;
  }

  get highest() {
    if (!this.curves) return 0;
    return Math.max(...Object.values(this.curves.curves).flatMap((one) => [...one.points, ...one.chance.points]));
  }

  draw(top) {
    if (this.curves) for (const chart of this.charts) chart.draw(this.curves.curves[chart.metric], top);
  }

  // The photograph as the model was given it at a share of the pixels.
  point(metric, share) {
    if (!this.curves) return;
    const { steps, size, when, pixels, start, curves, of } = this.curves;
    const step = Math.round(share * steps);
    const percent = Math.round((100 * step) / steps);
    for (const chart of this.charts) chart.point(chart.metric === metric ? step : null);
    const { points, chance } = curves[metric];
    this.reading.replaceChildren(
      `${percent} % ${DONE[metric].short}: `,
      element("b", {}, points[step].toFixed(2)),
      ` (random map ${chance.points[step].toFixed(2)})`,
      of ? `; ${of}` : "",
    );
    this.canvas.hidden = !pixels;
    if (!pixels) return;
    const [width, height] = size;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const [before, after] = metric === "deletion" ? [pixels, start.deletion] : [start.insertion, pixels];
    const image = new ImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < out.length; i++) out[i] = when[i] <= step ? after[i] : before[i];
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.canvas.setAttribute("aria-label", `The model's input${of ? `, ${of},` : ""} with ${percent} % of its ${DONE[metric].said}, by ${this.title}`);
  }
}

// One curve against that of a random map, with a cursor for pointer and keys.
class Chart {
  constructor(metric, known, title, moved) {
    this.metric = metric;
    this.moved = moved;
    this.steps = 1;
    this.grid = svg("path", { class: "grid", d: `M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}` });
    this.area = svg("path", { class: "area" });
    this.chance = svg("path", { class: "chance" });
    this.own = svg("path", { class: "own" });
    this.cursor = svg("path", { class: "cursor" });
    this.dot = svg("path", { class: "dot" }); // a line without length, with round ends: not stretched with the chart
    this.top = element("span", { class: "top-value", "aria-hidden": "true" });
    this.value = element("span", { class: "value-of" });
    this.plot = svg(
      "svg",
      {
        viewBox: `-6 -6 ${WIDTH + 12} ${HEIGHT + 12}`,
        preserveAspectRatio: "none",
        tabindex: 0,
        role: "slider",
        "aria-label": `${known.title} curve of ${title}: share of the ${DONE[metric].said}`,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": 0,
      },
      this.grid,
      this.area,
      this.chance,
      this.own,
      this.cursor,
      this.dot,
    );
    this.plot.addEventListener("pointermove", (event) => this.#follow(event));
    this.plot.addEventListener("pointerdown", (event) => this.#follow(event));
    this.plot.addEventListener("keydown", (event) => this.#key(event));
    this.plot.addEventListener("focus", () => this.curve && this.moved(metric, (this.step ?? 0) / this.steps));
    this.element = element(
      "div",
      { class: "chart" },
      element("p", { class: "chart-title" }, element("b", {}, known.title), this.value, element("span", { class: "of" }, `${known.better} is better`)),
      element("div", { class: "plot" }, this.top, this.plot),
    );
  }

  draw(curve, top) {
    this.curve = curve;
    this.steps = curve.points.length - 1;
    this.high = top || 1;
    const own = this.#line(curve.points);
    this.own.setAttribute("d", own);
    this.area.setAttribute("d", `${own}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z`);
    this.chance.setAttribute("d", this.#line(curve.chance.points));
    this.value.textContent = curve.area.toFixed(2);
    this.top.textContent = String(this.high);
    if (this.step !== undefined) this.point(this.step);
  }

  #at(points, step) {
    return [(WIDTH * step) / this.steps, HEIGHT * (1 - Math.min(1, Math.max(0, points[step] / this.high)))];
  }

  #line(points) {
    return `M${points.map((_, step) => this.#at(points, step).map((one) => one.toFixed(1)).join(" ")).join("L")}`;
  }

  // Mark a point of the curve; null: the cursor is on the other one.
  point(step) {
    const here = step !== null && this.curve;
    this.cursor.classList.toggle("off", !here);
    this.dot.classList.toggle("off", !here);
    if (!here) return;
    this.step = step;
    const [x, y] = this.#at(this.curve.points, step);
    this.cursor.setAttribute("d", `M${x} 0V${HEIGHT}`);
    this.dot.setAttribute("d", `M${x} ${y}h0`);
    const percent = Math.round((100 * step) / this.steps);
    this.plot.setAttribute("aria-valuenow", percent);
    this.plot.setAttribute("aria-valuetext", `${percent} %: ${this.curve.points[step].toFixed(2)}, random map ${this.curve.chance.points[step].toFixed(2)}`);
  }

  #follow(event) {
    if (!this.curve) return;
    const box = this.plot.getBoundingClientRect();
    const edge = (6 / (WIDTH + 12)) * box.width;
    const share = (event.clientX - box.left - edge) / (box.width - 2 * edge);
    this.moved(this.metric, Math.min(1, Math.max(0, share)));
  }

  #key(event) {
    const now = this.step ?? 0;
    const steps = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: this.steps };
    if (!this.curve || !(event.key in steps)) return;
    event.preventDefault();
    this.moved(this.metric, Math.min(this.steps, Math.max(0, steps[event.key])) / this.steps);
  }
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The table of verdicts; `models`: whether several are told apart.
function drawVerdicts(holder, found, models) {
  const told = (spread) => {
    if (spread === null) return "";
    const figures = spread.low === undefined ? number(spread.mean) : `${number(spread.mean)} (${number(spread.low)} to ${number(spread.high)})`;
    return spread.mean < 0 ? `${figures}, unrelated` : figures; // anticorrelated is no degree of similarity
  };
  const heads = ["Method", "Images", "Upper half random", "All random", "Verdict"];
  const lines = found.map((one) => {
    const sign = one.grade ? [element("span", { "aria-hidden": "true" }, `${SIGNS[one.grade]} `)] : [];
    const name = [one.title, one.layer, models && one.model].filter(Boolean).join(", ");
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", {}, String(one.images)),
      element("td", {}, told(one.half), aboutHalf(one) ? "" : element("span", { class: "of" }, ` with ${Math.round(100 * one.share)} % random`)),
      element("td", {}, told(one.all)),
      element("td", {}, element("b", { class: `badge ${one.grade ?? "open"}` }, ...sign, one.badge), " ", element("span", { class: "why" }, sentence(one.said))),
    );
  });
  holder.hidden = !lines.length;
  holder.querySelector("thead tr").replaceChildren(...heads.map((head) => element("th", { scope: "col" }, head)));
  holder.querySelector("tbody").replaceChildren(...lines);
}

const aboutHalf = ({ half, share }) => half === null || share === null || Math.abs(share - 0.5) < 0.1;
const number = (value) => value.toFixed(2).replace("-", "−");
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
