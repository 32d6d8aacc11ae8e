import assert from "node:assert/strict";
import { test } from "node:test";

import { asPython, conditions, EVERYTHING, parameters, quoted, thumbnailOf, viewFrom } from "../static/query.js";

const view = (part) => ({ ...EVERYTHING, rank: -1, ...part });

test("every choice is a condition of its own, what was typed first", () => {
  const all = view({ where: " deletion < 0.3 ", label: "cat", prediction: "dog", correct: "wrong", warnings: true, failures: true, method: "grad-cam", rank: 1 });
  assert.deepEqual(conditions(all), [
    "deletion < 0.3", 'method == "grad-cam" or method == None', "rank == 1 or rank == None", 'label == "cat"',
    'prediction == "dog"', "not correct", "warnings", "failure",
  ]);
  assert.deepEqual(conditions(view({})), []);
});

test("names are texts of Python, whatever is in them", () => {
  assert.equal(quoted('a "b" \\ c'), '"a \\"b\\" \\\\ c"');
  assert.equal(quoted("Füchse\n狐"), '"F\\u00fcchse\\n\\u72d0"');
});

test("rows are asked for with all conditions and one order", () => {
  const asked = parameters(view({ where: "correct", label: "a&b", sort: "probability", descending: true }));
  assert.deepEqual(asked.getAll("where"), ["correct", 'label == "a&b"']);
  assert.equal(asked.get("sort"), "probability");
  assert.equal(parameters(view({})).toString(), "");
});

test("the filter as Python is one condition", () => {
  assert.equal(asPython("/runs/a", view({})), 'import deepviz\n\nrun = deepviz.Run("/runs/a")\n');
  assert.match(asPython("a", view({ correct: "correct", where: "a or b" })), /\.where\("\(a or b\) and correct"\)/);
  assert.match(asPython("a", view({ label: "x" })), /\.where\("label == \\"x\\""\)/);
});

test("a link opens what there is of it", () => {
  const known = { methods: ["grad-cam", "gradient"], sortable: ["image", "probability"], ranks: 2 };
  assert.equal(viewFrom(null, known).method, "grad-cam");
  const said = { method: "gradient", sort: "probability", descending: true, where: "correct", open: 7, rank: 1, correct: "wrong" };
  assert.deepEqual(viewFrom(said, known), { ...EVERYTHING, ...said });
  const wrong = { method: "gone", sort: "nothing", descending: 1, where: 3, open: -4, rank: 2, correct: "toString", label: null, tab: "x" };
  assert.deepEqual(viewFrom(wrong, known), { ...EVERYTHING, method: "grad-cam" });
  assert.equal(viewFrom({ method: "" }, known).method, "");
});

test("a picture is asked for by what tells its row from others", () => {
  assert.equal(thumbnailOf({ index: 7, method: "grad-cam", rank: 0, input: "" }, 192), "run/images/7/thumbnail?size=192&method=grad-cam");
  const other = { index: 7, method: "a(b=1)", rank: 2, input: "x['left']" };
  assert.equal(new URLSearchParams(thumbnailOf(other, 192).split("?")[1]).get("input"), "x['left']");
});
