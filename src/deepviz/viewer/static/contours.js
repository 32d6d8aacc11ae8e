// Lines of equal value, smooth enough to read.

const CELLS = 72;

// Levels, as shares of the scale, that lines are drawn at.
export const LINES = [0.25, 0.5, 0.75];

// The placed map in about CELLS × CELLS means, blurred where it is a map of single pixels; NaN where the model did not
// look. `top` is the largest magnitude.
export function field(placed, width, height, fine) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / CELLS));
  const columns = Math.ceil(width / step);
  const rows = Math.ceil(height / step);
  let cells = new Float32Array(columns * rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      let count = 0;
      for (let y = row * step; y < Math.min(height, (row + 1) * step); y++) {
        for (let x = column * step; x < Math.min(width, (column + 1) * step); x++) {
          const value = placed[y * width + x];
          if (Number.isNaN(value)) continue;
          sum += value;
          count += 1;
        }
      }
      cells[row * columns + column] = count ? sum / count : NaN;
    }
  }
  for (let pass = 0; fine && pass < 6; pass++) {
    cells = blurred(cells, columns, rows, pass % 2 ? [0, 1] : [1, 0]);
  }
  const top = cells.reduce((most, value) => Math.max(most, Number.isNaN(value) ? 0 : Math.abs(value)), 0);
  return { cells, columns, rows, step, top };
}

// Each cell the mean of itself and its two neighbours across or down, as far as they were seen.
function blurred(cells, columns, rows, [right, down]) {
  return cells.map((own, i) => {
    if (Number.isNaN(own)) return own;
    const column = i % columns;
    const row = Math.floor(i / columns);
    let sum = own;
    let count = 1;
    for (const way of [-1, 1]) {
      const [c, r] = [column + way * right, row + way * down];
      const value = c < 0 || r < 0 || c >= columns || r >= rows ? NaN : cells[r * columns + c];
      if (Number.isNaN(value)) continue;
      sum += value;
      count += 1;
    }
    return sum / count;
  });
}

// The line where a field has a value, by marching squares: a Path2D in pixels of the photograph.
export function line({ cells, columns, rows, step }, value) {
  const path = new Path2D();
  const x = (column) => (column + 0.5) * step;
  const between = (a, b) => (value - a) / (b - a);
  for (let row = 0; row + 1 < rows; row++) {
    for (let column = 0; column + 1 < columns; column++) {
      const i = row * columns + column;
      const [a, b, c, d] = [cells[i], cells[i + 1], cells[i + columns + 1], cells[i + columns]];
      if (Number.isNaN(a + b + c + d)) continue;
      const kind = Number(a > value) | (Number(b > value) << 1) | (Number(c > value) << 2) | (Number(d > value) << 3);
      if (kind === 0 || kind === 15) continue;
      const top = () => [x(column + between(a, b)), x(row)];
      const right = () => [x(column + 1), x(row + between(b, c))];
      const bottom = () => [x(column + between(d, c)), x(row + 1)];
      const left = () => [x(column), x(row + between(a, d))];
      for (const [from, to] of EDGES[kind]) {
        const sides = [top, right, bottom, left];
        const [begin, end] = [sides[from](), sides[to]()];
        path.moveTo(begin[0], begin[1]);
        path.lineTo(end[0], end[1]);
      }
    }
  }
  return path;
}

// Of each kind of cell, which sides (top, right, bottom, left) a line joins.
const EDGES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];
