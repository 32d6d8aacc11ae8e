import assert from "node:assert/strict";
import { test } from "node:test";

import { digits, magnitudes, percentile, sharedHigh } from "../viewer/scale.js";

test("percentiles lie linearly between neighbours, as numpy has it", () => {
  assert.equal(percentile([1, 2, 3, 4], 50), 2.5);
  assert.equal(percentile([1, 2, 3, 4], 0), 1);
  assert.equal(percentile([1, 2, 3, 4], 100), 4);
  assert.equal(percentile([7], 99.5), 7);
});

test("of maps without a sign, what is below zero counts as zero", () => {
  assert.deepEqual([...magnitudes(Float32Array.of(-3, 1, 2), true)], [1, 2, 3]);
  assert.deepEqual([...magnitudes(Float32Array.of(-3, 1, 2), false)], [0, 1, 2]);
});

test("one scale of several maps is that of all their values", () => {
  assert.equal(sharedHigh([[0, 1], [2, 3]], 100), 3);
  assert.equal(sharedHigh([[0, 0]], 99.5), 1, "of blank maps there is a scale too");
});

test("numbers are short, with a minus sign", () => {
  assert.equal(digits(0), "0");
  assert.equal(digits(-0.09512), "−0.095");
  assert.equal(digits(1.23456, 3), "1.23");
});
