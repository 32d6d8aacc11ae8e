// The grid: photographs or classes as rows, methods as columns, all drawn, zoomed and pointed at together.

import { make, setText } from "./elements.js";
import { DEFAULTS, settingsFrom, Toolbar } from "./settings.js";
import { percentile, sharedHigh } from "./scale.js";
import { pictureOf, Tile } from "./tile.js";

// ms of drawing in one frame, after which the rest waits for the next one
const BUDGET = 16;
const MOST_ZOOM = 16;
// ms after which what cannot be seen yet is decoded
const SPARE = 1500;
// photographs up to this side are drawn pixel by pixel; larger ones as large as they are seen, in these steps
const WHOLE = 512;
// small photographs are drawn with so many pixels at least, their own as squares: the map has more detail than they have
const SMALL = 224;
const SIDES = [512, 768, 1152, 1728, 2592];
// least width of a tile, on wide and on narrow pages
const WIDTHS = { s: [150, 100], m: [196, 150], l: [380, 300] };
const NARROW = 640;

export class Comparison {
  /**
   * `lazy`: what is far from the view is decoded when there is time, and drawn when it comes near.
   *
   * @param {HTMLElement} holder
   * @param {{settings?: object, empty?: string, lazy?: boolean, onchange?: (settings: object) => void,
   *   onlook?: (view: object) => void}} options
   */
  constructor(holder, { settings = {}, empty = "Nothing to compare yet.", lazy = false, onchange = () => {}, onlook = () => {} } = {}) {
    this.holder = holder;
    this.lazy = lazy;
    this.owed = new Set();
    this.onchange = onchange;
    this.onlook = onlook;
    this.settings = settingsFrom({ ...DEFAULTS, ...settings });
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.sections = [];
    this.photographs = new Map();
    this.slices = new Map();
    this.indices = new WeakMap();
    this.turning = new Set();
    this.pixels = new Map();
    this.pictures = new WeakMap();
    this.waiting = new Set();
    this.highs = null;
    this.pointed = null;
    this.frames = { last: 0, worst: 0, count: 0, reset: () => Object.assign(this.frames, { last: 0, worst: 0, count: 0 }) };
    this.toolbar = new Toolbar(this.settings, (part) => this.set(part), (factor) => this.zoomBy(factor));
    this.body = make("div", { class: "dv-rows" });
    this.spoken = make("p", { class: "dv-spoken", "aria-live": "polite" });
    this.empty = make("p", { class: "dv-empty" }, empty);
    holder.classList.add("dv");
    holder.replaceChildren(this.toolbar.element, this.body, this.empty, this.spoken);
    this.seen = new IntersectionObserver((entries) => this.noticed(entries), { rootMargin: lazy ? "400px" : "120px" });
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.body);
    this.printing = () => this.drawAll();
    window.addEventListener("beforeprint", this.printing);
    this.listen();
    this.set({});
  }

  // Show rows of tiles; what is shown already stays as it is.
  show(rows) {
    const before = new Map(this.sections.map((section) => [section.id, section]));
    this.sections = rows.map((row) => {
      const section = before.get(row.id) ?? this.section(row.id);
      before.delete(row.id);
      this.fill(section, row);
      return section;
    });
    for (const gone of before.values()) this.drop(gone.tiles);
    const wanted = this.sections.map((section) => section.element);
    if (wanted.some((element, i) => element !== this.body.children[i]) || wanted.length !== this.body.children.length) {
      this.body.replaceChildren(...wanted);
    }
    const used = new Set(rows.map((row) => row.photograph.id));
    for (const id of [...this.photographs.keys(), ...this.slices.keys()]) {
      if (used.has(id)) continue;
      this.forget(id);
      this.slices.delete(id);
    }
    this.empty.hidden = rows.length > 0;
    this.arrange();
    this.rescale();
    this.toolbar.show(this.settings, this.has());
  }

  // Draw other maps in one row for a while, under a heading of their own: { row, detail, records by the tiles'
  // position }; null ends it.
  preview(shown) {
    for (const section of this.sections) {
      const here = shown?.row === section.id ? shown : null;
      section.element.classList.toggle("dv-previewed", here !== null);
      setText(section.detail, here?.detail ?? section.told);
      section.tiles.forEach((tile, i) => tile.preview(here?.records[i] ?? null));
    }
  }

  // Change settings; what depends on them is drawn again.
  set(part) {
    const before = this.settings;
    this.settings = settingsFrom({ ...before, ...part });
    this.holder.dataset.size = this.settings.size;
    this.holder.dataset.view = this.settings.view;
    this.holder.dataset.sign = this.settings.sign;
    this.toolbar.show(this.settings, this.has());
    if (this.settings.scale !== before.scale) this.rescale();
    if (!["own", "row"].includes(this.settings.scale)) this.pay();
    if (this.settings.size !== before.size) this.resize();
    this.touchAll();
    if (Object.keys(part).length) this.onchange({ ...this.settings });
  }

  /**
   * Zoom and pan all tiles: `zoom` from 1, `x` and `y` the shares of the photograph in the middle.
   * @param {{zoom?: number, x?: number, y?: number}} part
   */
  look({ zoom = this.view.zoom, x = this.view.x, y = this.view.y }) {
    zoom = Math.min(Math.max(zoom, 1), MOST_ZOOM);
    const within = (share) => Math.min(Math.max(share, 0.5 / zoom), 1 - 0.5 / zoom);
    this.view = { zoom, x: within(x), y: within(y) };
    this.holder.style.setProperty("--dv-zoom", String(zoom));
    this.holder.style.setProperty("--dv-x", String(this.view.x));
    this.holder.style.setProperty("--dv-y", String(this.view.y));
    this.holder.classList.toggle("dv-zoomed", zoom > 1);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      this.resize();
      this.onlook(this.view);
    }, 160);
  }

  /**
   * Zoom about a point of the photograph, or the middle; by 0 to all of it.
   * @param {number} factor
   * @param {{x: number, y: number}} about
   */
  zoomBy(factor, about = this.view) {
    const before = this.view;
    const zoom = factor === 0 ? 1 : Math.min(Math.max(before.zoom * factor, 1), MOST_ZOOM);
    const keep = (middle, point) => point + (middle - point) * (before.zoom / zoom);
    this.look({ zoom, x: keep(before.x, about.x), y: keep(before.y, about.y) });
  }

  // Resolves when everything on the page that can be seen is drawn.
  async idle() {
    if (this.lazy) await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    while (this.turning.size) await new Promise((done) => requestAnimationFrame(done));
    do {
      await Promise.allSettled(this.tiles.map((tile) => tile.ready));
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    } while ([...this.waiting].some((tile) => tile.visible) || [...this.owed].some((tile) => tile.near));
  }

  close() {
    this.seen.disconnect();
    this.sized.disconnect();
    window.removeEventListener("beforeprint", this.printing);
    this.holder.replaceChildren();
    this.holder.classList.remove("dv");
  }

  get tiles() {
    return this.sections.flatMap((section) => section.tiles);
  }

  has() {
    const records = this.tiles.map((tile) => tile.tile?.record).filter(Boolean);
    const drawn = records.filter((one) => !(this.settings.view === "error" && one.errors)); // which have no sign
    return {
      signed: drawn.some((one) => one.signed),
      unsigned: drawn.length < records.length || drawn.some((one) => !one.signed) || !records.length,
      errors: records.some((one) => one.errors),
    };
  }

  section(id) {
    const title = make("h2", { class: "dv-row-title" });
    const detail = make("span", { class: "dv-row-detail" });
    const grid = make("div", { class: "dv-tiles" });
    const element = make("section", { class: "dv-row" }, make("header", { class: "dv-head" }, title, detail), grid);
    return { id, element, title, detail, grid, tiles: [] };
  }

  fill(section, row) {
    setText(section.title, row.title ?? "");
    section.told = row.detail ?? "";
    if (!section.element.classList.contains("dv-previewed")) setText(section.detail, section.told);
    section.title.parentElement.hidden = !row.title && !row.detail;
    section.element.setAttribute("aria-label", [row.title, row.detail].filter(Boolean).join(", "));
    while (section.tiles.length > row.tiles.length) this.drop([section.tiles.pop()]);
    const slices = row.tiles.find(({ record }) => record?.slices)?.record.slices;
    if (slices && !this.slices.has(row.photograph.id)) {
      this.slices.set(row.photograph.id, { ...slices, index: slices.first });
      // so far the photograph was shown without a map
      if (this.photographs.has(row.photograph.id)) this.slide(row.photograph, slices.first);
    }
    row.tiles.forEach((described, i) => {
      if (!section.tiles[i]) {
        const tile = new Tile(this);
        section.tiles.push(tile);
        section.grid.append(tile.element);
        this.seen.observe(tile.element);
      }
      section.tiles[i].show(described.original ? { detail: seenIn(row), ...described } : described, row.photograph);
    });
  }

  drop(tiles) {
    for (const tile of tiles) {
      this.seen.unobserve(tile.element);
      this.waiting.delete(tile);
      this.owed.delete(tile);
      tile.element.remove();
    }
  }

  // The photograph, decoded once; of a volume or clip the slice that is shown.
  bitmap(photograph) {
    const { id, source } = photograph;
    if (!this.photographs.has(id)) {
      const index = this.slices.get(id)?.index;
      this.photographs.set(id, opened(source, index).then((bitmap) => (this.indices.set(bitmap, index ?? 0), bitmap)));
    }
    return this.photographs.get(id);
  }

  // Show another slice of a photograph, in all of its tiles at once.
  slide(photograph, index) {
    const slices = this.slices.get(photograph.id);
    if (!slices) return;
    slices.index = Math.min(Math.max(index, 0), slices.count - 1);
    this.forget(photograph.id);
    for (const tile of this.tiles) if (tile.photograph.id === photograph.id) tile.showSlice();
    if (this.turning.size === 0) requestAnimationFrame(() => this.turn());
    this.turning.add(photograph.id);
  }

  turn() {
    for (const tile of this.tiles) if (this.turning.has(tile.photograph.id)) tile.turn();
    this.turning.clear();
  }

  forget(id) {
    this.photographs.delete(id);
    for (const key of this.pixels.keys()) if (key.startsWith(`${id} `)) this.pixels.delete(key);
  }

  // The picture of a record, decoded once.
  picture(record) {
    if (!this.pictures.has(record)) this.pictures.set(record, pictureOf(record));
    return this.pictures.get(record);
  }

  laid(picture, photograph, bitmap, width, height) {
    const slice = this.indices.get(bitmap) ?? 0; // that of the bitmap: another may be on its way
    if (picture.width === width && picture.height === height && picture.on === photograph.id && picture.slice === slice) return picture;
    const key = `${photograph.id} ${slice} ${width} ${height}`;
    if (!this.pixels.has(key)) this.pixels.set(key, pixelsOf(bitmap, width, height));
    picture.lay(this.pixels.get(key), width, height, picture.record.slices ? slice : 0);
    picture.on = photograph.id;
    return picture;
  }

  // At which size a photograph is drawn where it is seen `width` wide.
  sizeFor({ width, height }, seen) {
    const longest = Math.max(width, height);
    const wanted = (seen || 240) * (window.devicePixelRatio || 1) * this.view.zoom * (longest / width);
    const small = longest * 2 <= SMALL ? longest * Math.ceil(SMALL / longest) : longest;
    const side = longest <= WHOLE ? small : (SIDES.find((one) => one >= wanted) ?? SIDES.at(-1));
    const share = longest <= WHOLE ? side / longest : Math.min(1, side / longest);
    return { width: Math.max(1, Math.round(width * share)), height: Math.max(1, Math.round(height * share)) };
  }

  // As many columns as have room, evenly filled: eight tiles that would be five and three are four and four.
  arrange() {
    const width = this.body.clientWidth;
    const most = Math.max(1, ...this.sections.map((section) => section.tiles.length));
    const least = WIDTHS[this.settings.size][width < NARROW ? 1 : 0];
    const room = Math.max(1, Math.floor((width + 18) / (least + 18)));
    this.holder.style.setProperty("--dv-columns", String(columnsFor(most, room)));
  }

  resize() {
    this.arrange();
    for (const tile of this.tiles) {
      if (!tile.bitmap || !tile.near) continue;
      const { width, height } = this.sizeFor(tile.bitmap, tile.frame.clientWidth);
      if (tile.canvas.width !== width || tile.canvas.height !== height) tile.fit();
    }
  }

  // Scales are found again at the next drawing.
  rescale() {
    this.highs = null;
    if (this.settings.scale !== "own") this.touchAll();
  }

  // The end of a tile's scale: its own, or that of comparable maps of its row, of all maps of its method, or of all.
  highOf(tile) {
    const { record } = tile.picture;
    const { scale } = this.settings;
    if (scale === "own") return record.scale.high;
    // differences of maps share one in all rows
    const keyIn = (section, one) => one.scale.group ?? ({ row: `${section.id} ${keyOf(one)} ${one.model}`, method: keyOf(one), all: "all" })[scale];
    const key = keyIn(this.sections.find((section) => section.tiles.includes(tile)), record);
    this.highs ??= new Map();
    if (!this.highs.has(key)) {
      const alike = (section) => section.tiles.filter((one) => one.picture && keyIn(section, one.picture.record) === key);
      const pictures = this.sections.flatMap(alike).map((one) => one.picture);
      this.highs.set(key, pictures.length === 1 ? record.scale.high : highOfAll(pictures));
    }
    return this.highs.get(key);
  }

  touch(tile) {
    if (!tile.near) return;
    this.waiting.add(tile);
    this.asked ??= requestAnimationFrame(() => this.drawSome());
  }

  touchAll() {
    for (const tile of this.tiles) this.touch(tile);
  }

  // Draw what waits, what can be seen first, until the frame's time is up.
  drawSome() {
    this.asked = null;
    const start = performance.now();
    const order = [...this.waiting].sort((a, b) => Number(b.visible) - Number(a.visible));
    for (const tile of order) {
      if (performance.now() - start > BUDGET) break;
      this.waiting.delete(tile);
      tile.draw();
    }
    const took = performance.now() - start;
    Object.assign(this.frames, { last: took, worst: Math.max(took, this.frames.worst), count: this.frames.count + 1 });
    if (this.waiting.size) this.asked = requestAnimationFrame(() => this.drawSome());
  }

  drawAll() {
    for (const tile of this.tiles) {
      tile.approach(true);
      tile.draw();
    }
    this.waiting.clear();
  }

  noticed(entries) {
    for (const { target, isIntersecting } of entries) {
      const tile = target.dvTile;
      tile.visible = isIntersecting;
      if (this.lazy) tile.approach(isIntersecting);
    }
    if (this.lazy) this.hurry ??= this.payNear().then(() => (this.hurry = null));
  }

  // Decode what is near, row by row from the top: maps of a row may share a scale.
  async payNear() {
    for (let row; (row = this.sections.find(({ tiles }) => tiles.some((tile) => tile.near && this.owed.has(tile)))); ) {
      const owed = row.tiles.filter((tile) => this.owed.has(tile));
      this.pay(owed);
      await Promise.allSettled(owed.map((tile) => tile.ready));
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
  }

  // Decode a tile's record when there is time.
  later(tile) {
    this.owed.add(tile);
    this.spare ??= setTimeout(() => this.spend(), SPARE);
  }

  async spend() {
    for (const tile of this.owed) {
      this.pay([tile]);
      await tile.ready.catch(() => {});
      await new Promise((done) => setTimeout(done));
    }
    this.spare = null;
  }

  pay(tiles = [...this.owed]) {
    for (const tile of tiles) {
      this.owed.delete(tile);
      tile.take(tile.tile.record);
    }
  }

  // Mark the same point in all tiles of the same photograph.
  point(tile, at) {
    this.pointed = at && tile ? { tile, at } : null;
    const told = [];
    for (const other of this.tiles) {
      const linked = this.pointed !== null && other.photograph.id === tile.photograph.id;
      const value = other.point(linked ? at : null);
      if (linked && value) told.push(`${other.title.textContent} ${value}`);
    }
    return told.join(", ");
  }

  // The point of a tile's photograph under a pointer.
  under(tile, event) {
    const frame = tile.frame.getBoundingClientRect();
    const { zoom, x, y } = this.view;
    return {
      x: x + ((event.clientX - frame.left) / frame.width - 0.5) / zoom,
      y: y + ((event.clientY - frame.top) / frame.height - 0.5) / zoom,
    };
  }

  listen() {
    const tileOf = (event) => event.target.closest?.(".dv-frame")?.dvTile ?? null;
    const held = new Map();
    let start = null;
    let latest = null;
    const begin = (tile) => {
      const points = [...held.values()];
      const [a, b = a] = points;
      const middle = { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2 };
      const apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      return { tile, middle, apart, count: points.length, view: this.view };
    };
    const drag = () => {
      const now = begin(start.tile);
      if (now.count !== start.count) return;
      const frame = start.tile.frame.getBoundingClientRect();
      const zoom = start.count > 1 ? start.view.zoom * (now.apart / Math.max(start.apart, 1)) : start.view.zoom;
      this.look({
        zoom,
        x: start.view.x - (now.middle.x - start.middle.x) / frame.width / zoom,
        y: start.view.y - (now.middle.y - start.middle.y) / frame.height / zoom,
      });
    };
    const follow = () => {
      const event = latest;
      latest = null;
      if (start && held.size && (this.view.zoom > 1 || held.size > 1)) drag();
      const tile = tileOf(event);
      this.point(tile, tile ? this.under(tile, event) : null);
    };
    this.body.addEventListener("pointerdown", (event) => {
      const tile = tileOf(event);
      if (!tile || event.button > 0) return;
      held.set(event.pointerId, event);
      start = begin(tile);
      if (this.view.zoom > 1) tile.frame.setPointerCapture(event.pointerId);
    });
    this.body.addEventListener("pointermove", (event) => {
      if (held.has(event.pointerId)) held.set(event.pointerId, event);
      if (latest === null) requestAnimationFrame(follow);
      latest = event;
    });
    const release = (event) => {
      held.delete(event.pointerId);
      if (start) start = held.size ? begin(start.tile) : null;
    };
    this.body.addEventListener("pointerup", release);
    this.body.addEventListener("pointercancel", release);
    this.body.addEventListener("pointerleave", (event) => {
      release(event);
      this.point(null, null);
    });
    this.body.addEventListener("dblclick", (event) => {
      const tile = tileOf(event);
      if (tile) this.zoomBy(this.view.zoom > 1 ? 0 : 3, this.under(tile, event));
    });
    this.body.addEventListener(
      "wheel",
      (event) => {
        const tile = tileOf(event);
        if (!tile || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * 0.004), this.under(tile, event));
      },
      { passive: false },
    );
    this.body.addEventListener("keydown", (event) => this.typed(event, tileOf(event)));
    this.body.addEventListener("focusout", () => this.point(null, null));
  }

  typed(event, tile) {
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const turns = { PageUp: 1, PageDown: -1 };
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
    if (event.key in ways) {
      const [right, down] = ways[event.key];
      const step = 0.02 / this.view.zoom;
      if (event.shiftKey) {
        this.look({ x: this.view.x + 5 * step * right, y: this.view.y + 5 * step * down });
      } else {
        const from = this.pointed?.tile.photograph.id === tile.photograph.id ? this.pointed.at : this.view;
        const within = (share) => Math.min(Math.max(share, 0), 1);
        this.spoken.textContent = this.point(tile, { x: within(from.x + step * right), y: within(from.y + step * down) });
      }
    } else if (event.key in turns && this.slices.has(tile.photograph.id)) {
      this.slide(tile.photograph, this.slices.get(tile.photograph.id).index + turns[event.key]);
    } else if (event.key in zooms) this.zoomBy(zooms[event.key], this.pointed?.at ?? this.view);
    else if (event.key === "Escape") this.point(null, null);
    else return;
    event.preventDefault();
  }
}

// How much of its image the model saw, where a map of the row tells it.
function seenIn({ tiles }) {
  const seen = tiles.find(({ record }) => record?.seen)?.record.seen;
  return seen ? `the model saw ${seen}` : "";
}

function highOfAll(pictures) {
  const quantile = pictures.every((one) => one.record.coarse) ? 100 : 99.5;
  // maps of a single layer's few values would drown among those of single pixels
  const coarse = pictures.filter((one) => one.record.coarse).map((one) => percentile(one.ordered, 100));
  return Math.max(sharedHigh(pictures.map((one) => one.ordered), quantile), ...coarse);
}

// What a map's method is known by; pages of version 0.1 have its caption alone.
function keyOf(record) {
  return record.key ?? record.method;
}

// A few tiles do not become giants: a single row is filled up to four columns where there is room for them.
function columnsFor(tiles, room) {
  if (tiles <= room) return Math.min(room, Math.max(tiles, Math.min(room, 4)));
  return Math.ceil(tiles / Math.ceil(tiles / room));
}

// `given`: a picture; of a volume or clip an array of them, of which `index` is opened; or a function that gives either, also
// of an index, which is undefined as long as no map tells how many there are.
async function opened(given, index) {
  const found = typeof given === "function" ? await given(index) : given;
  const source = Array.isArray(found) ? found[index ?? 0] : found;
  if (source instanceof ImageBitmap) return source;
  if (source instanceof Blob) return createImageBitmap(source, { colorSpaceConversion: "none" });
  const image = source instanceof HTMLImageElement ? source : Object.assign(new Image(), { src: source });
  await image.decode();
  return createImageBitmap(image, { colorSpaceConversion: "none" });
}

function pixelsOf(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = width < 2 * bitmap.width;
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
