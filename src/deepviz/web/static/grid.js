// The grid of a run's rows: only the tiles that can be seen are there, however many rows there are.

import { element, percent } from "./elements.js";
import { thumbnailOf } from "./query.js";
import { Pictures, Screens } from "./screens.js";
import { placeOf, revealing, step, tiling, visible } from "./tiling.js";

/**
 * @typedef {object} Row  Of a run, as the server tells of it.
 * @property {number} index  Of the image.
 * @property {string} image
 * @property {string | null} label
 * @property {string | null} prediction
 * @property {number | null} probability
 * @property {boolean | null} correct
 * @property {string | null} method
 * @property {string | null} title
 * @property {number | null} rank
 * @property {string | null} input
 * @property {string | null} target
 * @property {number | null} target_probability
 * @property {number | null} score
 * @property {string | null} failure
 * @property {string | null} reason
 * @property {number} warnings
 * @property {boolean} has_map
 * @property {Record<string, number | null>} metrics
 */

const LEAST = { wide: 148, narrow: 132 };
const NARROW = 520;
const CAPTION = 42;
const BEYOND = 1; // rows of tiles that are drawn above and below what is seen
const SETTLED = 60; // ms without scrolling, after which what is seen is asked for
const TOLD = ["probability", "target_probability", "score"];

export class Grid {
  /** @type {Map<number, HTMLElement>} */ #items = new Map();
  /** @type {Screens | null} */ #screens = null;
  #active = 0;
  #anchor = 0;
  #settling = 0;
  #drawing = false;
  #below = 0; // pixels of the box's edges, in which tiles are seen too
  #sort = "";
  #several = false;

  /**
   * @param {HTMLElement} box
   * @param {{open: (at: number, row: Row) => void, picked: (from: number, to: number, row: Row) => void, isPicked: (image: number) => boolean,
   *   counted: (total: number) => void, failed: (error: Error) => void}} act
   */
  constructor(box, act) {
    this.box = box;
    this.act = act;
    this.inner = element("div", { class: "grid-inner", role: "presentation" });
    box.replaceChildren(this.inner);
    this.pictures = new Pictures(() => this.draw());
    this.tiles = tiling({ count: 0, width: 1, seen: 1, least: LEAST.wide, caption: CAPTION });
    box.addEventListener("scroll", () => {
      this.draw();
      this.#settle();
    });
    box.addEventListener("click", (event) => this.#clicked(event));
    box.addEventListener("keydown", (event) => this.#typed(event));
    box.addEventListener("focus", () => this.draw());
    new ResizeObserver(() => this.#measure()).observe(box);
  }

  /**
   * Show other rows; those that are there stay until the first of these have come.
   * @param {URLSearchParams} asked
   * @param {{sort: string, several: boolean, at?: number}} how  What rows are sorted by; whether of several methods; the row to begin with.
   */
  show(asked, { sort, several, at = 0 }) {
    this.#screens?.close();
    this.#sort = sort;
    this.#several = several;
    this.box.setAttribute("aria-busy", "true");
    const screens = new Screens(asked, {
      arrived: () => this.#arrived(screens, at),
      failed: (error) => {
        this.box.setAttribute("aria-busy", "false");
        this.act.failed(error);
      },
    });
    this.#screens = screens;
    screens.want(at, at + 1);
  }

  /** @type {Screens | null} */ #shown = null;

  #arrived(screens, at) {
    if (this.#screens !== screens) return;
    if (this.#shown !== screens) {
      this.#shown = screens;
      this.#items.clear();
      this.inner.replaceChildren();
      this.#active = this.#anchor = Math.min(at, Math.max(screens.total - 1, 0));
      this.box.setAttribute("aria-busy", "false");
      this.box.scrollTop = 0;
      this.#measure();
      this.reveal(this.#active);
      this.act.counted(screens.total);
    }
    this.draw();
    this.#settle();
  }

  get total() {
    return this.#shown?.total ?? 0;
  }

  /** @param {number} at  @returns {Row | null} */
  row(at) {
    return this.#shown?.row(at) ?? null;
  }

  // Ask for the rows around a place, where these are not known.
  near(at) {
    this.#shown?.want(Math.max(0, at - 1), Math.min(at + 2, this.total));
  }

  // Bring a tile into view, and let the keys begin there.
  reveal(at) {
    this.#active = Math.min(Math.max(at, 0), Math.max(this.total - 1, 0));
    this.box.scrollTop = revealing(this.tiles, this.#active, this.box.scrollTop);
    this.draw();
    this.#settle();
  }

  focus() {
    this.box.focus({ preventScroll: true });
  }

  draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #measure() {
    const { clientWidth, clientHeight } = this.box;
    if (!clientWidth) return; // hidden
    const style = getComputedStyle(this.box);
    const width = clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.#below = parseFloat(style.paddingTop) + parseFloat(style.paddingBottom);
    const seen = clientHeight - this.#below;
    const least = width < NARROW ? LEAST.narrow : LEAST.wide;
    const before = this.tiles;
    const first = visible(before, this.box.scrollTop).first;
    this.tiles = tiling({ count: this.total, width, seen, least, caption: CAPTION });
    this.inner.style.height = `${this.tiles.scrolled}px`;
    if (before.columns !== this.tiles.columns && before.count === this.tiles.count && first) {
      this.box.scrollTop = revealing(this.tiles, first, Infinity);
    }
    this.draw();
    this.#settle();
  }

  #settle() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      if (!this.#shown || !this.box.clientWidth) return;
      const { first, last } = visible(this.tiles, this.box.scrollTop, { beyond: BEYOND });
      if (last > first) this.#shown.want(first, last);
      this.#ask();
    }, SETTLED);
  }

  // The pictures of what can be seen now.
  #ask() {
    const { first, last } = visible(this.tiles, this.box.scrollTop, { below: this.#below });
    const seen = [];
    for (let at = first; at < last; at++) {
      const address = this.#address(this.row(at));
      if (address) seen.push(address);
    }
    this.pictures.want(seen);
  }

  /** @param {Row | null} row */
  #address(row) {
    if (!row || row.method === null) return "";
    const pixels = this.tiles.side * (window.devicePixelRatio || 1);
    return thumbnailOf(row, pixels > 200 ? 384 : 192);
  }

  #draw() {
    if (!this.#shown || !this.box.clientWidth) return;
    const { scrollTop } = this.box;
    const { first, last } = visible(this.tiles, scrollTop, { beyond: BEYOND });
    for (const [at, item] of this.#items) {
      if (at >= first && at < last) continue;
      item.remove();
      this.#items.delete(at);
    }
    for (let at = first; at < last; at++) {
      let item = this.#items.get(at);
      const row = this.row(at);
      if (item && row && item.classList.contains("waiting")) {
        item.remove();
        item = undefined;
      }
      if (!item) {
        item = this.#item(at, row);
        this.#items.set(at, item);
        this.inner.append(item);
      }
      const { x, y } = placeOf(this.tiles, at, scrollTop);
      item.style.transform = `translate(${x}px, ${y}px)`;
      item.style.width = `${this.tiles.side}px`;
      item.style.height = `${this.tiles.pitch - 12}px`;
      const picked = row !== null && this.act.isPicked(row.index);
      item.setAttribute("aria-selected", String(picked));
      item.classList.toggle("active", at === this.#active);
      this.#picture(item, row);
    }
    const active = this.#items.get(this.#active);
    if (active) this.box.setAttribute("aria-activedescendant", active.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  /** @param {HTMLElement} item  @param {Row | null} row */
  #picture(item, row) {
    const address = this.#address(row);
    const url = address ? this.pictures.picture(address) : "";
    const image = item.querySelector("img");
    if (!image || image.hasAttribute("src") || url === undefined) return;
    if (url) image.src = url;
    else item.classList.add("bare");
  }

  /** @param {number} at  @param {Row | null} row */
  #item(at, row) {
    const about = { role: "option", id: `item-${at}`, "data-at": String(at), "aria-posinset": String(at + 1), "aria-setsize": String(this.total) };
    if (!row) return element("div", { ...about, class: "item waiting", "aria-label": "loading" }, element("div", { class: "item-picture" }));
    const name = row.image.split("/").at(-1) ?? row.image;
    const right = { true: "right", false: "wrong" }[String(row.correct)] ?? "";
    const chance = row.probability === null ? "" : percent(row.probability);
    const value = this.#value(row);
    const lacks = row.has_map ? "" : (row.reason ?? "no map");
    const spoken = [
      row.image,
      row.prediction === null ? "" : `predicted ${row.prediction} ${chance}`,
      row.label === null ? "" : `label ${row.label}`,
      right === "wrong" ? "wrong" : "",
      this.#several ? row.title : "",
      value,
      row.warnings ? `${row.warnings} ${row.warnings === 1 ? "warning" : "warnings"}` : "",
      lacks,
    ];
    return element(
      "div",
      { ...about, class: `item ${right}`, "aria-label": spoken.filter(Boolean).join(", "), title: spoken.filter(Boolean).join("\n") },
      element(
        "div",
        { class: "item-picture" },
        element("img", { alt: "", draggable: false }),
        row.has_map ? null : element("span", { class: "item-lack" }, row.failure ?? "no map"),
        row.warnings ? element("span", { class: "item-warning", "aria-hidden": "true" }, "!") : null,
        element("span", { class: "item-pick", "aria-hidden": "true" }, "✓"),
      ),
      element(
        "div",
        { class: "item-line" },
        element("span", { class: "item-mark", "aria-hidden": "true" }, { right: "✓", wrong: "✗" }[right] ?? ""),
        element("span", { class: "label" }, row.prediction ?? (row.has_map ? (row.target ?? "") : "")),
        element("span", { class: "chance" }, chance),
      ),
      element(
        "div",
        { class: "item-line faint" },
        element("span", { class: "label" }, this.#several ? (row.title ?? name) : right === "wrong" && row.label !== null ? `is ${row.label}` : name),
        element("span", { class: "chance" }, value),
      ),
    );
  }

  /** @param {Row} row */
  #value(row) {
    const sort = this.#sort;
    const value = TOLD.includes(sort) ? row[sort] : row.metrics[sort];
    if (sort === "probability" || typeof value !== "number") return "";
    return sort === "target_probability" ? percent(value) : String(Number(value.toPrecision(3)));
  }

  #clicked(event) {
    const item = event.target.closest(".item");
    if (!item) return;
    const at = Number(item.dataset.at);
    const row = this.row(at);
    this.#active = at;
    this.draw();
    if (!row) return;
    if (event.shiftKey) return this.#pick(this.#anchor, at, row);
    if (event.ctrlKey || event.metaKey || event.target.closest(".item-pick")) return this.#pick(at, at, row);
    this.act.open(at, row);
  }

  /** @param {number} from  @param {number} to  @param {Row} row */
  #pick(from, to, row) {
    if (from === to) this.#anchor = to;
    this.act.picked(Math.min(from, to), Math.max(from, to), row);
    this.draw();
  }

  #typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
    const row = this.row(this.#active);
    if (event.key === "Enter") {
      if (row) this.act.open(this.#active, row);
    } else if (event.key === " ") {
      if (row) this.#pick(event.shiftKey ? this.#anchor : this.#active, this.#active, row);
    } else {
      const to = step(this.tiles, this.#active, event.key);
      if (to === undefined) return;
      this.reveal(to);
    }
    event.preventDefault();
  }
}
