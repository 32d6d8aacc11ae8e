import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULTS, settingsFrom } from "../viewer/settings.js";

test("what a link has that is no setting is left out", () => {
  assert.deepEqual(settingsFrom(null), { ...DEFAULTS });
  const odd = { view: "toString", opacity: 2, threshold: -1, colours: "no such", contours: "yes", other: 1 };
  assert.deepEqual(settingsFrom(odd), { ...DEFAULTS });
});

test("settings are kept", () => {
  const found = settingsFrom({ view: "map", opacity: 0.25, threshold: 90, contours: true, sign: "positive", scale: "own", size: "l" });
  assert.deepEqual(found, { ...DEFAULTS, view: "map", opacity: 0.25, threshold: 90, contours: true, sign: "positive", scale: "own", size: "l" });
  assert.deepEqual(settingsFrom(found), found);
});
