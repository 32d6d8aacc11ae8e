// Where the tiles of a grid of any length lie, and which of them can be seen.

const GAP = 12;
const HIGHEST = 12e6; // pixels of an element that browsers lay out; a longer grid moves faster than its scroll bar

/**
 * @typedef {object} Tiling
 * @property {number} count  Of tiles.
 * @property {number} columns
 * @property {number} side  Width of a tile, in pixels.
 * @property {number} pitch  From one row of tiles to the next, in pixels.
 * @property {number} height  Of the grid.
 * @property {number} scrolled  Height of the element that is scrolled.
 * @property {number} seen  Height of what is seen at a time.
 */

/**
 * As many columns as have room.
 * @param {{count: number, width: number, seen: number, least: number, caption: number}} given
 * `width` and `seen`: of the box; `least`: width of a tile; `caption`: height of what is written below its picture.
 * @returns {Tiling}
 */
export function tiling({ count, width, seen, least, caption }) {
  const columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  const side = Math.max(1, Math.floor((width - GAP * (columns - 1)) / columns));
  const pitch = side + caption + GAP;
  const height = Math.max(0, Math.ceil(count / columns) * pitch - GAP);
  return { count, columns, side, pitch, height, scrolled: Math.min(height, HIGHEST), seen };
}

// How far down the grid a scroll position is.
export function depth({ height, scrolled, seen }, top) {
  if (height <= scrolled || scrolled <= seen) return top;
  return (Math.min(Math.max(top, 0), scrolled - seen) / (scrolled - seen)) * (height - seen);
}

function topAt({ height, scrolled, seen }, down) {
  return height <= scrolled || scrolled <= seen ? down : (down / (height - seen)) * (scrolled - seen);
}

/**
 * The tiles that can be seen, from the first to before the last, with some rows beyond.
 * @param {Tiling} tiles
 * @param {number} top  The scroll position.
 * @param {{beyond?: number, below?: number}} more  Rows of tiles above and below, and pixels below.
 */
export function visible(tiles, top, { beyond = 0, below = 0 } = {}) {
  const down = depth(tiles, top);
  const first = Math.max(0, Math.floor(down / tiles.pitch) - beyond) * tiles.columns;
  const last = (Math.floor((down + tiles.seen + below) / tiles.pitch) + 1 + beyond) * tiles.columns;
  return { first: Math.min(first, tiles.count), last: Math.min(last, tiles.count) };
}

/**
 * The place of a tile in the element that is scrolled.
 * @param {Tiling} tiles
 * @param {number} index
 * @param {number} top  The scroll position.
 */
export function placeOf(tiles, index, top) {
  const x = (index % tiles.columns) * (tiles.side + GAP);
  const y = Math.floor(index / tiles.columns) * tiles.pitch - depth(tiles, top) + top;
  return { x, y: Math.round(y) };
}

/**
 * The scroll position at which a tile is seen whole, as near as can be to the present one.
 * @param {Tiling} tiles
 * @param {number} index
 * @param {number} top
 */
export function revealing(tiles, index, top) {
  const down = depth(tiles, top);
  const start = Math.floor(index / tiles.columns) * tiles.pitch;
  const end = start + tiles.pitch - GAP;
  if (start < down) return topAt(tiles, start);
  if (end > down + tiles.seen) return topAt(tiles, Math.min(start, end - tiles.seen));
  return top;
}

/**
 * Where a key leads to from a tile; undefined for other keys.
 * @param {Tiling} tiles
 * @param {number} index
 * @param {string} key
 */
export function step(tiles, index, key) {
  const { columns, count } = tiles;
  const rows = Math.max(1, Math.floor(tiles.seen / tiles.pitch));
  const to = {
    ArrowLeft: index - 1, ArrowRight: index + 1, ArrowUp: index - columns, ArrowDown: index + columns,
    PageUp: index - rows * columns, PageDown: index + rows * columns, Home: 0, End: count - 1,
  }[key];
  if (to === undefined || !count) return undefined;
  if (key === "ArrowUp" && to < 0) return index;
  if (key === "ArrowDown" && to >= count) return Math.floor(index / columns) === Math.floor((count - 1) / columns) ? index : count - 1;
  return Math.min(Math.max(to, 0), count - 1);
}
