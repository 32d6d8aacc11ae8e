import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = { pathname: "/" };
const { layerOf, rowOf, unpack } = await import("../static/attention.js");

const base64 = (array) => Buffer.from(array.buffer).toString("base64");

test("a layer stands for the attention that it is, holds or lies in", () => {
  const layers = ["blocks.1.attn", "blocks.10.attn", "shared#1", "shared#2"];
  const near = (name) => layerOf(layers, name);
  assert.deepEqual(["blocks.1", "blocks.1.attn", "blocks.1.attn.qkv", "blocks.10"].map(near), [layers[0], layers[0], layers[0], layers[1]]);
  assert.deepEqual(["shared", "shared#2"].map(near), ["shared#1", "shared#2"]);
  assert.deepEqual([null, "", "patch_embed", "blocks.2"].map(near), ["shared#2", "shared#2", "shared#2", "shared#2"]);
});

test("a row is a share of its peak, in squares of steps", () => {
  const packed = {
    grid: [1, 2], heads: 1, mean_only: false,
    levels: base64(Uint8Array.of(255, 0, 51, 255, 0, 255, 255, 102)),
    peaks: base64(Float32Array.of(0.5, 0.25, 1, 0.75)),
    sums: base64(Float32Array.of(0.5, 0.26, 1, 0.87)),
  };
  const rows = unpack(packed);
  assert.equal(rows.rows, 2);
  assert.deepEqual([...rowOf(rows, 0, 0)], [0.5, 0]);
  assert.deepEqual([...rowOf(rows, 0, 1)], [Math.fround(0.01), 0.25]);
  assert.deepEqual([...rowOf(rows, 1, 1)], [0.75, Math.fround(0.12)]);
  assert.throws(() => unpack({ ...packed, levels: base64(Uint8Array.of(255, 0, 51)) }), /incomplete/);
});
