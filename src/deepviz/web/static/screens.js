// Rows of a run by screens, and their pictures: what is seen is asked for, what is not any more is not waited for.

import { call, get } from "./api.js";

const SCREEN = 100; // rows of a request
const SCREENS = 40; // that are remembered
const PICTURES = 800; // likewise

/** @typedef {import("./grid.js").Row} Row */

export class Screens {
  #found = new Map();
  /** @type {Map<number, AbortController>} */ #asked = new Map();
  #closed = false;
  total = -1; // of all rows; -1 until it is known

  /**
   * @param {URLSearchParams} asked  Which rows, in which order.
   * @param {{arrived: () => void, failed: (error: Error) => void}} tell
   */
  constructor(asked, { arrived, failed }) {
    this.asked = asked;
    this.arrived = arrived;
    this.failed = failed;
  }

  /** @param {number} at  @returns {Row | null} */
  row(at) {
    return this.#found.get(Math.floor(at / SCREEN))?.[at % SCREEN] ?? null;
  }

  // Rows from one to before another are seen.
  want(first, last) {
    const from = Math.floor(first / SCREEN);
    const to = Math.floor(Math.max(first, last - 1) / SCREEN);
    for (const [screen, abort] of this.#asked) {
      if (screen >= from && screen <= to) continue;
      abort.abort();
      this.#asked.delete(screen); // it may be wanted again before its end is told
    }
    for (let screen = from; screen <= to; screen++) this.#ask(screen);
  }

  async #ask(screen) {
    const known = this.#found.get(screen);
    if (known) {
      this.#found.delete(screen); // the one that was used last stays longest
      this.#found.set(screen, known);
      return;
    }
    if (this.#asked.has(screen) || this.#closed || (this.total >= 0 && screen * SCREEN >= Math.max(this.total, 1))) return;
    const abort = new AbortController();
    this.#asked.set(screen, abort);
    const asked = new URLSearchParams(this.asked);
    asked.set("first", String(screen * SCREEN));
    asked.set("count", String(SCREEN));
    try {
      const { total, rows } = await get(`run/rows?${asked}`, { signal: abort.signal });
      if (this.#closed) return;
      this.total = total;
      this.#found.set(screen, rows);
      for (const [old] of this.#found) if (this.#found.size > SCREENS && old !== screen) this.#found.delete(old);
      if (this.#asked.get(screen) === abort) this.#asked.delete(screen);
      this.arrived();
    } catch (error) {
      if (this.#asked.get(screen) === abort) this.#asked.delete(screen);
      if (error.name !== "AbortError" && !this.#closed) this.failed(error);
    }
  }

  close() {
    this.#closed = true;
    for (const abort of this.#asked.values()) abort.abort();
  }
}

export class Pictures {
  /** @type {Map<string, string>} */ #found = new Map();
  /** @type {Map<string, AbortController>} */ #asked = new Map();

  /** @param {(address: string) => void} arrived  Is told of each picture. */
  constructor(arrived) {
    this.arrived = arrived;
  }

  /**
   * What <img> takes; "" if there is no picture, undefined until it is known.
   * @param {string} address
   * @returns {string | undefined}
   */
  picture(address) {
    const known = this.#found.get(address);
    if (known !== undefined) {
      this.#found.delete(address);
      this.#found.set(address, known);
    }
    return known;
  }

  /** @param {string[]} seen  The addresses of all pictures that can be seen: others are not waited for. */
  want(seen) {
    const wanted = new Set(seen);
    for (const [address, abort] of this.#asked) {
      if (wanted.has(address)) continue;
      abort.abort();
      this.#asked.delete(address);
    }
    for (const address of wanted) this.#ask(address);
    for (const [old, url] of this.#found) {
      if (this.#found.size <= PICTURES) break;
      if (wanted.has(old)) continue;
      URL.revokeObjectURL(url);
      this.#found.delete(old);
    }
  }

  async #ask(address) {
    if (this.#found.has(address) || this.#asked.has(address)) return;
    const abort = new AbortController();
    this.#asked.set(address, abort);
    try {
      const answer = await call(address, { signal: abort.signal });
      this.#found.set(address, answer.status === 204 ? "" : URL.createObjectURL(await answer.blob()));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#found.set(address, ""); // damaged, as the row in full tells
    }
    if (this.#asked.get(address) === abort) this.#asked.delete(address);
    this.arrived(address);
  }
}
