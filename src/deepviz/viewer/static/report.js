// The report: its data lie in the page, what is large in an element for each image and row, which may not be parsed yet.

import { contents } from "./contents.js";
import { showEmbedded } from "./embedded.js";

const parsed = new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));

async function stored(id) {
  const found = () => document.getElementById(id);
  // an element is whole once another follows
  if (document.readyState === "loading" && !found()?.nextElementSibling) await parsed;
  const text = found().textContent;
  found().textContent = "";
  return JSON.parse(text);
}

function once(ask) {
  let answer = null;
  return () => (answer ??= ask());
}

const data = JSON.parse(document.getElementById("data").textContent);
data.photographs.forEach((photograph) => {
  const ask = () => stored(`image-${photograph.id}`);
  photograph.source = photograph.slices ? once(ask) : ask; // each slice is opened when it is shown
});
data.rows.forEach(({ tiles }, n) => {
  const maps = once(() => stored(`maps-${n}`));
  tiles.forEach(({ record }, k) => {
    if (record) record.map.data = async () => (await maps())[k];
    if (record?.errors) record.errors.data = async () => (await maps())[tiles.length + k];
  });
});
globalThis.comparison = showEmbedded(document.getElementById("comparison"), data);
contents(document.getElementById("contents"), globalThis.comparison, data);
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
