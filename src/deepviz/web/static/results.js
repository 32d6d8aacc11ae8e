// What the server has answered: for each cell of the comparison a result, or why there is none.

import { cellKey, columnKey, targetIn } from "./columns.js";

/** @typedef {import("./state.js").Column} Column */
/** @typedef {import("./state.js").Target} Target */

export class Results {
  #found = new Map(); // by cell: the id of its result
  #soFar = new Map(); // by cell: { id, told, job } of a map under way
  #reasons = new Map(); // by column: why there is no map
  #failures = new Map(); // by column or cell: why the last comparison has no map there
  #ended = ""; // why the last comparison is not whole

  /**
   * What there is in a column of a row: a result's id, null for one that is to come, or { reason }.
   * @param {string} photograph
   * @param {Target} of
   * @param {Column} one
   * @returns {string | {reason: string} | null}
   */
  cell(photograph, of, one) {
    const target = targetIn(photograph, of, one);
    if (target === null) return { reason: "no other class to compare with" };
    const key = cellKey(photograph, target, one);
    const column = columnKey(one);
    const reason = this.#reasons.get(column) ?? this.#failures.get(column) ?? this.#failures.get(key) ?? this.#ended;
    return this.#found.get(key) ?? (reason ? { reason } : null);
  }

  /**
   * The last version of a map under way, in a column of a row, and how far it is in words; null without one.
   * @param {string} photograph
   * @param {Target} of
   * @param {Column} one
   * @returns {{id: string, told: string} | null}
   */
  soFar(photograph, of, one) {
    const target = targetIn(photograph, of, one);
    return this.#soFar.get(cellKey(photograph, target, one)) ?? null;
  }

  // Another comparison begins: what failed may go well now.
  begin() {
    this.#ended = "";
    this.#soFar.clear();
    this.#failures.clear();
  }

  end(reason) {
    this.#ended = reason;
    this.#soFar.clear();
  }

  /**
   * What a job says of the columns that it was asked for.
   * @param {Column[]} asked
   */
  take(state, asked) {
    for (const [key, { job }] of this.#soFar) if (job === state.id) this.#soFar.delete(key);
    for (const { id, told, ...one } of state.so_far) {
      this.#soFar.set(cellKey(one.photograph, one.target, asked[one.column]), { id, told, job: state.id });
    }
    for (const one of state.results) this.#found.set(cellKey(one.photograph, one.target, asked[one.column]), one.id);
    for (const one of state.failures) this.#failures.set(cellKey(one.photograph, one.target, asked[one.column]), one.reason);
    for (const one of state.left_out) this.#reasons.set(columnKey(asked[one.column]), one.reason);
  }

  fail(column, reason) {
    this.#failures.set(columnKey(column), reason);
  }

  // Why a whole column failed, if it did.
  problem(column) {
    return this.#failures.get(columnKey(column));
  }

  // A result that the server does not have any more.
  forget(id) {
    for (const [key, value] of this.#found) if (value === id) this.#found.delete(key);
  }

  forgetAll() {
    this.#found.clear();
  }
}
