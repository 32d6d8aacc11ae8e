import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = { pathname: "/" };
const { read, restore, write } = await import("../static/permalink.js");
const { known, view } = await import("../static/state.js");

known.models = [{ id: "small" }];
known.photographs = [{ id: "a", name: "a.png" }, { id: "b", name: "b.png" }];

const lost = () => assert.fail("no image is lost");

test("a link holds the view and no token", () => {
  const said = { model: "small", targets: { a: ["logit(1) - logit(2)"] }, name: "Füchse 狐" };
  const link = write(said);
  assert.deepEqual(read(link), { token: "", view: said });
  assert.match(link, /^#view=[A-Za-z0-9_-]+$/);
  assert.deepEqual(read("#token=secret"), { token: "secret", view: null });
});

test("a link that was cut off opens the usual page", () => {
  const link = write({ model: "small", photographs: ["a", "b"] });
  assert.equal(read(link.slice(0, -9)).view, null);
  assert.equal(restore(null, lost), false);
});

test("what is restored is what there is", () => {
  const said = {
    model: "small", photographs: ["b"], active: "b", targets: { b: [3, -1, "logit(1)", null, 2.5], gone: [1] },
    methods: [{ name: "gradient", options: { steps: 3, deep: { a: 1 } } }, {}], by: "layers", versus: "next",
    layers: ["2", 5], difference: ["x", "y"], tab: "trust", look: { zoom: 2 },
  };
  assert.equal(restore(said, lost), true);
  assert.deepEqual(view.photographs, ["b"]);
  assert.deepEqual(view.targets, { b: [3, "logit(1)"] });
  assert.deepEqual(view.methods, [{ name: "gradient", options: { steps: "3" } }]);
  assert.deepEqual([view.by, view.versus, view.layers, view.tab], ["layers", "next", ["2"], "trust"]);
  assert.deepEqual(view.difference, ["x", "y"]);
});

test("what a link has that cannot be is left as it was", () => {
  const before = structuredClone({ ...view, look: null });
  restore({ model: "none", by: "toString", tab: "x", versus: -0.5, difference: ["x"], photographs: 7, methods: [] }, lost);
  assert.deepEqual({ ...view, look: null, layers: before.layers }, before);
});

test("images that are gone are told", () => {
  let told = "";
  restore({ photographs: ["a", "gone"] }, (text) => (told = text));
  assert.match(told, /no longer on the server/);
  assert.deepEqual(view.photographs, ["a"]);
});
