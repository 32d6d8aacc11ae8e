// One map on one photograph, ready to be drawn again and again.

import { field, line, LINES } from "./contours.js";
import { bar, blend, encode, flat, ground, painter } from "./paint.js";
import { place, scaledBox } from "./place.js";
import { digits, magnitudes, percentile } from "./scale.js";

export class Picture {
  // `map` is the decoded map of `record`, `errors` that of the standard errors of its values, if there are any.
  constructor(record, map, errors = null) {
    this.record = record;
    this.map = map;
    // mostly a small part of the scale, they are seen on a grey image alone
    this.errors = errors && new Picture({ ...record, signed: false, coarse: false }, errors);
    this.width = 0;
    this.height = 0;
    this.slice = 0;
    this.kept = new Map();
  }

  // Lay the map, or one slice of it, on a photograph: its pixels (RGBA bytes) at a width and height.
  lay(pixels, width, height, slice = 0) {
    const { coarse, signed, geometry } = this.record;
    this.width = width;
    this.height = height;
    this.slice = slice;
    this.placed = place(this.plane, scaledBox(geometry, width, height), width, height);
    this.photo = new Uint32Array(pixels.buffer);
    this.base = ground(pixels, this.placed, !coarse, signed);
    this.image = new ImageData(width, height);
    this.out = new Uint32Array(this.image.data.buffer);
    this.codes = null;
    this.kept.delete("field");
    this.kept.delete("contours");
    this.errors?.release();
  }

  // The picture of the standard errors, laid as this one is; null where there are none.
  get error() {
    const { errors, width, height, slice } = this;
    if (errors && this.photo && !errors.placed) errors.lay(new Uint8ClampedArray(this.photo.buffer), width, height, slice);
    return errors;
  }

  // The values that are drawn: those of the map, or of one slice of it.
  get plane() {
    const { width, height, values } = this.map;
    const count = width * height;
    return { width, height, values: values.subarray(this.slice * count, (this.slice + 1) * count) };
  }

  // Keep the map alone; it has to be laid again.
  release() {
    this.width = this.height = 0;
    this.placed = this.photo = this.base = this.image = this.out = this.codes = null;
    this.kept.clear();
    this.errors?.release();
  }

  // What is computed once and kept under a name, as long as `key` stays the same.
  once(name, key, compute) {
    const known = this.kept.get(name);
    if (known && known.key === key) return known.value;
    const value = compute();
    this.kept.set(name, { key, value });
    return value;
  }

  // Magnitudes in order, as percentiles are counted.
  get ordered() {
    return this.once("ordered", 0, () => magnitudes(this.map.values, this.record.signed));
  }

  // Draw into the context of a canvas of the same size. `high`: the end of the scale.
  draw(context, settings, high) {
    if (settings.view === "error" && this.errors) {
      this.error.draw(context, { ...settings, ...AS_ERRORS }, high);
      return;
    }
    if (settings.view === "image" || settings.view === "error") {
      this.out.set(this.photo);
    } else {
      if (!this.codes || this.high !== high) {
        this.codes = encode(this.placed, { high }, this.record.signed);
        this.high = high;
      }
      const lookup = this.lookup(settings, high, settings.view);
      if (settings.view === "map") flat(this.out, this.codes, lookup);
      else blend(this.out, this.codes, lookup, this.base);
    }
    context.putImageData(this.image, 0, 0);
    if (settings.contours && !["image", "error"].includes(settings.view)) context.drawImage(this.contours(settings, high), 0, 0);
    this.outline(context);
    this.boxes(context);
  }

  // The border of the explained region of a segmenter.
  outline(context) {
    const { region, geometry } = this.record;
    if (!region) return;
    const path = this.once("outline", `${this.width} ${this.height}`, () => {
      const values = Float32Array.from(Uint8Array.from(atob(region.data), (letter) => letter.charCodeAt(0)), (level) => level / 255);
      const mask = { width: region.size[0], height: region.size[1], values };
      const placed = place(mask, scaledBox(geometry, this.width, this.height), this.width, this.height);
      return line(field(placed, this.width, this.height, false), 0.5);
    });
    mark(context, path, Math.max(this.width, this.height) / 250, true);
  }

  // What a detector found, the explained box last and emphasised.
  boxes(context) {
    const [width, height] = this.record.geometry.size;
    const unit = Math.max(this.width, this.height) / 250;
    const order = [...(this.record.boxes ?? [])].sort((one, other) => Number(one.explained) - Number(other.explained));
    for (const { box, text, explained } of order) {
      const [left, top, right, bottom] = [box[0] * this.width / width, box[1] * this.height / height, box[2] * this.width / width, box[3] * this.height / height];
      const path = new Path2D();
      path.rect(left, top, right - left, bottom - top);
      mark(context, path, explained ? unit : unit / 2, explained);
      if (explained) label(context, text, left, top, 7 * unit, this.width);
    }
  }

  lookup(settings, high, view) {
    const { opacity, threshold, sign, colours, diverging } = settings;
    const { signed, coarse } = this.record;
    const key = JSON.stringify([view === "map" ? 1 : opacity, threshold, sign, colours, diverging, high]);
    return this.once(`lookup ${view}`, key, () => {
      const cut = threshold > 0 ? Math.min(1, percentile(this.ordered, threshold) / high) : 0;
      return painter({ signed, fine: !coarse, view, opacity, sign, colours, diverging, cut });
    });
  }

  // Lines of equal value, on a canvas of their own.
  contours(settings, high) {
    const { signed, coarse } = this.record;
    const { width, height } = this;
    const signs = !signed ? [1] : { both: [1, -1], positive: [1], negative: [-1], magnitude: [1, -1] }[settings.sign];
    const smooth = this.once("field", 0, () => field(this.placed, width, height, !coarse));
    // blurred maps of single pixels are far below the scale of their pixels: their own maximum counts
    const top = coarse ? high : smooth.top;
    return this.once("contours", `${top} ${width} ${height} ${signs}`, () => {
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const levels = top > 0 ? signs.flatMap((way) => LINES.map((share) => way * share * top)) : [];
      stroke(canvas.getContext("2d"), levels.map((level) => [level, line(smooth, level)]), Math.max(width, height) / 360);
      return canvas;
    });
  }

  // The bars of a table's entries: each with its name, its value, where it begins and ends as shares of the width, and its colour.
  bars(settings, high) {
    if (settings.view === "error" && this.errors) return this.errors.bars({ ...settings, ...AS_ERRORS }, high);
    const { signed, bars } = this.record;
    const lookup = this.lookup({ ...settings, threshold: 0 }, high, "map");
    const codes = encode(this.map.values, { high }, signed);
    return bars.shown.map(([entry, name]) => {
      const value = this.map.values[entry];
      const share = Math.min(Math.max(value / high, signed ? -1 : 0), 1);
      const zero = signed ? 0.5 : 0;
      const end = zero + share * (1 - zero);
      const colour = colourOf(lookup[codes[entry]]);
      return { name, value: withError(value, this.errors?.map.values[entry]), from: Math.min(zero, end), to: Math.max(zero, end), colour };
    });
  }

  // The words of a text, each with its value in words and its colour, on a scale of their own.
  coloured(settings) {
    const { signed, words } = this.record;
    const lookup = this.lookup({ ...settings, threshold: 0 }, words.high, "map");
    const codes = encode(Float32Array.from(words.values, ([, value]) => value), { high: words.high }, signed);
    return words.values.map(([word, value], n) => ({ word, value: digits(value, 3), colour: colourOf(lookup[codes[n]]) }));
  }

  // The colours of the scale, as an ImageData one pixel high.
  drawBar(context, settings, high) {
    if (settings.view === "error" && this.errors) return this.errors.drawBar(context, { ...settings, ...AS_ERRORS }, high);
    context.putImageData(bar(this.lookup(settings, high, "map"), context.canvas.width), 0, 0);
  }

  // The value under a point of the photograph (shares of its width and height), in words.
  valueAt(x, y) {
    const column = Math.min(Math.floor(x * this.width), this.width - 1);
    const row = Math.min(Math.floor(y * this.height), this.height - 1);
    const value = this.placed?.[row * this.width + column];
    if (value === undefined) return "";
    return Number.isNaN(value) ? "not seen" : withError(value, this.error?.placed[row * this.width + column]);
  }
}

const AS_ERRORS = { view: "overlay", sign: "both" }; // they have no sign

// A value in words, with its standard error if it has one.
const withError = (value, error) => digits(value, 3) + (error === undefined ? "" : ` ± ${digits(error)}`);

const colourOf = (drawn) => (drawn ? `rgb(${drawn & 255} ${(drawn >>> 8) & 255} ${(drawn >>> 16) & 255})` : "transparent");

const MARKED = ["rgb(255 221 0)", "rgb(235 235 235)"]; // the explained one, and others

function mark(context, path, width, explained) {
  context.lineJoin = "round";
  context.lineWidth = 2.2 * width;
  context.strokeStyle = "rgb(20 20 20 / 0.8)";
  context.stroke(path);
  context.lineWidth = 1.2 * width;
  context.strokeStyle = MARKED[explained ? 0 : 1];
  context.stroke(path);
}

function label(context, text, left, top, size, width) {
  const high = Math.max(9, size);
  context.font = `${high}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const wide = context.measureText(text).width + high / 2;
  const x = Math.max(0, Math.min(left, width - wide));
  const y = top >= 1.3 * high ? top - 1.3 * high : top;
  context.fillStyle = MARKED[0];
  context.fillRect(x, y, wide, 1.3 * high);
  context.fillStyle = "rgb(20 20 20)";
  context.fillText(text, x + high / 4, y + 0.15 * high);
}

// White lines edged with black, to be seen on anything; below zero the other way round.
function stroke(context, paths, unit) {
  context.lineJoin = context.lineCap = "round";
  for (const [level, path] of paths) {
    const [line, edge] = level < 0 ? ["rgb(0 0 0 / 0.9)", "rgb(255 255 255 / 0.7)"] : ["rgb(255 255 255 / 0.95)", "rgb(0 0 0 / 0.55)"];
    context.lineWidth = 3 * unit;
    context.strokeStyle = edge;
    context.stroke(path);
    context.lineWidth = 1.4 * unit;
    context.strokeStyle = line;
    context.stroke(path);
  }
}
