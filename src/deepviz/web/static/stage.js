// The stage: results fetched by id and handed to the viewer, which draws them without asking again.

import { Comparison } from "../viewer/viewer.js";
import { get, picture } from "./api.js";

const PAGE = 1280; // pixels of a photograph's longer side on the page
const KEPT = 200; // records, of a quarter of a megabyte each

export class Stage {
  #records = new Map();
  #asked = new Map();
  #sources = new Map();
  #rows = [];
  #preview = null;
  #drawing = false;

  constructor(holder, { look, looked, lost }) {
    this.comparison = new Comparison(holder, { settings: look ?? {}, onchange: looked, onlook: looked });
    const { zoom, x, y } = look?.at ?? {};
    if ([zoom, x, y].every(Number.isFinite)) this.comparison.look({ zoom, x, y });
    this.lost = lost;
  }

  // What a link needs to show the same: the settings of the controls, and the part of the photographs that is seen.
  look() {
    return { ...this.comparison.settings, at: this.comparison.view };
  }

  // Rows of cells: a result's id, null for one that is to come, or { reason } for one that never will.
  show(rows) {
    this.#rows = rows;
    for (const { photograph } of rows) this.#open(photograph.id);
    this.#fetch(rows.flatMap((row) => row.cells));
    this.#draw();
  }

  // Other results for one row, until preview(null).
  preview(shown) {
    this.#preview = shown;
    if (shown) this.#fetch(shown.cells);
    this.#draw();
  }

  // Bring a row into view.
  reveal(number) {
    this.comparison.body.children[number]?.scrollIntoView({ block: "nearest" });
  }

  #open(id) {
    if (this.#sources.has(id)) return;
    this.#sources.set(id, null);
    picture(id, PAGE).then(
      (address) => {
        this.#sources.set(id, address);
        this.#draw();
      },
      (error) => {
        this.#sources.delete(id);
        this.lost(null, error, id);
      },
    );
  }

  #fetch(cells) {
    for (const id of cells) {
      if (typeof id !== "string" || this.#records.has(id) || this.#asked.has(id)) continue;
      const asked = get(`results/${id}`)
        .then((record) => this.#keep(id, record))
        .catch((error) => this.lost(id, error))
        .finally(() => this.#asked.delete(id));
      this.#asked.set(id, asked);
    }
  }

  #keep(id, record) {
    this.#records.set(id, record);
    const shown = new Set([...this.#rows.flatMap((row) => row.cells), ...(this.#preview?.cells ?? [])]);
    for (const old of this.#records.keys()) {
      if (this.#records.size <= KEPT) break;
      if (!shown.has(old)) this.#records.delete(old);
    }
    this.#draw();
  }

  // At most once a frame, however many records arrive.
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const ready = this.#rows.filter((row) => this.#sources.get(row.photograph.id));
      this.comparison.show(ready.map((row) => this.#row(row)));
      const shown = this.#preview;
      this.comparison.preview(shown && { [shown.key]: shown.cells.map((id) => this.#records.get(id) ?? null) });
    });
  }

  #row(row) {
    return {
      id: row.key,
      title: row.photograph.name,
      detail: row.detail,
      photograph: { id: row.photograph.id, source: this.#sources.get(row.photograph.id) },
      tiles: row.cells.map((cell, n) => {
        const record = typeof cell === "string" ? (this.#records.get(cell) ?? null) : null;
        return {
          id: record ? cell : `${row.key} ${n} ${cell?.reason ?? ""}`,
          title: row.columns[n],
          detail: record ? row.told(record) : "",
          record,
          pending: record === null && !cell?.reason,
          reason: cell?.reason ?? "",
        };
      }),
    };
  }
}
