// Which values the colours span, and where a percentile lies: as `Scale` in deepviz/render/colour.py.

// The q-th percentile of values in order, linearly between neighbours as numpy has it.
export function percentile(ordered, q) {
  const at = (q / 100) * (ordered.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, ordered.length - 1);
  return ordered[below] + (at - below) * (ordered[above] - ordered[below]);
}

export function magnitudes(values, signed) {
  return values.map((value) => (signed ? Math.abs(value) : Math.max(value, 0))).sort();
}

// One scale for several maps of which the magnitudes are known: { high }.
export function sharedHigh(ordered, quantile) {
  const all = new Float32Array(ordered.reduce((sum, one) => sum + one.length, 0));
  let at = 0;
  for (const one of ordered) {
    all.set(one, at);
    at += one.length;
  }
  all.sort();
  return percentile(all, quantile) || all[all.length - 1] || 1;
}

// Three digits, as short as they go.
export function digits(value, count = 2) {
  if (value === 0) return "0";
  return Number(value.toPrecision(count)).toString().replace("-", "−").replace("e−0", "e−");
}
