// The comparison under way: what is missing is asked of the server, group by group.

import { call, follow, get, post } from "./api.js";
import { asJob, byPhotograph, columns, requests, rows } from "./columns.js";

/** @typedef {import("./state.js").Column} Column */

const AT_ONCE = 16; // cells of a column in one request
const SETTLE = 120; // milliseconds without a change before a comparison is asked for

export const cancelJob = (id) => void call(`jobs/${id}`, { method: "DELETE" }).catch(() => {});

export class Work {
  #running = null; // an AbortController, and the job's id
  #waiting = false; // for its turn
  #opening = null; // the state of the comparison that the server computes by itself
  #settling = 0;

  /**
   * @param {import("./results.js").Results} results
   * @param {object} page
   * @param {() => Promise<void>} page.prepare  All that rows and columns are made of.
   * @param {() => void} page.began  Rows and columns are known.
   * @param {() => void} page.changed  There is more to show.
   * @param {() => void} page.broken  A column failed as a whole.
   * @param {(state: object | null) => void} page.told  How the work stands; null at its end.
   * @param {(reason: string) => void} page.ended  Why it is not whole.
   * @param {() => Promise<boolean>} page.forgotten  Whether images are gone.
   * @param {(error: Error) => void} page.failed
   */
  constructor(results, page) {
    this.results = results;
    this.page = page;
  }

  // A comparison, once nothing has changed for a moment.
  soon() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.compare().catch(this.page.failed), SETTLE);
  }

  stop() {
    if (!this.#running) return;
    this.#running.abort.abort();
    if (this.#running.job) cancelJob(this.#running.job);
    this.#running = null;
  }

  // As the reader wants it; whether there was anything to stop.
  cancel() {
    if (!this.#running && !this.#opening) return false;
    this.stop();
    if (this.#opening) cancelJob(this.#opening.id);
    this.#opening = null;
    this.page.told(null);
    return true;
  }

  async compare() {
    this.stop();
    const mine = (this.#running = { abort: new AbortController(), job: null });
    const { signal } = mine.abort;
    try {
      await this.page.prepare();
      if (signal.aborted) return;
      this.results.begin();
      this.page.began();
      for (const group of requests(columns())) await this.#explain(group, mine, signal);
      this.page.told(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.page.told(null);
      if (error.status !== 401) this.page.ended(error.message);
      throw error;
    } finally {
      if (this.#running === mine) this.#running = null;
      this.#waiting = false;
    }
  }

  // Compute the cells of a group that are missing, no more at once than a request may hold. What one column cannot be
  // asked with is no reason not to ask for the others.
  async #explain(group, mine, signal) {
    const open = (row) => group.some((one) => this.results.cell(row.photograph.id, row.target, one) === null);
    const missing = rows().filter(open);
    for (let at = 0; at < missing.length; at += AT_ONCE) {
      let job;
      try {
        job = await post("jobs", asJob(group, byPhotograph(missing.slice(at, at + AT_ONCE), group)), { signal });
      } catch (error) {
        if (error.status === 404 && (await this.page.forgotten())) return;
        if (error.status !== 422) throw error;
        if (group.length === 1) return this.#fail(group[0], error.message);
        for (const one of group) await this.#explain([one], mine, signal);
        return;
      }
      mine.job = job.id;
      const seen = (state) => {
        this.#waiting = state.state === "queued";
        this.#take(state, group, !this.#waiting || !this.#opening);
        if (this.#waiting && this.#opening) this.page.told(this.#opening);
      };
      const last = await follow(job, seen, signal);
      if (last.state === "cancelled") throw new DOMException("cancelled by another page", "AbortError");
      if (last.state === "failed" && !last.failures.length) for (const one of group) this.#fail(one, last.error);
    }
  }

  #fail(column, reason) {
    this.results.fail(column, reason);
    this.page.broken();
  }

  #take(state, asked, shown) {
    this.results.take(state, asked);
    if (shown) this.page.told(state);
    this.page.changed();
  }

  /**
   * The comparison that the server computes by itself before the first page asks.
   * @param {string} id
   * @param {Column[]} asked  Its columns, also those of methods that turn out not to apply.
   */
  watch(id, asked) {
    const seen = (state) => {
      this.#opening = ["queued", "running"].includes(state.state) ? state : null;
      this.#take(state, asked, this.#opening !== null && this.#waiting);
    };
    get(`jobs/${id}`)
      .then((job) => follow(job, seen))
      .catch(() => {}); // the page's own job tells what is wrong
  }
}
