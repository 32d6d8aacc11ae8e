// The images of the server, in a strip of fixed height: only those that can be seen are elements of the page.

import { picture } from "./api.js";
import { $, element, focusedIn, within } from "./elements.js";
import { rove } from "./roving.js";

const SIDE = 62; // pixels from one image to the next, of which GAP are empty
const GAP = 6;
const SHOWN = 2; // rows
const MANY = 12; // images, from which on they can be searched
const BEYOND = 2; // rows that are there though they cannot be seen

export class Strip {
  #all = [];
  #order = [];
  #shown = new Set();
  #active = "";
  #at = ""; // where the keyboard is
  #stale = false; // the order is not that of what is shown, until pointer and keyboard have left

  // `toggle`, `activate`, `only`, `remove` are given an image's id, `clear` nothing, `add` files.
  constructor({ toggle, activate, only, remove, clear, add }) {
    this.act = { toggle, activate };
    this.box = $("photographs");
    this.inner = element("div", { class: "strip-inner", role: "none" });
    this.box.append(this.inner);
    this.search = $("find-photograph");
    this.search.addEventListener("input", () => this.#sort(true));
    this.box.addEventListener("scroll", () => this.#draw());
    this.box.addEventListener("click", (event) => {
      const id = event.target.closest("[data-id]")?.dataset.id;
      if (id) this.#choose(id);
    });
    this.box.addEventListener("dblclick", (event) => {
      const id = event.target.closest("[data-id]")?.dataset.id;
      if (id) only(id);
    });
    rove(this.box, {
      elements: () => [...this.inner.children],
      move: (here, key) => this.#move(here.dataset.id, key),
      keys: { Delete: (here) => remove(here.dataset.id), Enter: (here) => this.#choose(here.dataset.id), " ": (here) => this.#choose(here.dataset.id) },
    });
    for (const gone of ["pointerleave", "focusout"]) this.box.addEventListener(gone, () => setTimeout(() => this.#settle()));
    new ResizeObserver(() => this.#draw()).observe(this.box);
    $("only").addEventListener("click", () => only(this.#active));
    $("remove").addEventListener("click", () => remove(this.#active));
    $("clear").addEventListener("click", clear);
    const input = $("file");
    input.addEventListener("change", () => {
      add([...input.files]);
      input.value = "";
    });
  }

  show(all, shown, active) {
    const fresh = all.length !== this.#all.length;
    this.#all = all;
    this.#shown = new Set(shown);
    this.#active = active;
    $("photographs-of").textContent = all.length ? `${shown.length} of ${all.length}` : "";
    $("photographs-search").hidden = all.length <= MANY;
    $("only").disabled = shown.length < 2;
    $("remove").disabled = !shown.includes(active);
    $("clear").disabled = shown.length === 0;
    if (fresh || !this.#used) this.#sort(fresh);
    else this.#stale = true;
    this.#draw();
  }

  // Bring an image into view.
  reveal(id) {
    const at = this.#order.findIndex((one) => one.id === id);
    if (at < 0) return;
    const top = Math.floor(at / this.#columns) * SIDE;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + SIDE > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + SIDE - this.box.clientHeight;
    this.#draw();
  }

  get #used() {
    return this.box.matches(":hover") || this.box.contains(document.activeElement);
  }

  #settle() {
    if (this.#stale && !this.#used) this.#sort(true);
  }

  get #columns() {
    return Math.max(1, Math.floor((this.box.clientWidth + GAP) / SIDE));
  }

  // Those that are compared first, then the others as they came; of those that are searched.
  #sort(top) {
    const words = this.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.#all.filter((one) => words.every((word) => one.name.toLowerCase().includes(word)));
    const on = (one) => Number(this.#shown.has(one.id));
    this.#order = found.toSorted((a, b) => on(b) - on(a));
    this.#stale = false;
    if (top) this.box.scrollTop = 0;
    $("photographs-none").hidden = found.length > 0 || !words.length;
    this.#draw();
  }

  #choose(id) {
    if (this.#shown.has(id) && id !== this.#active) this.act.activate(id);
    else this.act.toggle(id);
  }

  #move(id, key) {
    const at = this.#order.findIndex((one) => one.id === id);
    const columns = this.#columns;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
      PageUp: at - SHOWN * columns, PageDown: at + SHOWN * columns, Home: 0, End: this.#order.length - 1,
    }[key];
    if (to === undefined) return undefined;
    const next = this.#order[Math.min(Math.max(to, 0), this.#order.length - 1)];
    this.#at = next.id;
    this.reveal(next.id);
    return this.inner.querySelector(`[data-id="${next.id}"]`);
  }

  #draw() {
    const columns = this.#columns;
    const rows = Math.ceil(this.#order.length / columns);
    this.box.style.height = `${Math.min(Math.max(rows, 1), SHOWN) * SIDE - GAP + 8}px`;
    this.inner.style.height = `${Math.max(0, rows * SIDE - GAP)}px`;
    const first = Math.max(0, Math.floor(this.box.scrollTop / SIDE) - BEYOND) * columns;
    const last = first + (SHOWN + 1 + 2 * BEYOND) * columns;
    const seen = this.#order.slice(first, last);
    const focused = focusedIn(this.box)?.dataset.id;
    const there = new Map(within(this.inner).map((one) => [one.dataset.id, one]));
    const tiles = seen.map((one, n) => {
      const tile = there.get(one.id) ?? this.#tile(one);
      const at = first + n;
      const on = this.#shown.has(one.id);
      tile.style.transform = `translate(${(at % columns) * SIDE}px, ${Math.floor(at / columns) * SIDE}px)`;
      tile.setAttribute("aria-selected", String(on));
      tile.setAttribute("aria-posinset", String(at + 1));
      tile.setAttribute("aria-setsize", String(this.#order.length));
      tile.classList.toggle("active", one.id === this.#active);
      tile.lastChild.textContent = on ? "✓" : "";
      return tile;
    });
    if (tiles.length !== this.inner.children.length || tiles.some((tile, n) => tile !== this.inner.children[n])) this.inner.replaceChildren(...tiles);
    const reached = tiles.find((tile) => tile.dataset.id === this.#at) ?? tiles.find((tile) => tile.dataset.id === this.#active) ?? tiles[0];
    for (const tile of tiles) tile.tabIndex = tile === reached ? 0 : -1;
    if (focused) tiles.find((tile) => tile.dataset.id === focused)?.focus({ preventScroll: true });
  }

  #tile(photograph) {
    const image = element("img", { alt: "", width: 56, height: 56, draggable: false });
    picture(photograph.id, 192).then((address) => (image.src = address), () => image.classList.add("broken"));
    return element(
      "div",
      { class: "photograph", role: "option", "aria-label": photograph.name, title: photograph.name, "data-id": photograph.id },
      image,
      element("span", { class: "tick", "aria-hidden": "true" }),
    );
  }
}
