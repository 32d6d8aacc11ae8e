// Maps of another class in the place of a row's, while the pointer is on it.

import { follow, pause, post } from "./api.js";
import { asJob, byPhotograph, classesOf, columns, labelOf, requests, rows, targetsOf } from "./columns.js";
import { withChance } from "./elements.js";
import { view } from "./state.js";
import { cancelJob } from "./work.js";

const HOVER = 90; // milliseconds on a class before its preview is asked for

export class Preview {
  #hovering = null;

  // `show` is given { key, photograph, target, detail, cells } of a row, null at the end; `failed`: errors.
  constructor(results, { show, failed }) {
    this.results = results;
    this.show = show;
    this.failed = failed;
  }

  /** @param {import("./state.js").Target} target */
  async begin(target) {
    if (this.#hovering?.target === target) return;
    this.leave();
    if (view.tab !== "compare" || !view.active || targetsOf(view.active).includes(target)) return;
    const mine = (this.#hovering = { target, abort: new AbortController(), job: null });
    const { signal } = mine.abort;
    const photograph = view.active;
    try {
      await pause(HOVER, signal);
      const row = rows().find((each) => each.photograph.id === photograph);
      if (!row) return;
      const shown = columns();
      const probability = classesOf(photograph).find((one) => one.index === target)?.probability ?? null;
      const detail = `Preview: ${withChance({ label: labelOf(photograph, target), probability })}`;
      const cell = (one) => this.results.cell(photograph, target, one);
      const draw = () => this.#hovering === mine && this.show({ key: row.key, photograph, target, detail, cells: shown.map(cell) });
      draw();
      for (const group of requests(shown.filter((one) => cell(one) === null))) {
        const job = await post("jobs", asJob(group, byPhotograph([{ photograph: row.photograph, target }], group)), { signal });
        mine.job = job.id;
        const seen = (state) => {
          this.results.take(state, group);
          draw();
        };
        await follow(job, seen, signal);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    }
  }

  leave() {
    if (!this.#hovering) return;
    this.#hovering.abort.abort();
    if (this.#hovering.job) cancelJob(this.#hovering.job);
    this.#hovering = null;
    this.show(null);
  }
}
