import assert from "node:assert/strict";
import { test } from "node:test";

import { near } from "../static/search.js";

const LABELS = ["tench", "red fox", "grey fox, gray fox", "tiger cat", "tabby, tabby cat", "foxglove"];

test("a number is the class of that number, or none", () => {
  assert.deepEqual(near(LABELS, "3"), [3]);
  assert.deepEqual(near(LABELS, " tiger cat (3)"), [3]);
  assert.deepEqual(near(LABELS, "6"), []);
  assert.deepEqual(near([], "12"), [12], "a model without labels may have it");
});

test("names that begin so come first, then words that do, then slips of the pen", () => {
  assert.deepEqual(near(LABELS, "fox"), [5, 1, 2]);
  assert.deepEqual(near(LABELS, "tigre cat"), [3]);
  assert.deepEqual(near(LABELS, "tbaby"), [4]);
  assert.deepEqual(near(LABELS, "cat tabby"), [4]);
  assert.deepEqual(near(LABELS, ""), []);
  assert.deepEqual(near(LABELS, "zebra"), []);
  assert.equal(near(LABELS, "t", 2).length, 2);
});
