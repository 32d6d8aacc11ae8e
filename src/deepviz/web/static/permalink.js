// The view that a link shows, as far as what it names is still there.

import { BY } from "./columns.js";
import { known, view } from "./state.js";

export { keep, read, recall, write } from "./address.js";

export const TABS = ["compare", "inside", "trust"];

// Show what a link says, as far as it is still there; whether it said anything. `lost` is told if images are not.
export function restore(said, lost) {
  if (!said) return false;
  const there = new Set(known.photographs.map((one) => one.id));
  const strings = (list) => (Array.isArray(list) ? list.filter((one) => typeof one === "string") : []);
  if (known.models.some((model) => model.id === said.model)) view.model = said.model;
  const wanted = strings(said.photographs);
  const kept = wanted.filter((id) => there.has(id));
  if (kept.length < wanted.length) lost("Some images in this link are no longer on the server: upload them again.");
  if (kept.length) view.photographs = kept;
  if (typeof said.active === "string") view.active = said.active;
  for (const [id, indices] of Object.entries(said.targets ?? {})) {
    if (there.has(id) && Array.isArray(indices)) view.targets[id] = indices.filter(isTarget).slice(0, 20);
  }
  if (Array.isArray(said.methods)) {
    const methods = said.methods.filter((one) => typeof one?.name === "string");
    if (methods.length) view.methods = methods.map(({ name, options }) => ({ name, options: asText(options) }));
  }
  if (typeof said.layer === "string") view.layer = said.layer;
  if (Object.hasOwn(BY, said.by)) view.by = said.by;
  if (said.versus === "next" || Number.isInteger(said.versus)) view.versus = said.versus;
  const [one, other, ...more] = strings(said.difference);
  if (other && !more.length) view.difference = [one, other];
  view.layers = strings(said.layers);
  if (typeof said.inside === "string") view.inside = said.inside;
  if (["channels", "attention"].includes(said.of)) view.of = said.of;
  if (TABS.includes(said.tab)) view.tab = said.tab;
  view.look = said.look ?? null;
  return true;
}

// A class by its index, or an expression such as "logit(281) - logit(282)".
const isTarget = (one) => (Number.isInteger(one) && one >= 0) || (typeof one === "string" && one.length > 0 && one.length <= 300);

// Options as forms hold them: text. What a link has otherwise is not one of ours.
function asText(options) {
  const plain = Object.entries(options ?? {}).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  return Object.fromEntries(plain.map(([name, value]) => [name, String(value)]));
}
