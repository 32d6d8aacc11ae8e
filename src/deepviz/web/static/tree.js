// The layers of a network as a tree that folds: one stop of the Tab key, arrow keys within.

import { $, element, focusedIn } from "./elements.js";
import { focusOn, reachable, rove } from "./roving.js";

const parentOf = (layer) => layer.slice(0, Math.max(0, layer.lastIndexOf(".")));

// Within its parent's branch a layer needs no more than the last part of its name.
const shortTitle = (row) => (row.title === row.layer ? row.layer.split(".").pop() : row.title.replace(`${parentOf(row.layer)}.`, ""));

export class LayerTree {
  #rows = [];
  #open = null;
  #chosen = "";

  // `choose` is given a layer's name.
  constructor(choose) {
    this.choose = choose;
    this.holder = $("tree");
    this.filter = $("tree-filter");
    this.filter.addEventListener("input", () => this.#draw());
    this.holder.addEventListener("click", (event) => {
      const line = event.target.closest("[role=treeitem]");
      if (!line) return;
      if (event.target.closest(".fold") || line.getAttribute("aria-disabled") === "true") this.#fold(line.dataset.layer);
      else this.#take(line.dataset.layer);
    });
    rove(this.holder, {
      elements: () => [...this.holder.children],
      keys: {
        Enter: (line) => this.#enter(line),
        " ": (line) => this.#enter(line),
        ArrowRight: (line) => this.#way(line, true),
        ArrowLeft: (line) => this.#way(line, false),
      },
    });
  }

  show(rows, chosen) {
    if (rows !== this.#rows) {
      this.#rows = rows;
      this.parents = new Set(rows.map((row) => parentOf(row.layer)));
      this.#open = new Set(rows.filter((row) => row.depth === 0).map((row) => row.layer));
      const few = rows.filter((row) => row.depth <= 1).length;
      if (few > 40) this.#open.clear();
    }
    if (chosen !== this.#chosen) {
      this.#chosen = chosen ?? "";
      for (let name = parentOf(this.#chosen); name; name = parentOf(name)) this.#open.add(name);
    }
    this.#draw();
    this.holder.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  #enter(line) {
    if (line.getAttribute("aria-disabled") === "true") this.#fold(line.dataset.layer);
    else this.#take(line.dataset.layer);
  }

  // As the keys of a tree are expected: right opens, then goes in; left closes, then goes out.
  #way(line, right) {
    const name = line.dataset.layer;
    const all = [...this.holder.children];
    const open = line.getAttribute("aria-expanded");
    if (right && open === "false") this.#fold(name);
    else if (right && open === "true") focusOn(all, all[all.indexOf(line) + 1] ?? line);
    else if (!right && open === "true") this.#fold(name);
    else if (!right) {
      const parent = all.find((one) => one.dataset.layer === parentOf(name));
      if (parent) focusOn(all, parent);
    }
  }

  #fold(name) {
    if (!this.parents.has(name)) return;
    if (!this.#open.delete(name)) this.#open.add(name);
    this.#draw();
  }

  #take(name) {
    this.choose(name);
  }

  #draw() {
    const wanted = this.filter.value.trim().toLowerCase();
    const open = (row) => {
      for (let name = parentOf(row.layer); name; name = parentOf(name)) if (!this.#open.has(name)) return false;
      return true;
    };
    const rows = this.#rows.filter((row) => (wanted ? `${row.layer} ${row.title} ${row.type}`.toLowerCase().includes(wanted) : open(row)));
    const focused = focusedIn(this.holder)?.dataset.layer;
    this.holder.replaceChildren(...rows.map((row) => this.#line(row, Boolean(wanted))));
    const lines = [...this.holder.children];
    reachable(lines, lines.find((line) => line.dataset.layer === focused) ?? lines.find((line) => line.getAttribute("aria-selected") === "true"));
    if (focused) lines.find((line) => line.dataset.layer === focused)?.focus({ preventScroll: true });
    $("tree-none").hidden = rows.length > 0;
  }

  #line(row, flat) {
    const parent = !flat && this.parents.has(row.layer);
    const open = this.#open.has(row.layer);
    const line = element(
      "li",
      {
        role: "treeitem",
        class: `depth-${flat ? 0 : Math.min(row.depth, 5)}`,
        "aria-level": String(flat ? 1 : row.depth + 1),
        "aria-selected": String(row.layer === this.#chosen),
        "data-layer": row.layer,
        title: row.grid ? `${row.layer}: ${row.parameters.toLocaleString("en")} parameters` : `${row.layer}: ${row.reason}`,
      },
      element("span", { class: "fold", "aria-hidden": "true" }, parent ? (open ? "▾" : "▸") : ""),
      element("span", { class: "layer" }, flat ? row.title : shortTitle(row)),
      " ",
      element("span", { class: "type" }, row.type),
      " ",
      element("span", { class: "shape" }, row.output ? row.output.slice(1).join(" × ") : ""),
    );
    if (parent) line.setAttribute("aria-expanded", String(open));
    if (!row.grid) line.setAttribute("aria-disabled", "true");
    return line;
  }
}
