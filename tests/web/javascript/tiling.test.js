import assert from "node:assert/strict";
import { test } from "node:test";

import { depth, placeOf, revealing, step, tiling, visible } from "../static/tiling.js";

const grid = (count, seen = 500) => tiling({ count, width: 1000, seen, least: 148, caption: 42 });

test("tiles fill the width", () => {
  const { columns, side, pitch, height } = grid(100);
  assert.equal(columns, 6);
  assert.ok(columns * side + 12 * (columns - 1) <= 1000 && (columns + 1) * 148 + 12 * columns > 1000);
  assert.equal(height, Math.ceil(100 / 6) * pitch - 12);
  assert.equal(tiling({ count: 5, width: 50, seen: 10, least: 148, caption: 0 }).columns, 1);
});

test("what is seen is what lies between the edges of the box, at any length", () => {
  for (const count of [0, 1, 7, 100, 100_000, 3_000_000]) {
    const tiles = grid(count);
    for (const share of [0, 0.1, 0.5, 0.999, 1]) {
      const top = share * Math.max(0, tiles.scrolled - tiles.seen);
      const { first, last } = visible(tiles, top);
      for (let at = 0; at < Math.min(count, 60); at++) assert.equal(at >= first && at < last, overlaps(tiles, at, top), `${count} ${share} ${at}`);
      for (let at = Math.max(0, first - 20); at < Math.min(last + 20, count); at++) assert.equal(at >= first && at < last, overlaps(tiles, at, top), `${count} ${share} ${at}`);
    }
  }
});

function overlaps(tiles, at, top) {
  const { y } = placeOf(tiles, at, top);
  return y + tiles.pitch > top + 0.5 && y <= top + tiles.seen + 0.5;
}

test("the last tile of a grid that is higher than browsers lay out is at its end", () => {
  const tiles = grid(3_000_000);
  assert.ok(tiles.height > 1e8 && tiles.scrolled === 12e6);
  const top = tiles.scrolled - tiles.seen;
  assert.equal(depth(tiles, top), tiles.height - tiles.seen);
  assert.equal(visible(tiles, top).last, 3_000_000);
  assert.equal(placeOf(tiles, 2_999_999, top).y + tiles.pitch - 12, tiles.scrolled);
});

test("a tile that is revealed is seen whole, and one that is seen does not move", () => {
  for (const count of [100, 100_000, 3_000_000]) {
    const tiles = grid(count);
    let top = 0;
    for (const at of [0, 5, 40, 99, count - 1, Math.floor(count / 2), Math.floor(count / 2) + 6, 3]) {
      top = revealing(tiles, at, top);
      const { y } = placeOf(tiles, at, top);
      assert.ok(y >= top - 1 && y + tiles.pitch - 12 <= top + tiles.seen + 1, `${count} ${at}`);
      assert.equal(revealing(tiles, at, top), top);
    }
  }
});

test("keys lead to neighbours and never beyond the ends", () => {
  const tiles = grid(20); // rows of 6, the last of 2; two rows are seen at a time
  const to = (at, key) => step(tiles, at, key);
  assert.deepEqual(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].map((key) => to(7, key)), [6, 8, 1, 13]);
  assert.deepEqual([to(0, "ArrowLeft"), to(3, "ArrowUp"), to(19, "ArrowRight"), to(18, "ArrowDown")], [0, 3, 19, 18]);
  assert.equal(to(17, "ArrowDown"), 19, "the row below is short");
  assert.deepEqual([to(7, "Home"), to(7, "End"), to(7, "PageDown"), to(7, "PageUp")], [0, 19, 19, 0]);
  assert.equal(to(7, "a"), undefined);
  assert.equal(step(grid(0), 0, "End"), undefined);
});
