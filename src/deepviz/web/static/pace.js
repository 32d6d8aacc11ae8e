// How long something takes that goes on in steps, by those that are done.

const NEW = 0.3; // the weight of what was last seen

export class Pace {
  #each = 0; // milliseconds of a step
  /** @type {{step: number, at: number} | null} */
  #last = null;

  /**
   * So many steps are done at a time in milliseconds.
   * @param {number} step
   * @param {number} at
   */
  take(step, at) {
    if (this.#last && step < this.#last.step) this.#each = 0; // something else began
    else if (this.#last && step > this.#last.step) {
      const each = (at - this.#last.at) / (step - this.#last.step);
      this.#each = this.#each ? this.#each + NEW * (each - this.#each) : each;
    }
    if (!this.#last || step !== this.#last.step) this.#last = { step, at };
  }

  // It waits: the time until the next step is none of its work.
  pause() {
    this.#last = null;
  }

  /**
   * The time that some more steps take, in words; "" while it is not known.
   * @param {number} steps
   */
  left(steps) {
    return this.#each ? inWords((steps * this.#each) / 1000) : "";
  }
}

/**
 * Seconds as "about 40 s left".
 * @param {number} seconds
 */
export function inWords(seconds) {
  if (seconds < 5) return "a few seconds left";
  if (seconds < 90) return `about ${5 * Math.round(seconds / 5)} s left`;
  if (seconds < 90 * 60) return `about ${Math.round(seconds / 60)} min left`;
  return `about ${Math.round(seconds / 3600)} h left`;
}
