// The stage: results fetched by id and handed to the viewer, which draws them without asking again.

import { Comparison, decode } from "../viewer/viewer.js";
import { get, picture } from "./api.js";
import { difference, mismatch } from "./difference.js";

const valuesIn = ({ map, slices }) => map.size[0] * map.size[1] * (slices?.count ?? 1);
const differenceKey = ({ of, words }) => `difference ${of.join(" ")} ${words.title}`;

const PAGE = 1280; // pixels of a photograph's longer side on the page
const KEPT = 200 * 2 ** 16; // values of maps: 200 of images, fewer of volumes

export class Stage {
  #records = new Map();
  #asked = new Map();
  #sources = new Map();
  #rows = [];
  #last = new Map(); // by the key of a cell: the id of the last version of its map under way
  #preview = null;
  #drawing = false;
  #revealed = null;

  constructor(holder, { look, looked, lost }) {
    this.comparison = new Comparison(holder, { settings: look ?? {}, empty: "Choose an image to compare, or drop one here.", onchange: looked, onlook: looked });
    const { zoom, x, y } = look?.at ?? {};
    if ([zoom, x, y].every(Number.isFinite)) this.comparison.look({ zoom, x, y });
    this.lost = lost;
  }

  // What a link needs to show the same: the settings of the controls, and the part of the photographs that is seen.
  look() {
    return { ...this.comparison.settings, at: this.comparison.view };
  }

  // Rows of cells: a result's id, null for one that is to come, { soFar } for one under way, { reason } for one that never
  // will, or { of, words } for the difference of two results. `columns` are their titles, `keys` what tells those apart that
  // may be under way.
  show(rows) {
    this.#rows = rows;
    const keys = new Set(rows.flatMap((row) => row.keys));
    for (const [key, id] of this.#last) if (!keys.has(key)) this.#forget(key, id);
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

  // Bring the first row of an image into view, once it is there.
  reveal(photograph) {
    this.#revealed = photograph;
    this.#draw();
  }

  #open(id) {
    if (this.#sources.has(id)) return;
    this.#sources.set(id, null);
    picture(id, PAGE).then(
      (address) => {
        // of a volume or clip the slices are fetched when they are shown
        this.#sources.set(id, (slice) => (slice === undefined ? address : picture(id, PAGE, slice)));
        this.#draw();
      },
      (error) => {
        this.#sources.delete(id);
        this.lost(null, error, id);
      },
    );
  }

  #fetch(cells) {
    for (const cell of cells.flatMap((one) => one?.of ?? [one])) {
      const id = cell?.soFar?.id ?? cell;
      if (typeof id !== "string" || this.#records.has(id) || this.#asked.has(id)) continue;
      const asked = get(`results/${id}`)
        .then((record) => this.#keep(id, record))
        .catch((error) => cell.soFar || this.lost(id, error)) // of a map under way there is a later version
        .finally(() => this.#asked.delete(id));
      this.#asked.set(id, asked);
    }
  }

  #keep(id, record) {
    this.#records.set(id, record);
    const cells = [...this.#rows.flatMap((row) => row.cells), ...(this.#preview?.cells ?? [])];
    const shown = new Set(cells.flatMap((cell) => (cell?.of ? [...cell.of, differenceKey(cell)] : [cell?.soFar?.id ?? cell])));
    for (const last of this.#last.values()) shown.add(last);
    let values = [...this.#records.values()].reduce((sum, one) => sum + valuesIn(one), 0);
    for (const [old, one] of this.#records) {
      if (values <= KEPT) break;
      if (shown.has(old)) continue;
      this.#records.delete(old);
      values -= valuesIn(one);
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
      const at = ready.findIndex((row) => row.photograph.id === this.#revealed);
      if (at >= 0) {
        this.comparison.body.children[at].scrollIntoView({ block: "nearest" });
        this.#revealed = null;
      }
      this.comparison.preview(this.#whole(this.#preview));
    });
  }

  #forget(key, id) {
    this.#records.delete(id);
    this.#last.delete(key);
  }

  // What is known of a cell: { id, record, reason, told }; `key`: its own, if it may be under way.
  #known(cell, key = "") {
    const under = cell?.soFar;
    if (under || this.#last.has(key)) {
      const id = under?.id ?? cell;
      const last = this.#last.get(key);
      if (!this.#records.has(id) && this.#records.has(last) && (under || typeof cell === "string")) {
        return { id: last, record: this.#records.get(last), reason: "", told: under?.told ?? "" }; // until the next has come
      }
      if (last !== id) this.#forget(key, last);
      if (under && this.#records.has(id)) this.#last.set(key, id);
      else this.#last.delete(key);
      if (under) return { id, record: this.#records.get(id) ?? null, reason: "", told: under.told };
    }
    if (!cell?.of) {
      const record = typeof cell === "string" ? (this.#records.get(cell) ?? null) : null;
      return { id: record ? cell : "", record, reason: cell?.reason ?? "" };
    }
    const id = differenceKey(cell);
    const [one, other] = cell.of.map((each) => this.#records.get(each));
    const reason = one && other ? mismatch(one, other) : "";
    if (one && other && !reason && !this.#records.has(id)) this.#subtract(id, one, other, cell.words);
    return { id, record: this.#records.get(id) ?? null, reason };
  }

  async #subtract(id, one, other, words) {
    if (this.#asked.has(id)) return;
    this.#asked.set(id, true);
    try {
      this.#keep(id, difference(one, other, [await decode(one), await decode(other)], words));
    } finally {
      this.#asked.delete(id);
    }
  }

  // A preview once all of its maps are there, under its own heading: never half of it.
  #whole(shown) {
    const found = shown?.cells.map((cell) => this.#known(cell));
    if (!found || found.some((one) => !one.reason && !one.record)) return null;
    return { row: shown.key, detail: shown.detail, records: [null, ...found.map((one) => one.record)] };
  }

  #row(row) {
    return {
      id: row.key,
      title: row.photograph.name,
      detail: row.detail,
      photograph: { id: row.photograph.id, source: this.#sources.get(row.photograph.id) },
      tiles: [{ id: `${row.photograph.id} original`, title: "Image", original: true }, ...row.cells.map((cell, n) => {
        const { id, record, reason, told } = this.#known(cell, row.keys[n]);
        return {
          id: record ? id : `${row.key} ${n} ${reason}`,
          title: row.columns[n],
          detail: record ? row.told(record, n) : "",
          record,
          action: record ? row.mend(record, n) : null,
          pending: record === null && !reason,
          soFar: told,
          reason,
        };
      })],
    };
  }
}
