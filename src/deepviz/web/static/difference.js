// The difference of two maps of one row: each divided by its own maximum, signed.

import { magnitudes, percentile } from "../viewer/scale.js";

const FINE = 99.5; // percentile of the magnitudes that is the end of the scale of a map of single pixels, as in Python
const times = ([across, down]) => `${across} × ${down}`;
const box = ({ geometry }) => JSON.stringify([geometry.size, geometry.box]);

/**
 * Why there is no difference of two maps; "" if there is.
 * @param {any} one  A record.
 * @param {any} other
 */
export function mismatch(one, other) {
  if (box(one) !== box(other)) return "No difference: the two models see different parts of the image.";
  if (String(one.map.size) !== String(other.map.size)) {
    return `No difference: one map is ${times(one.map.size)}, the other ${times(other.map.size)}. Choose maps of the same size.`;
  }
  if (one.slices?.count !== other.slices?.count) return "No difference: the maps have unlike many slices.";
  if (one.signed !== other.signed) return "No difference: one map is signed, the other is not.";
  return "";
}

/**
 * The values of a map divided by their largest magnitude; as they are if all are zero.
 * @param {Float32Array} values
 */
export function normalised(values) {
  const top = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  return values.map((value) => value / top);
}

/**
 * The record of a difference, as the viewer draws it.
 * @param {any} one  A record.
 * @param {any} other
 * @param {{values: Float32Array}[]} maps  Of both, decoded.
 * @param {{title: string, raised: string, lowered: string}} words
 */
export function difference(one, other, maps, { title, raised, lowered }) {
  const [values, minus] = maps.map((map) => normalised(map.values));
  const found = values.map((value, n) => value - minus[n]);
  const coarse = one.coarse && other.coarse;
  const ordered = magnitudes(found, true);
  const high = percentile(ordered, coarse ? 100 : FINE) || percentile(ordered, 100);
  return {
    ...one,
    method: title,
    caption: "each divided by its own maximum",
    key: "difference",
    model: "",
    signed: true,
    coarse,
    scale: { low: -high || -1, high: high || 1, note: high ? "" : "both maps are the same", group: "difference" },
    legend: [lowered, raised],
    map: { size: one.map.size, values: found },
    warnings: [],
    checks: "",
  };
}
