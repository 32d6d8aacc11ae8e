// One stop of the Tab key for a list: arrow keys, Home and End move within it.

// `move(element, key)`: the element that a key leads to from another, or null; `elements()`: those there are, in order.
export function rove(holder, { elements, move = null, keys = {} }) {
  holder.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = event.target.closest("[role=option], [role=treeitem]");
    if (!here) return;
    if (event.key in keys) {
      event.preventDefault();
      keys[event.key](here);
      return;
    }
    const next = move ? move(here, event.key) : step(elements(), here, event.key);
    if (next === undefined) return;
    event.preventDefault();
    if (next) focusOn(elements(), next);
  });
}

function step(all, here, key) {
  const at = all.indexOf(here);
  const to = { ArrowUp: at - 1, ArrowLeft: at - 1, ArrowDown: at + 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[key];
  return to === undefined ? undefined : (all[to] ?? null);
}

export function focusOn(all, next) {
  for (const one of all) one.tabIndex = one === next ? 0 : -1;
  next.focus();
}

// That exactly one can be reached: the one that had the focus, else `preferred`, else the first.
export function reachable(all, preferred) {
  const one = all.find((each) => each === document.activeElement) ?? preferred ?? all[0];
  for (const each of all) each.tabIndex = each === one ? 0 : -1;
}
