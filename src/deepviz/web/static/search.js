// Finding a class: by its number, its name, or a name that is near.

import { $, element, percent } from "./elements.js";

const MOST = 8;

// The classes that a text may mean, the likeliest first: pairs of an index and how far it is.
export function near(labels, text, most = MOST) {
  const wanted = text.trim().toLowerCase();
  const numbered = wanted.match(/^(\d+)$|\((\d+)\)$/);
  if (numbered) {
    const index = Number(numbered[1] ?? numbered[2]);
    return labels.length && index >= labels.length ? [] : [index];
  }
  if (!wanted) return [];
  const found = labels.map((label, index) => [index, distance(label.toLowerCase(), wanted)]).filter(([, far]) => far < Infinity);
  return found.toSorted((a, b) => a[1] - b[1]).slice(0, most).map(([index]) => index);
}

// 0 for the same name, below 1 for one that begins so, below 2 for one that holds it, above for slips of the pen.
function distance(label, wanted) {
  if (label === wanted) return 0;
  const length = label.length / 1000;
  if (label.startsWith(wanted)) return 0.1 + length;
  const words = label.split(/[^\p{L}\p{N}]+/u);
  if (words.some((word) => word.startsWith(wanted))) return 1 + length;
  if (label.includes(wanted)) return 1.5 + length;
  const parts = wanted.split(/\s+/);
  if (parts.length > 1 && parts.every((part) => label.includes(part))) return 1.8 + length;
  const allowed = Math.min(3, Math.floor(wanted.length / 3));
  if (!allowed) return Infinity;
  const slips = Math.min(edits(label, wanted, allowed), ...words.map((word) => edits(word, wanted, allowed)));
  return slips <= allowed ? 2 + slips + length : Infinity;
}

// Letters to insert, drop, change or swap; anything above `most` is as good as Infinity.
function edits(a, b, most) {
  if (Math.abs(a.length - b.length) > most) return Infinity;
  let [before, row] = [[], Array.from({ length: b.length + 1 }, (_, n) => n)];
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let k = 1; k <= b.length; k++) {
      const same = a[i - 1] === b[k - 1];
      next[k] = Math.min(row[k] + 1, next[k - 1] + 1, row[k - 1] + (same ? 0 : 1));
      if (i > 1 && k > 1 && a[i - 1] === b[k - 2] && a[i - 2] === b[k - 1]) next[k] = Math.min(next[k], before[k - 2] + 1);
    }
    [before, row] = [row, next];
  }
  return row[b.length];
}

export class ClassSearch {
  #found = [];
  #at = -1;

  // `labels()`: of the model; `chances()`: a promise of each class's probability; `choose(index)`; `refuse(text)`.
  constructor({ labels, chances, choose, refuse }) {
    this.labels = labels;
    this.chances = chances;
    this.choose = choose;
    this.refuse = refuse;
    this.input = $("class-name");
    this.list = $("class-found");
    this.input.addEventListener("input", () => this.#look());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("blur", () => this.#close());
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.list.addEventListener("click", (event) => {
      const line = event.target.closest("[role=option]");
      if (line) this.#take(Number(line.dataset.index));
    });
    $("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter();
    });
  }

  async #look() {
    const text = this.input.value;
    this.#show(near(this.labels(), text), []);
    if (!this.#found.length) return;
    const chances = await this.chances();
    if (this.input.value === text && !this.list.hidden) this.#show(this.#found, chances);
  }

  #show(found, chances) {
    this.#found = found;
    this.#at = Math.min(this.#at, found.length - 1);
    this.list.replaceChildren(
      ...found.map((index, n) =>
        element(
          "li",
          { role: "option", id: `class-found-${n}`, "data-index": String(index), "aria-selected": "false" },
          element("span", { class: "label" }, this.labels()[index] ?? `class ${index}`),
          element("span", { class: "chance" }, chances[index] === undefined ? "" : percent(chances[index])),
        ),
      ),
    );
    this.list.hidden = !found.length;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.#mark();
  }

  #mark() {
    [...this.list.children].forEach((line, n) => line.setAttribute("aria-selected", String(n === this.#at)));
    if (this.#at >= 0) this.input.setAttribute("aria-activedescendant", `class-found-${this.#at}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && !this.list.hidden) this.#close();
    else if (way && this.#found.length) {
      event.preventDefault();
      this.#at = (this.#at + way + this.#found.length) % this.#found.length;
      this.#mark();
    }
  }

  #enter() {
    const [first] = this.#at >= 0 ? [this.#found[this.#at]] : near(this.labels(), this.input.value);
    if (first === undefined) this.refuse(this.input.value.trim());
    else this.#take(first);
  }

  #take(index) {
    this.input.value = "";
    this.#close();
    this.choose(index);
  }

  #close() {
    this.#at = -1;
    this.#show([], []);
  }
}
