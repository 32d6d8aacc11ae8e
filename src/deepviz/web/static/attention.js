// Attention in the Inside tab: what the patch under the pointer attends to, by layer and head.

import { fromBase64 } from "../viewer/decode.js";
import { bar, blend, encode, flat, ground, painter } from "../viewer/paint.js";
import { place, scaledBox } from "../viewer/place.js";
import { digits } from "../viewer/scale.js";
import { settingsFrom } from "../viewer/settings.js";
import { get, picture } from "./api.js";
import { element } from "./elements.js";
import { view } from "./state.js";

const PAGE = 1280; // pixels of the image's longer side, as elsewhere on the page
const SIDE = 680; // pixels of the longer side that is drawn
const FINEST = 9; // pixels of a patch below which no grid is drawn
const STEP = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * @typedef {object} Rows  The rows of a layer, unpacked: maps × rows × patches.
 * @property {number} h
 * @property {number} w
 * @property {number} rows  Of each map: those of the patches, then those of special tokens; or of queries alone.
 * @property {number} maps  The mean over heads, then each head.
 * @property {Uint8Array} levels  255 times the square root of each value's share of its row's peak.
 * @property {Float32Array} peaks
 * @property {Float32Array} sums  How much of each row is on the patches.
 */

const withoutCall = (name) => name.replace(/#\d+$/, "");

/**
 * The layer of attention that a layer is, holds or lies in; the last one where there is none.
 * @param {string[]} layers
 * @param {string | null} chosen
 */
export function layerOf(layers, chosen) {
  const name = withoutCall(chosen ?? "");
  const inside = (one, other) => one === other || one.startsWith(`${other}.`);
  const near = (one) => inside(withoutCall(one), name) || inside(name, withoutCall(one));
  return layers.find((one) => one === chosen) ?? (name ? layers.find(near) : null) ?? layers.at(-1);
}

const floats = (text) => new Float32Array(fromBase64(text).buffer);

/**
 * @param {{grid: number[], levels: string, peaks: string, sums: string, mean_only: boolean, heads: number}} packed
 * @returns {Rows}
 */
export function unpack({ grid: [h, w], levels, peaks, sums, mean_only, heads }) {
  const maps = mean_only ? 1 : 1 + heads;
  const found = { h, w, maps, levels: fromBase64(levels), peaks: floats(peaks), sums: floats(sums) };
  const rows = found.peaks.length / maps;
  if (found.levels.length !== maps * rows * h * w) throw new Error("the rows of attention are incomplete");
  return { ...found, rows };
}

/**
 * One row of one map, over the patches.
 * @param {Rows} of
 * @param {number} map
 * @param {number} row
 */
export function rowOf(of, map, row) {
  const cells = of.h * of.w;
  const at = map * of.rows + row;
  const peak = of.peaks[at];
  return Float32Array.from(of.levels.subarray(at * cells, (at + 1) * cells), (level) => peak * (level / 255) ** 2);
}

export class AttentionView {
  #asked = 0;
  #key = "";
  #found = null;
  #rows = null;
  #photo = null;
  #map = 0; // 0: the mean over heads
  #patch = null; // its row and column; the middle one at first
  #special = -1; // the special token or query whose row is shown; -1: that of a patch
  #drawing = false;

  // `choose` is given a layer's name; `failed` what went wrong.
  constructor(holder, { choose, failed }) {
    this.failed = failed;
    this.title = element("h2");
    this.hint = element("p", { class: "hint" });
    this.layer = element("select", { id: "attention-layer", onchange: () => choose(this.layer.value) });
    this.query = element("select", { id: "attention-row", onchange: () => this.#take(Number(this.query.value)) });
    this.canvas = element("canvas");
    this.frame = element("div", { class: "attended", role: "slider", tabindex: "0", "aria-label": "Patch of the image", "aria-valuemin": "0" }, this.canvas);
    this.told = element("b");
    this.shares = element("span", { class: "shares" });
    this.scale = element("canvas", { width: 160, height: 1, "aria-hidden": "true" });
    this.high = element("span");
    this.heads = element("fieldset", { class: "heads" });
    this.body = element(
      "div",
      { class: "attention" },
      element(
        "figure",
        {},
        this.frame,
        element("figcaption", {}, this.told, element("span", { class: "scale" }, "0", this.scale, this.high), this.shares),
      ),
      this.heads,
    );
    this.bars = element(
      "div",
      { class: "drawing" },
      element("span", { class: "named" }, element("label", { for: "attention-layer" }, "Layer"), this.layer),
      element("span", { class: "named" }, element("label", { for: "attention-row" }, "Row of"), this.query),
    );
    holder.replaceChildren(this.title, this.hint, this.bars, this.body);
    for (const kind of ["pointermove", "pointerdown"]) this.frame.addEventListener(kind, (event) => this.#point(event));
    this.frame.addEventListener("keydown", (event) => this.#press(event));
  }

  // Show a layer's attention for an image; null: none is chosen.
  async show(model, photograph, layers, layer) {
    this.title.textContent = `Attention in ${layer}`;
    this.title.title = layer;
    if (this.layer.options.length !== layers.length || layers.some((name, n) => this.layer.options[n].value !== name)) {
      this.layer.replaceChildren(...layers.map((name) => element("option", { value: name }, name)));
    }
    this.layer.value = layer;
    const key = photograph ? `${model} ${photograph.id} ${layer}` : "";
    if (key && key === this.#key) return this.#draw(); // the colours may have changed
    const mine = ++this.#asked;
    this.#key = key;
    if (!photograph) return this.#none("Choose an image to see what its patches attend to.");
    this.hint.textContent = `Attention for ${photograph.name} …`;
    this.body.classList.add("stale");
    try {
      const path = `models/${model}/photographs/${photograph.id}/attention?layer=${encodeURIComponent(layer)}`;
      const [found, photo] = await Promise.all([get(path), picture(photograph.id, PAGE).then(opened)]);
      if (mine !== this.#asked) return;
      if (found.reason) return this.#none(`Not shown: ${found.reason}.`);
      this.#takeIn(found, photo, photograph);
    } catch (error) {
      if (mine !== this.#asked) return;
      this.#none(error.message, element("button", { type: "button", class: "quiet", onclick: () => this.show(model, photograph, layers, layer) }, "Try again"));
      this.#key = "";
      this.failed(error);
    } finally {
      if (mine === this.#asked) this.body.classList.remove("stale");
    }
  }

  #none(text, ...offered) {
    this.hint.replaceChildren(text, " ", ...offered);
    this.#found = null;
    this.body.hidden = true;
  }

  #takeIn(found, photo, photograph) {
    const rows = unpack(found);
    const { h, w } = rows;
    this.body.hidden = false;
    const only = found.mean_only ? ` Of so many patches the page has the mean over ${found.heads} heads alone.` : "";
    const how = found.pools
      ? "What the learned queries attend to, which pool the tokens."
      : "Point at a patch, or move with the arrow keys, to see what it attends to.";
    this.hint.textContent = `${h * w} patches of ${photograph.name}, ${w} × ${h}. ${how} Every map has its own scale.${only}`;
    const same = this.#rows?.h === h && this.#rows.w === w;
    if (!same || !this.#patch) this.#patch = [Math.floor(h / 2), Math.floor(w / 2)];
    Object.assign(this.frame, { ariaValueMax: String(h * w - 1) });
    const { special, pools } = found;
    if (this.#special >= special.length || (pools && this.#special < 0)) this.#special = pools ? 0 : -1;
    const patch = pools ? [] : [element("option", { value: "-1" }, "the patch pointed at")];
    this.query.replaceChildren(...patch, ...special.map((name, n) => element("option", { value: String(n) }, name)));
    this.query.value = String(this.#special);
    if (this.#map >= rows.maps) this.#map = 0;
    this.#found = found;
    this.#rows = rows;
    this.#lay(photo);
    this.#offer();
    this.#draw();
  }

  // The image at the size at which it is drawn, under maps that leave out what the model did not see.
  #lay(photo) {
    const share = Math.min(SIDE / Math.max(photo.width, photo.height), 4);
    const width = Math.max(1, Math.round(photo.width * share));
    const height = Math.max(1, Math.round(photo.height * share));
    Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(photo, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const { h, w } = this.#rows;
    const box = scaledBox(this.#found.geometry, width, height);
    const seen = place({ width: w, height: h, values: new Float32Array(h * w) }, box, width, height);
    this.#photo = { box, base: ground(data, seen, false, false), image: new ImageData(width, height) };
  }

  // A small map for each head, and one for their mean: radio buttons.
  #offer() {
    const { maps, h, w } = this.#rows;
    const tiles = Array.from({ length: maps }, (_, map) => {
      const box = element("input", { type: "radio", name: "head", value: String(map), checked: map === this.#map });
      box.addEventListener("change", () => {
        this.#map = map;
        this.#draw();
      });
      const canvas = element("canvas", { width: w, height: h });
      return element("label", {}, box, canvas, element("span", {}, map ? `head ${map - 1}` : "mean"));
    });
    this.heads.replaceChildren(element("legend", {}, "Heads"), ...tiles);
  }

  #take(special) {
    this.#special = special;
    this.query.value = String(special);
    this.#draw();
  }

  #point(event) {
    if (!this.#found || this.#found.pools) return;
    if (event.type === "pointermove" && this.#special >= 0) return; // a token's row stays until a patch is clicked
    const shown = this.canvas.getBoundingClientRect();
    const [left, top, right, bottom] = this.#photo.box;
    const x = ((event.clientX - shown.left) / shown.width) * this.canvas.width;
    const y = ((event.clientY - shown.top) / shown.height) * this.canvas.height;
    const { h, w } = this.#rows;
    const to = [Math.floor(((y - top) / (bottom - top)) * h), Math.floor(((x - left) / (right - left)) * w)];
    if (to[0] >= 0 && to[0] < h && to[1] >= 0 && to[1] < w) this.#go(to);
  }

  #press(event) {
    if (!this.#found || this.#found.pools || event.ctrlKey || event.metaKey || event.altKey) return;
    const { h, w } = this.#rows;
    const [y, x] = this.#patch;
    const ends = { Home: [y, 0], End: [y, w - 1], PageUp: [0, x], PageDown: [h - 1, x] };
    const step = STEP[event.key];
    const to = step ? [Math.min(Math.max(y + step[0], 0), h - 1), Math.min(Math.max(x + step[1], 0), w - 1)] : ends[event.key];
    if (!to) return;
    event.preventDefault();
    this.#go(to);
  }

  #go(patch) {
    const [y, x] = this.#patch;
    if (this.#special < 0 && y === patch[0] && x === patch[1]) return;
    this.#patch = patch;
    this.#take(-1);
  }

  // At most once a frame, however fast the pointer moves.
  #draw() {
    if (this.#drawing || !this.#found) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      if (this.#found) this.#paint();
    });
  }

  #paint() {
    const { h, w, peaks, sums, rows, maps } = this.#rows;
    const { special, pools, others } = this.#found;
    const [y, x] = this.#patch;
    const row = this.#special < 0 ? y * w + x : (pools ? 0 : h * w) + this.#special;
    const { colours, opacity } = settingsFrom(view.look);
    const settings = { signed: false, fine: false, opacity, sign: "both", colours, diverging: "", cut: 0 };
    const plain = painter({ ...settings, view: "map" });
    for (const [map, tile] of [...this.heads.querySelectorAll("canvas")].entries()) {
      const image = new ImageData(w, h);
      flat(new Uint32Array(image.data.buffer), encode(rowOf(this.#rows, map, row), { high: peaks[map * rows + row] || 1 }, false), plain);
      tile.getContext("2d").putImageData(image, 0, 0);
    }
    const at = this.#map * rows + row;
    const { box, base, image } = this.#photo;
    const { width, height } = this.canvas;
    const placed = place({ width: w, height: h, values: rowOf(this.#rows, this.#map, row) }, box, width, height);
    const high = peaks[at] || 1;
    blend(new Uint32Array(image.data.buffer), encode(placed, { high }, false), painter({ ...settings, view: "overlay" }), base);
    const context = this.canvas.getContext("2d");
    context.putImageData(image, 0, 0);
    drawGrid(context, box, h, w, this.#special < 0 ? this.#patch : null);
    this.scale.getContext("2d").putImageData(bar(plain, this.scale.width), 0, 0);
    this.high.textContent = digits(peaks[at], 2);
    const of = this.#special < 0 ? `Patch in row ${y}, column ${x}` : capital(special[this.#special]);
    const head = maps === 1 || this.#map === 0 ? "mean over heads" : `head ${this.#map - 1}`;
    const named = others === 1 && !pools ? special[0] : `${others} other tokens`;
    this.told.textContent = `${of}, ${head}`;
    this.shares.textContent = others ? `${percent(sums[at])} on patches, ${percent(1 - sums[at])} on ${named}` : "";
    this.frame.setAttribute("aria-valuenow", String(y * w + x));
    this.frame.setAttribute("aria-valuetext", [this.told.textContent, this.shares.textContent, `largest ${digits(peaks[at], 2)}`].filter(Boolean).join(", "));
  }
}

const percent = (share) => `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(0)} %`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function opened(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image);
}

// The patches' borders, and the one that is pointed at.
function drawGrid(context, [left, top, right, bottom], h, w, patch) {
  const [across, down] = [(right - left) / w, (bottom - top) / h];
  context.lineWidth = 1;
  if (Math.min(across, down) >= FINEST) {
    const lines = new Path2D();
    for (let x = 1; x < w; x++) line(lines, left + x * across, top, left + x * across, bottom);
    for (let y = 1; y < h; y++) line(lines, left, top + y * down, right, top + y * down);
    context.strokeStyle = "rgb(255 255 255 / 0.16)";
    context.stroke(lines);
  }
  if (!patch) return;
  const box = [left + patch[1] * across, top + patch[0] * down, across, down];
  for (const [width, colour] of [[5, "rgb(20 20 20 / 0.85)"], [2.5, "rgb(255 221 0)"]]) {
    context.lineWidth = Number(width);
    context.strokeStyle = String(colour);
    context.strokeRect(box[0], box[1], box[2], box[3]);
  }
}

function line(path, x, y, toX, toY) {
  path.moveTo(x, y);
  path.lineTo(toX, toY);
}
