import assert from "node:assert/strict";
import { test } from "node:test";

import { difference, mismatch, normalised } from "../static/difference.js";

const geometry = { size: [40, 30], box: [0, 0, 40, 30] };
const record = (more = {}) => ({ geometry, signed: false, coarse: true, map: { size: [2, 1] }, ...more });
const words = { title: "a − b", raised: "more in a", lowered: "more in b" };

test("each map is divided by its own maximum", () => {
  assert.deepEqual([...normalised(Float32Array.of(-4, 2))], [-1, 0.5]);
  assert.deepEqual([...normalised(Float32Array.of(0, 0))], [0, 0]);
  const maps = [{ values: Float32Array.of(10, 5) }, { values: Float32Array.of(1, 2) }];
  const found = difference(record(), record(), maps, words);
  assert.deepEqual([...found.map.values], [0.5, -0.5]);
  assert.deepEqual([found.signed, found.scale.low, found.scale.high], [true, -0.5, 0.5]);
  assert.deepEqual(found.legend, ["more in b", "more in a"]);
});

test("equal maps have no difference, and a scale all the same", () => {
  const maps = [{ values: Float32Array.of(1, 2) }, { values: Float32Array.of(2, 4) }];
  const { scale } = difference(record(), record(), maps, words);
  assert.deepEqual([scale.low, scale.high, scale.note], [-1, 1, "both maps are the same"]);
});

test("maps that do not lie on each other are refused", () => {
  assert.equal(mismatch(record(), record()), "");
  assert.match(mismatch(record(), record({ map: { size: [7, 7] } })), /one map is 2 × 1, the other 7 × 7/);
  assert.match(mismatch(record(), record({ geometry: { size: [40, 30], box: [5, 0, 35, 30] } })), /different parts of the image/);
  assert.match(mismatch(record(), record({ signed: true })), /signed/);
});
