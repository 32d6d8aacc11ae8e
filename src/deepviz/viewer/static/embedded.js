// Data that came with the page: `embedded` in deepviz/viewer/reports.py writes them.

import { Comparison } from "./comparison.js";

export function showEmbedded(holder, { photographs, rows }, options) {
  const comparison = new Comparison(holder, { lazy: true, ...options });
  comparison.show(
    rows.map((row, i) => ({
      ...row,
      id: String(i),
      photograph: photographs[row.photograph],
      tiles: row.tiles.map((tile, k) => ({ ...tile, id: `${i} ${k}` })),
    })),
  );
  return comparison;
}
