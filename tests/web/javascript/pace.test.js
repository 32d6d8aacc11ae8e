import assert from "node:assert/strict";
import { test } from "node:test";

import { Pace, inWords } from "../static/pace.js";

test("the time left is that of the steps done", () => {
  const pace = new Pace();
  pace.take(1, 0);
  assert.equal(pace.left(100), "", "one step tells nothing");
  for (let step = 2; step <= 10; step++) pace.take(step, 100 * (step - 1));
  assert.equal(pace.left(200), "about 20 s left");
});

test("a pause does not count", () => {
  const pace = new Pace();
  pace.take(1, 0);
  pace.take(2, 100);
  pace.pause();
  pace.take(2, 60000);
  pace.take(3, 60100);
  assert.equal(pace.left(200), "about 20 s left");
});

test("other work begins anew", () => {
  const pace = new Pace();
  pace.take(99, 0);
  pace.take(100, 1000);
  pace.take(1, 2000);
  assert.equal(pace.left(100), "");
});

test("times in words", () => {
  assert.deepEqual([2, 42, 100, 3000, 7300].map(inWords), [
    "a few seconds left", "about 40 s left", "about 2 min left", "about 50 min left", "about 2 h left",
  ]);
});
