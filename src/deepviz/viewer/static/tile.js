// One tile of the comparison: a picture, its caption, its scale.

import { decode, decodeErrors } from "./decode.js";
import { freshId, make, setText } from "./elements.js";
import { Picture } from "./picture.js";
import { digits } from "./scale.js";

const SIGNS = ["lowers the score", "raises it"];

export class Tile {
  // `comparison` knows photographs, settings and when to draw.
  constructor(comparison) {
    this.comparison = comparison;
    this.picture = null;
    this.visible = true;
    this.near = !comparison.lazy;
    this.turns = 0;
    this.canvas = make("canvas", { class: "dv-canvas", "aria-hidden": "true" });
    this.context = this.canvas.getContext("2d");
    this.value = make("span", { class: "dv-value", "aria-hidden": "true" });
    this.cross = make("span", { class: "dv-cross", "aria-hidden": "true" });
    this.wait = make("span", { class: "dv-wait" });
    this.soFar = make("span", { class: "dv-so-far", hidden: true });
    const caption = make("figcaption", { id: freshId("caption") });
    this.frame = make(
      "div",
      { class: "dv-frame", tabindex: "0", role: "img", "aria-describedby": caption.id },
      this.canvas,
      this.cross,
      this.value,
      this.wait,
      this.soFar,
    );
    this.title = make("div", { class: "dv-title" });
    this.detail = make("div", { class: "dv-detail" });
    this.low = make("span");
    this.high = make("span");
    this.bar = make("canvas", { class: "dv-bar", width: 256, height: 1, "aria-hidden": "true" });
    this.scale = make("div", { class: "dv-scale" }, this.low, this.bar, this.high);
    this.signs = [make("span"), make("span")];
    this.legend = make("div", { class: "dv-signs" }, ...this.signs);
    this.warning = make("p", { class: "dv-warning" });
    this.checks = make("p", { class: "dv-checks" });
    this.action = make("button", { type: "button", class: "dv-action", onclick: () => this.tile.action.run() });
    this.predicted = make("ol", { class: "dv-predicted", "aria-label": "Predictions" });
    caption.append(this.title, this.detail, this.scale, this.legend, this.warning, this.checks, this.predicted);
    this.slider = make("input", { type: "range", min: 1, step: 1, "aria-label": "Slice" });
    this.slider.addEventListener("input", () => comparison.slide(this.photograph, Number(this.slider.value) - 1));
    this.bars = make("ol", { class: "dv-bars", hidden: true });
    this.words = make("p", { class: "dv-words", hidden: true });
    this.sliced = make("output", { class: "dv-told" });
    this.slices = make("div", { class: "dv-slices", hidden: true }, this.slider, this.sliced);
    this.element = make("figure", { class: "dv-tile" }, this.frame, this.slices, this.bars, this.words, caption);
    Object.assign(this.frame, { dvTile: this }); // to be found from an event
    Object.assign(this.element, { dvTile: this });
  }

  // `tile` as `Comparison.show` takes it, of the photograph of its row.
  show(tile, photograph) {
    const same = this.tile?.id === tile.id && this.photograph?.id === photograph.id && Boolean(this.tile.record) === Boolean(tile.record);
    this.tile = tile;
    this.photograph = photograph;
    if (photograph.size) this.shape(photograph.size[0] / photograph.size[1]);
    if (!this.previewed) this.describe(tile.record, tile);
    this.showSlice();
    if (same) return;
    if (this.near) this.take(this.previewed ?? tile.record);
    else this.comparison.later(this);
  }

  // Bring the slider in line with the slice of the photograph that is shown.
  showSlice() {
    const slices = this.comparison.slices.get(this.photograph.id);
    this.slices.hidden = !slices || slices.count < 2;
    if (!slices) return;
    const { kind, index, count } = slices;
    this.slider.max = String(count);
    this.slider.value = String(index + 1);
    this.sliced.textContent = `${kind} ${index + 1} of ${count}`;
    this.slider.setAttribute("aria-valuetext", this.sliced.textContent);
    this.slider.setAttribute("aria-label", `${kind === "frame" ? "Frame" : "Slice"}, ${this.title.textContent}`);
  }

  // Draw the slice of the photograph that is shown now.
  turn() {
    if (!this.comparison.owed.has(this)) this.take(this.previewed ?? this.tile.record);
  }

  preview(record) {
    if (record === this.previewed || (!record && !this.previewed)) return;
    this.previewed = record ?? null;
    this.element.classList.toggle("dv-preview", Boolean(record));
    this.describe(record ?? this.tile.record, record ? { ...this.tile, detail: record.caption } : this.tile);
    this.take(record ?? this.tile.record);
  }

  describe(record, { title, detail, pending, reason, original, table, action, predictions, soFar }) {
    this.frame.hidden = Boolean(table || record?.bars);
    this.bars.hidden = !record?.bars;
    this.words.hidden = !record?.words;
    setText(this.title, title ?? record?.method ?? "");
    setText(this.detail, detail ?? record?.caption ?? "");
    setText(this.warning, [record?.scale.note, ...(record?.warnings ?? [])].filter(Boolean).join("; "));
    setText(this.checks, record?.checks ?? "");
    setText(this.soFar, soFar ?? "");
    setText(this.action, (!this.previewed && action?.title) || "");
    if (this.action.hidden) this.action.remove();
    else this.element.append(this.action);
    this.predicted.replaceChildren(...(predictions ?? []).map(prediction));
    this.predicted.hidden = !predictions?.length;
    this.scale.hidden = !record;
    this.legend.hidden = !record?.signed;
    this.signs.forEach((sign, n) => setText(sign, (record?.legend ?? SIGNS)[n]));
    this.element.classList.toggle("dv-original", Boolean(original));
    this.element.classList.toggle("dv-pending", !record && Boolean(pending));
    this.element.classList.toggle("dv-failed", !record && !pending && !original);
    setText(this.wait, record || pending || original ? this.lack(record) : (reason ?? "no map"));
    const told = original ? title : `${title ?? ""}: ${reason || "computing"}`;
    const far = soFar ? `, after ${soFar}` : "";
    const about = record ? `${record.method}: ${record.caption}, on ${record.source}${far}` : told;
    this.frame.setAttribute("aria-label", about);
    this.busy(!record && Boolean(pending));
  }

  busy(busy) {
    this.frame.setAttribute("aria-busy", String(busy));
  }

  // Decode a record and lay it on the photograph; what is drawn stays until that is done.
  async take(record) {
    const turn = (this.turns += 1);
    if (record) this.busy(true);
    this.ready = (async () => {
      const bitmap = await this.comparison.bitmap(this.photograph);
      const picture = record ? await this.comparison.picture(record) : null;
      if (turn !== this.turns) return;
      const other = picture !== this.picture;
      this.bitmap = bitmap;
      this.picture = picture;
      if (this.near) return this.fit(other);
      if (record) this.busy(false);
      if (other) this.comparison.rescale();
    })();
    try {
      await this.ready;
    } catch (error) {
      if (turn === this.turns) {
        this.element.classList.add("dv-failed");
        this.busy(false);
        setText(this.wait, String(error.message ?? error));
      }
    }
  }

  // What is near is drawn; of what is not, only what was decoded is kept.
  approach(near) {
    if (near === this.near) return;
    this.near = near;
    if (near) return this.fit();
    if (this.picture) {
      this.picture.release();
      this.busy(false);
    }
    this.canvas.width = this.canvas.height = 0;
  }

  // A strip is drawn thicker than 1 : 20, to be seen.
  shape(proportions) {
    const ratio = Math.min(Math.max(proportions, 1 / 20), 20);
    this.frame.style.aspectRatio = String(ratio);
    this.frame.style.width = ratio < 0.5 ? `${200 * ratio}%` : "";
  }

  // Lay photograph and map at the size at which they are shown; `rescale`: as a shared scale may be another then.
  fit(rescale = true) {
    if (!this.bitmap) return;
    const { width, height } = this.comparison.sizeFor(this.bitmap, this.frame.clientWidth);
    this.shape(this.bitmap.width / this.bitmap.height);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    if (this.picture) this.picture = this.comparison.laid(this.picture, this.photograph, this.bitmap, width, height);
    this.comparison.touch(this);
    if (rescale) this.comparison.rescale();
  }

  draw() {
    if (!this.bitmap || !this.near) return;
    if (!this.picture) {
      this.context.imageSmoothingEnabled = this.canvas.width < 2 * this.bitmap.width;
      this.context.drawImage(this.bitmap, 0, 0, this.canvas.width, this.canvas.height);
      return;
    }
    const { settings } = this.comparison;
    const high = this.comparison.highOf(this);
    const errors = settings.view === "error";
    const signed = this.picture.record.signed && !errors;
    setText(this.wait, this.lack(this.picture.record));
    this.picture.draw(this.context, settings, high);
    this.picture.drawBar(this.bar.getContext("2d"), settings, high);
    setText(this.low, signed ? digits(-high) : "0");
    setText(this.high, digits(high));
    this.element.classList.toggle("dv-has-sign", signed);
    if (this.picture.record.bars) this.bars.replaceChildren(...this.picture.bars(settings, high).map(entryOf), ...rest(this.picture.record.bars));
    if (this.picture.record.words) this.words.replaceChildren(...this.picture.coloured(settings).map(wordOf));
    this.busy(false);
  }

  // What a map lacks that the view draws.
  lack(record) {
    const lacks = this.comparison.settings.view === "error" && record && !record.errors;
    this.element.classList.toggle("dv-lacking", Boolean(lacks));
    return lacks ? "no standard error" : "";
  }

  // Mark a point of the photograph (shares of its width and height); null takes the mark away.
  point(at) {
    this.frame.classList.toggle("dv-pointed", at !== null);
    if (at === null) return "";
    this.frame.style.setProperty("--dv-px", String(at.x));
    this.frame.style.setProperty("--dv-py", String(at.y));
    const value = this.picture?.valueAt(at.x, at.y) ?? "";
    setText(this.value, value);
    return value;
  }
}

// An entry of a table: its name, its value, and a bar from zero, in shares of the width.
function entryOf({ name, value, from, to, colour }) {
  const line = make("li", {}, make("span", { class: "dv-label" }, name), make("span", { class: "dv-chance" }, value));
  line.style.setProperty("--dv-from", String(from));
  line.style.setProperty("--dv-to", String(to));
  line.style.setProperty("--dv-colour", colour);
  return line;
}

// A word of a text, above a line in the colour of its value.
function wordOf({ word, value, colour }) {
  const shown = make("span", { title: `${word}: ${value}` }, word, make("small", {}, value));
  shown.style.setProperty("--dv-colour", colour);
  return shown;
}

function rest({ shown, count }) {
  return shown.length < count ? [make("li", { class: "dv-more-bars" }, `the ${shown.length} largest of ${count}`)] : [];
}

function prediction({ label, told, share }) {
  const line = make("li", {}, make("span", { class: "dv-label" }, label), make("span", { class: "dv-chance" }, told));
  line.style.setProperty("--dv-share", String(share));
  return line;
}

export async function pictureOf(record) {
  return new Picture(record, await decode(record), await decodeErrors(record));
}
