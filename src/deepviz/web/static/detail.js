// One image of a run in full: its maps beside one another, as they are stored, and all that is known of them.

import { Comparison } from "../viewer/viewer.js";
import { call, get } from "./api.js";
import { $, copy, element, percent } from "./elements.js";

const PAGE = 1280; // pixels of the image's longer side
const BLANK = 256; // likewise, of what stands for an image that is not there

export class Detail {
  #turn = 0;
  #abort = new AbortController();

  /** @param {{failed: (error: Error) => void}} tell */
  constructor({ failed }) {
    this.failed = failed;
    this.comparison = new Comparison($("detail-maps"), { empty: "There is no map of this image." });
  }

  // Show an image by its position in the source.
  async show(image) {
    const turn = (this.#turn += 1);
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const whole = await get(`run/images/${image}`, { signal });
      if (turn !== this.#turn) return;
      this.#describe(whole);
      /** @type {Map<any, any>} */ const records = new Map();
      const asked = whole.rows.filter((row) => row.has_map).map(async (row) => {
        const query = new URLSearchParams({ method: row.method, rank: String(row.rank), input: row.input ?? "" });
        records.set(row, await get(`run/images/${image}/map?${query}`, { signal }).catch((error) => ({ reason: error.message, error })));
      });
      const pictured = await this.#picture(image, signal);
      await Promise.all(asked);
      if (turn !== this.#turn) return;
      for (const { error } of records.values()) if (error?.name === "AbortError") return;
      const first = [...records.values()].find((one) => one.geometry);
      const source = await this.#source(image, pictured, first);
      if (turn !== this.#turn) return;
      $("detail-lacks").hidden = pictured !== null || !first;
      this.#draw(whole, records, source);
      this.#tabulate(whole, records);
    } catch (error) {
      if (error.name !== "AbortError" && turn === this.#turn) this.failed(error);
    }
  }

  leave() {
    this.#turn += 1;
    this.#abort.abort();
    this.comparison.show([]);
  }

  async #picture(image, signal, more = "") {
    const answer = await call(`run/images/${image}/picture?size=${PAGE}${more}`, { signal });
    return answer.status === 204 ? null : answer.blob();
  }

  // What the viewer draws maps on; grey in the proportions of an image that is not there.
  async #source(image, pictured, first) {
    const slices = first?.slices;
    if (!pictured) {
      const [width, height] = first?.geometry.size ?? [1, 1];
      const share = BLANK / Math.max(width, height);
      return blank(Math.max(1, Math.round(share * width)), Math.max(1, Math.round(share * height)));
    }
    if (!slices) return pictured;
    return (slice) => this.#picture(image, undefined, `&slice=${slice ?? slices.first}&depth=${slices.count}`);
  }

  #draw(whole, records, source) {
    const ranks = [...new Set(whole.rows.map((row) => row.rank ?? 0))];
    const photograph = { id: String(whole.index), source };
    const several = new Set(whole.rows.map((row) => row.input ?? "")).size > 1;
    this.comparison.show(
      ranks.map((rank) => {
        const rows = whole.rows.filter((row) => (row.rank ?? 0) === rank);
        const target = rows.find((row) => row.target !== null);
        const tiles = rows.filter((row) => row.method !== null).map((row, n) => {
          const record = records.get(row);
          const drawn = record?.geometry ? record : null;
          return {
            id: `${whole.index} ${rank} ${n}`,
            title: row.title,
            detail: [several ? row.input : "", drawn?.detail].filter(Boolean).join(", "),
            record: drawn,
            reason: drawn ? "" : (record?.reason ?? row.reason ?? "no map"),
          };
        });
        return {
          id: `${whole.index} ${rank}`,
          title: target ? titleOf(target) : "",
          detail: "",
          photograph,
          tiles: [{ id: `${whole.index} original`, title: "Image", original: true }, ...tiles],
        };
      }),
    );
  }

  #describe(whole) {
    $("detail-title").textContent = whole.image;
    const facts = [
      ["Label", whole.label ?? "unknown"],
      ["Prediction", whole.prediction === null ? "none" : `${whole.prediction}${whole.probability === null ? "" : ` ${percent(whole.probability)}`}`],
      ["Correct", { true: "yes", false: "no" }[String(whole.correct)] ?? "unknown"],
      ["Position", String(whole.index)],
    ];
    $("detail-facts").replaceChildren(
      ...facts.map(([name, value]) => element("div", { class: name === "Correct" ? `fact is-${value}` : "fact" }, element("dt", {}, name), element("dd", {}, value))),
      element(
        "div",
        { class: "fact file" },
        element("dt", {}, "File"),
        element("dd", {}, element("span", {}, whole.file), element("button", { type: "button", class: "link", onclick: () => copy(whole.file, "Name of the file") }, "Copy")),
      ),
    );
    const failed = whole.rows.filter((row) => !row.has_map && row.method === null);
    $("detail-failed").hidden = !failed.length;
    $("detail-failed").textContent = failed.map((row) => `${row.failure}: ${row.reason}`).join("; ");
    $("detail-table").replaceChildren();
  }

  // Numbers, notes and warnings, a column for each map.
  #tabulate(whole, records) {
    const rows = whole.rows.filter((row) => row.method !== null);
    if (!rows.length) return;
    const notes = (row) => new Map(records.get(row)?.notes ?? []);
    const names = [...new Set(rows.flatMap((row) => [...notes(row).keys()]))];
    const number = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(4))));
    /** @type {[string, (row: any) => string][]} */
    const lines = [
      ["Target", (row) => row.target ?? ""],
      ["Probability of the target", (row) => (row.target_probability === null ? "" : percent(row.target_probability))],
      ["Score", (row) => number(row.score)],
      ["Input", (row) => row.input ?? ""],
      ["Layer", (row) => row.layer ?? ""],
      ...Object.keys(rows[0].metrics).map((name) => /** @type {[string, (row: any) => string]} */ ([name, (row) => number(row.metrics[name])])),
      ...names.map((name) => /** @type {[string, (row: any) => string]} */ ([name, (row) => notes(row).get(name) ?? ""])),
      ["Warnings", (row) => row.warnings.join("; ")],
      ["No map because", (row) => (row.has_map ? (records.get(row)?.reason ?? "") : `${row.failure}: ${row.reason}`)],
    ];
    const shown = lines.map(([name, told]) => ({ name, cells: rows.map(told) })).filter(({ cells }) => cells.some(Boolean));
    $("detail-table").replaceChildren(
      element("thead", {}, element("tr", {}, element("td", {}), ...rows.map((row) => element("th", { scope: "col" }, row.title)))),
      element("tbody", {}, ...shown.map(({ name, cells }) =>
        element("tr", { class: name === "Warnings" || name.startsWith("No map") ? "alarm" : "" }, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell))))),
    );
  }
}

const titleOf = (row) => (row.target_probability === null ? row.target : `${row.target} ${percent(row.target_probability)}`);

async function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  return new Promise((done) => canvas.toBlob(done));
}
