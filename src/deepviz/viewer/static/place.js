// A map at the pixels of a photograph: the arithmetic of deepviz/render/overlay.py, in the same order.

// The part of a photograph that the model saw, once the photograph is `width` × `height`.
export function scaledBox(geometry, width, height) {
  const across = width / geometry.size[0];
  const down = height / geometry.size[1];
  const [left, top, right, bottom] = geometry.box;
  return [left * across, top * down, right * across, bottom * down];
}

// Weights that sample `cells` values linearly at each of `pixels` pixels, between `from` and `to` of which they lie.
function sampling(pixels, from, to, cells) {
  const start = new Int32Array(pixels);
  const weights = [];
  const seen = new Uint8Array(pixels);
  const fraction = (i) => (i + 0.5 - from) / (to - from);
  const step = pixels > 1 ? Math.abs(fraction(1) - fraction(0)) * cells : cells;
  const reach = Math.max(1, step);
  for (let i = 0; i < pixels; i++) {
    const share = fraction(i);
    seen[i] = share >= 0 && share <= 1 ? 1 : 0;
    const nearest = Math.min(Math.max(share * cells - 0.5, 0), cells - 1);
    const first = Math.max(0, Math.floor(nearest - reach) + 1);
    const last = Math.min(cells - 1, Math.ceil(nearest + reach) - 1);
    const row = [];
    let sum = 0;
    for (let k = first; k <= last; k++) {
      const weight = Math.max(0, 1 - Math.abs(nearest - k) / reach);
      row.push(weight);
      sum += weight;
    }
    start[i] = first;
    weights.push(Float32Array.from(row, (weight) => weight / sum));
  }
  return { start, weights, seen };
}

// The map's values at the pixels of a photograph of `width` × `height`: Float32Array, NaN where the model did not look.
export function place(map, box, width, height) {
  const [left, top, right, bottom] = box;
  const columns = sampling(width, left, right, map.width);
  const rows = sampling(height, top, bottom, map.height);
  const placed = new Float32Array(width * height);
  const across = new Float32Array(map.width);
  for (let y = 0; y < height; y++) {
    const at = y * width;
    if (!rows.seen[y]) {
      placed.fill(NaN, at, at + width);
      continue;
    }
    sum(across, map, rows.weights[y], rows.start[y]);
    for (let x = 0; x < width; x++) {
      if (!columns.seen[x]) {
        placed[at + x] = NaN;
        continue;
      }
      const weights = columns.weights[x];
      const first = columns.start[x];
      let value = 0;
      for (let k = 0; k < weights.length; k++) value += weights[k] * across[first + k];
      placed[at + x] = value;
    }
  }
  return placed;
}

function sum(into, map, weights, first) {
  const { width, values } = map;
  for (let x = 0; x < width; x++) {
    let value = 0;
    for (let k = 0; k < weights.length; k++) value += weights[k] * values[(first + k) * width + x];
    into[x] = value;
  }
}
