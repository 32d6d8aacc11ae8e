// What channels look for: drawn by the server in small groups, shown here as it emerges.

import { call, get, post } from "./api.js";
import { download, element, say } from "./elements.js";
import { Pace } from "./pace.js";

const GROUP = 4; // channels drawn together: fewer come faster, more cost less each
const STILL = "This channel has zero gradient at the starting noise. Try the layer before its activation, or another seed.";

export class Drawings {
  #shown = new Map(); // by channel: where its image goes
  #made = new Map(); // by what was asked for: { picture, drawing, told, still, done }
  #queue = []; // what is to come: { channel, steps, seed, key }
  #group = []; // what is asked of the server, likewise
  #now = null; // the drawing under way, as the server tells it
  #turn = 0;
  #pace = new Pace();
  #place = { model: "", layer: "" };

  // `failed`: errors.
  constructor(failed) {
    this.failed = failed;
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Steps done" });
    this.text = element("span", { role: "status" });
    this.left = element("span", { class: "left" });
    this.pauser = element("button", { type: "button", class: "quiet", onclick: () => this.#pause() }, "Pause");
    this.stopper = element("button", { type: "button", class: "quiet", onclick: () => this.stop() }, "Stop");
    this.seed = element("input", { type: "number", id: "drawing-seed", class: "value", min: 0, max: 4294967295, step: 1, value: "0" });
    this.steps = element(
      "select",
      { id: "drawing-steps" },
      ...Object.entries({ 60: "60, a sketch", 200: "200", 400: "400, finer" }).map(([steps, title]) => element("option", { value: steps, selected: steps === "200" }, title)),
    );
    this.all = element("button", { type: "button", class: "quiet", onclick: () => this.draw([...this.#shown.keys()]) }, "Generate feature visualisations");
    this.under = element("div", { class: "under", hidden: true }, this.bar, this.pauser, this.stopper, this.text, this.left);
    this.bars = element(
      "div",
      { class: "drawing" },
      this.all,
      element("label", { for: "drawing-steps" }, "Steps"),
      this.steps,
      element("label", { for: "drawing-seed" }, "Seed"),
      this.seed,
      this.under,
    );
    for (const control of [this.seed, this.steps]) control.addEventListener("change", () => this.#refresh());
  }

  // Another layer is looked at: what is drawn for the one before is given up.
  at(model, layer) {
    if (model === this.#place.model && layer === this.#place.layer) return;
    this.stop();
    this.#place = { model, layer };
  }

  // The figure of a channel: its image, and what can be done with it.
  figure(channel) {
    const image = element("img", { alt: `Feature visualisation of channel ${channel}`, hidden: true });
    const draw = element("button", { type: "button", class: "quiet", "aria-label": `Draw a feature visualisation of channel ${channel}`, onclick: () => this.draw([channel]) }, "Draw");
    const save = element("button", { type: "button", class: "quiet", "aria-label": `Save the image of channel ${channel}`, hidden: true, onclick: () => this.#save(channel) }, "Save");
    const told = element("span", { class: "told" });
    const holder = element("div", { class: "wanted" }, image, element("p", {}, draw, save, told));
    this.#shown.set(channel, { image, draw, save, told });
    this.#refresh();
    return holder;
  }

  // The image of a channel as it is now; "" without one.
  picture(channel) {
    const made = this.#made.get(this.#key(channel));
    return made && !made.still ? made.picture : "";
  }

  clear() {
    this.#shown.clear();
  }

  draw(channels) {
    if (!this.seed.checkValidity() || this.seed.value === "") return say("A seed is a whole number from 0 to 4294967295.", true);
    const [steps, seed] = [Number(this.steps.value), Number(this.seed.value)];
    const asked = channels.map((channel) => ({ channel, steps, seed, key: this.#key(channel) }));
    this.#queue.push(...asked.filter(({ key }) => !this.#waited(key) && !this.#made.get(key)?.done));
    this.#refresh();
    if (this.#queue.length && !this.#group.length) this.#work().catch(this.failed);
  }

  stop() {
    this.#turn += 1;
    if (this.#now) call(`drawings/${this.#now.id}`, { method: "DELETE" }).catch(() => {});
    this.#rest();
  }

  #rest() {
    this.#queue = [];
    this.#group = [];
    this.#now = null;
    this.#refresh();
    this.#tell();
  }

  #key(channel) {
    return JSON.stringify([this.#place, channel, Number(this.seed.value), Number(this.steps.value)]);
  }

  #waited(key) {
    return [...this.#group, ...this.#queue].some((one) => one.key === key);
  }

  // The next ones that can be drawn together.
  #next() {
    const [{ steps, seed }] = this.#queue;
    const other = this.#queue.findIndex((one) => one.steps !== steps || one.seed !== seed);
    return this.#queue.splice(0, other < 0 ? GROUP : Math.min(GROUP, other));
  }

  async #work() {
    const turn = (this.#turn += 1);
    try {
      while (this.#queue.length) {
        this.#group = this.#next();
        const [{ steps, seed }] = this.#group;
        const keys = new Map(this.#group.map(({ channel, key }) => [channel, key]));
        let now = await post("drawings", { ...this.#place, channels: [...keys.keys()], steps, seed });
        if (turn !== this.#turn) return void call(`drawings/${now.id}`, { method: "DELETE" }).catch(() => {});
        for (;;) {
          this.#take(now, keys);
          if (!["running", "paused"].includes(now.state)) break;
          now = await get(`drawings/${now.id}?after=${now.version}`);
          if (turn !== this.#turn) return;
        }
        if (now.state === "failed") throw new Error(now.error);
        if (now.state === "stopped") return;
      }
    } finally {
      if (turn === this.#turn) this.#rest();
    }
  }

  #take(now, keys) {
    this.#now = now;
    if (now.state === "running") this.#pace.take(now.step, performance.now());
    else this.#pace.pause();
    const done = now.state === "done";
    for (const { channel, picture, score, still } of now.channels) {
      if (!picture) continue;
      const found = still ? (done ? STILL : "zero gradient so far") : score.toPrecision(3);
      const told = done && still ? found : `${now.step} of ${now.steps}: ${found}`;
      this.#made.set(keys.get(channel), { picture, drawing: now.id, told, still, done });
    }
    this.#refresh();
    this.#tell();
  }

  #refresh() {
    for (const [channel, { image, draw, save, told }] of this.#shown) {
      const key = this.#key(channel);
      const made = this.#made.get(key);
      const waited = this.#waited(key);
      image.hidden = save.hidden = !made || made.still; // noise is no answer
      draw.setAttribute("aria-disabled", String(waited)); // not disabled: it would lose the focus
      if (made?.done && document.activeElement === draw) (save.hidden ? this.all : save).focus();
      draw.hidden = made?.done ?? false;
      told.textContent = made?.told ?? (waited ? "waiting" : "");
      if (made && image.src !== made.picture) image.src = made.picture;
    }
  }

  #tell() {
    if (!this.#now && this.under.contains(document.activeElement)) this.all.focus(); // rather than nowhere
    this.under.hidden = !this.#now;
    if (!this.#now) return;
    const { step, steps, state, channels } = this.#now;
    this.bar.max = steps;
    this.bar.value = step;
    const names = channels.map((one) => one.channel).join(", ");
    const rest = this.#queue.length ? `, ${this.#queue.length} to come` : "";
    const text = `${state === "paused" ? "Paused" : "Drawing"} ${names}${rest}`;
    if (this.text.textContent !== text) this.text.textContent = text; // said aloud when it is set
    const groups = Math.ceil(this.#queue.length / GROUP);
    this.left.textContent = state === "running" ? this.#pace.left(steps - step + groups * steps) : "";
    this.pauser.textContent = state === "paused" ? "Resume" : "Pause";
  }

  async #pause() {
    if (!this.#now) return;
    try {
      await post(`drawings/${this.#now.id}/${this.#now.state === "paused" ? "resume" : "pause"}`, {});
    } catch (error) {
      this.failed(error);
    }
  }

  async #save(channel) {
    const key = this.#key(channel);
    const made = this.#made.get(key);
    try {
      const answer = await call(`drawings/${made.drawing}/channels/${channel}`);
      download(await answer.blob(), `${this.#place.layer}-channel-${channel}-seed-${this.seed.value}.png`);
    } catch (error) {
      if (error.status === 404) {
        this.#made.delete(key); // the server keeps the last ones: it can be drawn again
        this.#refresh();
      }
      this.failed(error);
    }
  }
}
