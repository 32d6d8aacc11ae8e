// The layers of a network: which are offered, and in which order.

/** @typedef {import("./state.js").Layer} Layer */

// What only pads or hands on shows nothing of its own.
const IDLE = /^(Identity|(Zero|Constant|Reflection|Replication|Circular)Pad[123]d)$/;

export const offeredLayers = (rows) => rows.filter((row) => row.default || !IDLE.test(row.type));

// What a layer is called where people read it; its name alone, once the tree does not have it.
export const titleOf = (tree, name) => tree?.layers.find((row) => row.layer === name)?.title ?? name;

/**
 * A layer's grid in words: width × height of an image, depth × height × width of a volume.
 * @param {number[]} grid
 */
export const sizeOf = (grid) => (grid.length === 2 ? grid.toReversed() : grid).join(" × ");

// The layers that a slider stops at: few enough to aim at, from fine to coarse. All others are in the list below it.
export function stops(layers) {
  const usable = layers.filter((row) => row.usable);
  const outer = usable.filter((row) => row.depth <= 1);
  return fineToCoarse(outer.length >= 4 ? outer : usable);
}

export function fineToCoarse(rows) {
  const cells = (row) => (row.grid ? row.grid.reduce((product, side) => product * side, 1) : 0);
  return rows.toSorted((a, b) => cells(b) - cells(a));
}

// The layers that are columns at first: of each resolution the default layer, or the last that is called once. Where
// there is hardly more than one resolution, as of tokens, some evenly apart.
export function firstLayers(tree) {
  const rows = stops(tree.layers);
  const last = new Map();
  for (const row of rows) {
    const before = last.get(String(row.grid));
    if (!before || (!before.default && (row.default || !row.layer.includes("#")))) last.set(String(row.grid), row);
  }
  if (last.size > 2) return [...last.values()].map((row) => row.layer).slice(-5);
  const apart = new Set([0, 1, 2, 3].map((k) => Math.round((k * (rows.length - 1)) / 3)));
  return rows.filter((row, n) => row.default || apart.has(n)).map((row) => row.layer);
}

// The last of the outer layers that is no activation: many channels behind one have no slope on noise to be drawn by.
export function lastDrawable(layers) {
  const outer = layers.filter((row) => row.depth <= 1 && row.usable);
  return (outer.findLast((row) => !/relu|swish|silu|gelu|elu|act/i.test(`${row.type} ${row.layer}`)) ?? outer.at(-1) ?? layers.at(-1))?.layer;
}
