// What is compared: the columns and rows that the page's choices come to, and the requests that they take.

import { fineToCoarse, firstLayers, titleOf } from "./layers.js";
import { info, known, method, view } from "./state.js";

export const BY = { methods: "Methods", layers: "Layers", models: "Models" };

export const takesLayer = (one) => method(one.name)?.options.some((option) => option.name === "layer") || takesLayerInside(one);
const takesLayerInside = (one) => Boolean(one.options?.of && method(one.options.of)?.options.some((option) => option.name === "layer"));

// What can be columns: methods always, layers of methods that take one, models if there are several.
export function offered() {
  const there = { methods: true, layers: known.methods.some((one) => !one.reason && takesLayer({ name: one.name })), models: known.models.length > 1 };
  return Object.entries(BY).filter(([name]) => there[name]);
}

// A choice of columns is never empty.
export function fillColumns() {
  if (view.by !== "layers") return;
  if (!view.methods.some(takesLayer)) view.methods.push({ name: known.methods.find((one) => !one.reason && takesLayer({ name: one.name })).name });
  if (!view.layers.length) view.layers = firstLayers(known.tree);
}

// The columns: each a method with its options, by a model, at a layer; compared with another class, two of each.
export function columns() {
  if (view.versus === null) return plain();
  return plain().flatMap((one) => [one, { ...one, versus: view.versus, title: `${one.title}, minus ${versusName()}` }]);
}

// The columns that a difference can be of.
export const choosable = () => plain().map((one) => ({ ...one, key: columnKey(one) }));

// The column of a difference: its title, and the two columns; null without one.
export function difference() {
  if (view.difference === null) return null;
  const [one, other] = view.difference.map((key) => choosable().find((each) => each.key === key));
  return one && other && one !== other ? { title: `${one.title} − ${other.title}`, one, other } : null;
}

const versusName = () => (view.versus === "next" ? "next best class" : (known.labels[view.versus] ?? `class ${view.versus}`));

function plain() {
  if (view.by === "layers") {
    const layers = fineToCoarse(known.tree.layers.filter((row) => view.layers.includes(row.layer))).map((row) => row.layer);
    return view.methods.filter(takesLayer).flatMap((one) => layers.map((layer) => ({ ...one, model: view.model, layer, title: `${title(one)}, ${titleOf(known.tree, layer)}` })));
  }
  if (view.by === "models") {
    return view.methods.flatMap((one) => known.models.map((model) => ({ ...one, model: model.id, layer: null, title: `${title(one)}, ${model.name}` })));
  }
  return view.methods.map((one) => ({ ...one, model: view.model, layer: takesLayer(one) ? view.layer : null, title: title(one) }));
}

// What a column explains in the row of a target: the target, or what speaks for it and not for another class. Null where
// they are the same, or a difference already.
export function targetIn(photograph, target, one) {
  if (one.versus === undefined) return target;
  const other = one.versus === "next" ? classesOf(photograph).find((each) => each.index !== target)?.index : one.versus;
  if (typeof target !== "number" || other === undefined || other === target) return null;
  return `logit(${target}) - logit(${other})`;
}

export const columnKey = (one) => JSON.stringify([one.model, one.name, one.options ?? {}, one.layer]);
export const cellKey = (photograph, target, one) => `${photograph} ${target} ${columnKey(one)}`;

function title(one) {
  const changed = Object.entries(one.options ?? {}).map(([name, value]) =>
    name === "of" ? `of ${method(value)?.title ?? value}` : `${name.replaceAll("_", " ")} ${value}`,
  );
  return [method(one.name)?.title ?? one.name, ...changed].join(", ");
}

// The classes of an image; of a model of embeddings, which predicts none, how similar it is to each other image.
export function classesOf(photograph) {
  if (!modelShown()?.embeds) return known.classes.get(`${view.model} ${photograph}`) ?? [];
  const others = view.photographs.filter((id) => id !== photograph);
  return others.map((id) => ({ index: `similarity("${id}")`, label: `similar to ${info(id)?.name}`, probability: null }));
}

export const modelShown = () => known.models.find((one) => one.id === view.model);

/** @param {string} text */
export const textTarget = (text) => `text(${JSON.stringify(text)})`;
const textIn = (target) => /^text\(("(?:[^"\\]|\\.)*")\)$/.exec(target)?.[1];

export function targetsOf(photograph) {
  const pinned = view.targets[photograph];
  if (pinned?.length) return pinned;
  const best = classesOf(photograph)[0];
  return best ? [best.index] : [];
}

// What a row's target is called: a class or detection by its name, a difference of two by both names.
export function labelOf(photograph, target) {
  const listed = classesOf(photograph).find((each) => each.index === target);
  if (listed) return listed.label;
  if (typeof target === "number") return known.labels[target] ?? `class ${target}`;
  const text = textIn(target);
  if (text) return `“${JSON.parse(text)}”`;
  return target.replaceAll(/logit\((\d+)\)/g, (_, index) => labelOf(photograph, Number(index)));
}

export function rows() {
  return view.photographs.flatMap((photograph) => {
    const targets = targetsOf(photograph);
    return targets.map((target) => {
      const one = classesOf(photograph).find((each) => each.index === target);
      return {
        key: `${photograph} ${target}`,
        photograph: info(photograph),
        target,
        label: labelOf(photograph, target),
        probability: one?.probability ?? null,
      };
    });
  });
}

const slow = (one) => Number(method(one.name)?.options.some((option) => ["steps", "samples", "max_passes", "cells"].includes(option.name)) ?? false);

// What one request can ask for: columns of one model and layer, quick methods first.
export function requests(wanted) {
  const groups = Map.groupBy(wanted, (one) => JSON.stringify([one.model, one.layer, one.versus]));
  return [...groups.values()].map((group) => group.toSorted((a, b) => slow(a) - slow(b)));
}

export const asJob = (group, rows) => ({
  model: group[0].model,
  rows,
  methods: group.map(({ name, options }) => ({ name, options: options ?? {} })),
  layer: group[0].layer,
});

// Rows as a request has them, with what the columns of a group explain in each.
/**
 * @param {{photograph: {id: string}, target: import("./state.js").Target}[]} rows
 * @param {any[]} group
 */
export const byPhotograph = (rows, [one]) => {
  const photographs = Map.groupBy(rows, (row) => row.photograph.id);
  return [...photographs].map(([photograph, of]) => ({ photograph, targets: of.map((row) => targetIn(photograph, row.target, one)) }));
};
