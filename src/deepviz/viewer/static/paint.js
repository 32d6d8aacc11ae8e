// Colours, and how they lie on the photograph: the arithmetic of deepviz/render, in whole numbers as there.
//
// A pixel's value is kept as a code: its level in the colour table, and its place within the level for the opacity.
// All that a reader changes (opacity, threshold, colours, sign) changes a table of codes, not the pixels.

import { LEVELS, TABLES, PAINT } from "./tables.js";

const TOP = LEVELS - 1;
// steps within a level, an even number: about 16,000 codes in all, few enough to make their table in each frame
const FINE = 2 * Math.max(3, Math.floor(8192 / LEVELS));
const STRIDE = FINE + 1;
const CODES = LEVELS * STRIDE;
const UNSEEN = CODES;

const { fround } = Math;

function rint(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

export const named = (name) => TABLES.find((table) => table.name === name);
export const colourMaps = (diverging) => TABLES.filter((table) => table.diverging === diverging);

// The codes of placed values on a scale.
export function encode(placed, scale, signed) {
  const high = fround(scale.high);
  const low = signed ? -high : 0;
  const codes = new Uint16Array(placed.length);
  for (let i = 0; i < placed.length; i++) {
    const value = placed[i];
    if (Number.isNaN(value)) {
      codes[i] = UNSEEN;
      continue;
    }
    let unit = fround((value < low ? low : value > high ? high : value) / high);
    if (signed) unit = fround(fround(unit + 1) / 2);
    const level = fround(unit * TOP);
    // half to even, as numpy does
    let whole = Math.floor(level + 0.5);
    if (whole - level === 0.5 && whole & 1) whole -= 1;
    codes[i] = whole * STRIDE + Math.floor((level - whole) * FINE + 0.5) + FINE / 2;
  }
  return codes;
}

// For each code its colour (r, g, b in the low bytes) and its opacity (the high one), under the reader's settings.
// `cut`: magnitudes below this share of the scale are not drawn.
export function painter({ signed, fine, view, opacity, sign, colours, diverging, cut }) {
  const magnitude = signed && sign === "magnitude";
  const table = named(signed && !magnitude ? diverging : colours).bytes;
  const found = new Uint32Array(CODES + 1);
  for (let whole = 0, code = 0; whole < LEVELS; whole++) {
    for (let step = 0; step < STRIDE; step++, code++) {
      const unit = Math.min(Math.max((whole + (step - FINE / 2) / FINE) / TOP, 0), 1);
      const share = signed ? 2 * unit - 1 : unit;
      const strength = Math.abs(share);
      const hidden = strength < cut || (signed && ((sign === "positive" && share < 0) || (sign === "negative" && share > 0)));
      const at = 3 * (magnitude ? rint(strength * TOP) : whole);
      const alpha = view === "map" ? 255 : rint(255 * opacity * (fine ? Math.sqrt(strength) : strength));
      const colour = table[at] | (table[at + 1] << 8) | (table[at + 2] << 16);
      found[code] = hidden ? 0 : (colour | (alpha << 24)) >>> 0;
    }
  }
  return found;
}

const greyAt = (photo, at) => (photo[at] * 19595 + photo[at + 1] * 38470 + photo[at + 2] * 7471 + 0x8000) >> 16;

// Of each grey level the one that is drawn; those of a dark photograph are stretched first, or its ghost would be black.
function ghostOf(photo, signed) {
  const histogram = new Uint32Array(256);
  for (let at = 0; at < photo.length; at += 4) histogram[greyAt(photo, at)] += 1;
  let top = 0;
  for (let counted = histogram[0]; 100 * counted < 99 * (photo.length / 4); counted += histogram[top]) top += 1;
  const gain = top < PAINT.lifted ? PAINT.lifted / Math.max(top, PAINT.darkest) : 1;
  return Uint8Array.from({ length: 256 }, (_, level) => {
    const lifted = Math.min(255, rint(gain * level));
    return rint(signed ? 255 - PAINT.ghost * (255 - lifted) : PAINT.ghost * lifted);
  });
}

// What a map is drawn on: the photograph, or for maps of single pixels its ghost; dimmed where the model did not look.
export function ground(photo, placed, fine, signed) {
  const made = new Uint8ClampedArray(photo);
  const dim = Uint8Array.from({ length: 256 }, (_, level) => rint(PAINT.dimmed * level));
  const ghost = fine ? ghostOf(photo, signed) : null;
  for (let i = 0, at = 0; i < placed.length; i++, at += 4) {
    if (fine) made[at] = made[at + 1] = made[at + 2] = ghost[greyAt(photo, at)];
    if (Number.isNaN(placed[i])) {
      made[at] = dim[made[at]];
      made[at + 1] = dim[made[at + 1]];
      made[at + 2] = dim[made[at + 2]];
    }
  }
  return new Uint32Array(made.buffer);
}

// Draw codes on their ground, into `out` (Uint32Array over the bytes of an ImageData).
export function blend(out, codes, lookup, base) {
  for (let i = 0; i < codes.length; i++) {
    const entry = lookup[codes[i]];
    const alpha = entry >>> 24;
    const under = base[i];
    if (alpha === 0) {
      out[i] = under;
      continue;
    }
    const rest = 255 - alpha;
    // division by 255 with rounding, as Pillow does it
    let r = (under & 255) * rest + (entry & 255) * alpha + 128;
    let g = ((under >>> 8) & 255) * rest + ((entry >>> 8) & 255) * alpha + 128;
    let b = ((under >>> 16) & 255) * rest + ((entry >>> 16) & 255) * alpha + 128;
    r = (r + (r >> 8)) >> 8;
    g = (g + (g >> 8)) >> 8;
    b = (b + (b >> 8)) >> 8;
    out[i] = (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
  }
}

// The map alone; nothing where there is nothing to draw.
export function flat(out, codes, lookup) {
  for (let i = 0; i < codes.length; i++) out[i] = lookup[codes[i]];
}

// The colours of a scale from low to high, as an ImageData of one row; `lookup` is a painter's of the view "map".
export function bar(lookup, width) {
  const made = new ImageData(width, 1);
  const out = new Uint32Array(made.data.buffer);
  for (let x = 0; x < width; x++) {
    const entry = lookup[Math.round((x / (width - 1)) * TOP) * STRIDE + FINE / 2];
    out[x] = entry;
  }
  return made;
}
