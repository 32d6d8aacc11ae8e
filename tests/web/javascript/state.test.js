import assert from "node:assert/strict";
import { test } from "node:test";

import { choosable, columns, difference, fillColumns, requests, targetIn } from "../static/columns.js";
import { firstLayers, offeredLayers, titleOf } from "../static/layers.js";
import { info, known, method, view } from "../static/state.js";

const row = (layer, grid, more = {}) => ({ layer, title: layer, type: "Conv2d", depth: 0, grid, usable: true, default: false, ...more });
known.tree = { default: "act#2", layers: [row("a", [8, 8]), row("b", [4, 4]), row("act#2", [4, 4], { title: "ReLU after b", default: true })] };
known.methods = [
  { name: "gradient", title: "Gradient", options: [] },
  { name: "cam", title: "CAM", options: [{ name: "layer" }] },
];
known.models = [{ id: "one", name: "One" }, { id: "two", name: "Two" }];
known.photographs = [{ id: "p", name: "p.png" }];
Object.assign(view, { model: "one", photographs: ["p"], methods: [{ name: "gradient" }, { name: "cam" }] });

test("what is known is found by its name", () => {
  assert.equal(info("p").name, "p.png");
  assert.equal(method("cam").title, "CAM");
  assert.equal(titleOf(known.tree, "act#2"), "ReLU after b");
  assert.equal(titleOf(known.tree, "gone"), "gone");
});

test("columns are methods, layers or models", () => {
  view.by = "methods";
  assert.deepEqual(columns().map((one) => one.title), ["Gradient", "CAM"]);
  view.by = "layers";
  view.layers = [];
  fillColumns();
  assert.deepEqual(view.layers, firstLayers(known.tree));
  view.layers = ["b", "act#2"];
  assert.deepEqual(columns().map((one) => one.title), ["CAM, b", "CAM, ReLU after b"], "a layer by its title");
  assert.deepEqual(columns().map((one) => one.layer), ["b", "act#2"], "and asked for by its name");
  view.by = "models";
  assert.equal(columns().length, 4);
  view.by = "methods";
});

test("a difference is of two columns that are there", () => {
  const [first, second] = choosable().map((one) => one.key);
  view.difference = [first, second];
  assert.equal(difference().title, "Gradient − CAM");
  view.difference = [first, "gone"];
  assert.equal(difference(), null);
  view.difference = null;
});

test("a contrast is asked for as an expression, and not with itself", () => {
  const column = { ...columns()[0], versus: 3 };
  assert.equal(targetIn("p", 5, column), "logit(5) - logit(3)");
  assert.equal(targetIn("p", 3, column), null);
});

test("one request is of one model and layer", { skip: !Map.groupBy && "this node has no Map.groupBy" }, () => {
  view.by = "models";
  assert.deepEqual(requests(columns()).map((group) => group[0].model).toSorted(), ["one", "two"]);
  view.by = "methods";
});

test("modules that pad or hand on are not offered, unless they are the default", () => {
  const rows = [row("i", [4, 4], { type: "Identity" }), row("z", [4, 4], { type: "ZeroPad2d" }), row("c", [4, 4])];
  assert.deepEqual(offeredLayers(rows).map((one) => one.layer), ["c"]);
  assert.equal(offeredLayers([{ ...rows[0], default: true }]).length, 1);
});
