// What channels look for: drawn by the server in small groups, shown here as it emerges.

import { call, get, post } from "./api.js";
import { download, element, say } from "./elements.js";

const GROUP = 4; // channels drawn together: fewer come faster, more cost less each

export class Drawings {
  #shown = new Map(); // by channel: where its image goes
  #made = new Map(); // by what was asked for: { picture, drawing, channel, told }
  #queue = [];
  #now = null; // the drawing under way, as the server tells it
  #turn = 0;
  #place = { model: "", layer: "" };

  // `failed`: errors.
  constructor(failed) {
    this.failed = failed;
    this.bar = element("progress", { max: 1, value: 0, "aria-label": "Steps drawn" });
    this.text = element("span", { role: "status" });
    this.pauser = element("button", { type: "button", class: "quiet", onclick: () => this.#pause() }, "Pause");
    this.stopper = element("button", { type: "button", class: "quiet", onclick: () => this.stop() }, "Stop");
    this.seed = element("input", { type: "number", id: "drawing-seed", class: "value", min: 0, max: 4294967295, step: 1, value: "0" });
    this.steps = element(
      "select",
      { id: "drawing-steps" },
      ...[[60, "60, a sketch"], [200, "200"], [400, "400, finer"]].map(([steps, title]) => element("option", { value: String(steps), selected: steps === 200 }, title)),
    );
    this.all = element("button", { type: "button", class: "quiet", onclick: () => this.draw([...this.#shown.keys()]) }, "Draw what they look for");
    this.under = element("div", { class: "under", hidden: true }, this.bar, this.text, this.pauser, this.stopper);
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
    const image = element("img", { alt: `What channel ${channel} looks for`, hidden: true });
    const draw = element("button", { type: "button", class: "quiet", "aria-label": `Draw what channel ${channel} looks for`, onclick: () => this.draw([channel]) }, "Draw");
    const save = element("button", { type: "button", class: "quiet", "aria-label": `Save the image of channel ${channel}`, hidden: true, onclick: () => this.#save(channel) }, "Save");
    const told = element("span", { class: "told" });
    const holder = element("div", { class: "wanted" }, image, element("p", {}, draw, save, told));
    this.#shown.set(channel, { image, draw, save, told });
    this.#refresh();
    return holder;
  }

  clear() {
    this.#shown.clear();
  }

  draw(channels) {
    if (!this.seed.checkValidity() || this.seed.value === "") return say("A seed is a whole number from 0 to 4294967295.", true);
    const known = new Set([...this.#queue, ...(this.#now?.channels.map((one) => one.channel) ?? [])]);
    this.#queue.push(...channels.filter((channel) => !known.has(channel) && !this.#finished(channel)));
    if (!this.#now) this.#work().catch(this.failed);
  }

  stop() {
    this.#queue = [];
    this.#turn += 1;
    if (this.#now) call(`drawings/${this.#now.id}`, { method: "DELETE" }).catch(() => {});
    this.#now = null;
    this.#tell();
  }

  #key(channel) {
    return JSON.stringify([this.#place, channel, Number(this.seed.value), Number(this.steps.value)]);
  }

  #finished(channel) {
    return this.#made.get(this.#key(channel))?.done ?? false;
  }

  async #work() {
    const turn = (this.#turn += 1);
    try {
      while (this.#queue.length) {
        const channels = this.#queue.splice(0, GROUP);
        const asked = { ...this.#place, channels, steps: Number(this.steps.value), seed: Number(this.seed.value) };
        const keys = new Map(channels.map((channel) => [channel, this.#key(channel)]));
        let now = await post("drawings", asked);
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
      if (turn === this.#turn) {
        this.#now = null;
        this.#queue = [];
        this.#tell();
      }
    }
  }

  #take(now, keys) {
    this.#now = now;
    for (const { channel, picture, score } of now.channels) {
      if (!picture) continue;
      const told = `${now.step} of ${now.steps}: ${score.toPrecision(3)}`;
      this.#made.set(keys.get(channel), { picture, drawing: now.id, told, done: now.state === "done" });
    }
    this.#refresh();
    this.#tell();
  }

  #refresh() {
    for (const [channel, { image, draw, save, told }] of this.#shown) {
      const made = this.#made.get(this.#key(channel));
      image.hidden = save.hidden = !made;
      draw.hidden = Boolean(made);
      told.textContent = made?.told ?? "";
      if (made && image.src !== made.picture) image.src = made.picture;
    }
  }

  #tell() {
    this.under.hidden = !this.#now;
    if (!this.#now) return;
    const { step, steps, state, channels } = this.#now;
    this.bar.max = steps;
    this.bar.value = step;
    const names = channels.map((one) => one.channel).join(", ");
    const rest = this.#queue.length ? `, ${this.#queue.length} to come` : "";
    this.text.textContent = `${state === "paused" ? "Paused" : "Drawing"} ${names}${rest}`;
    this.pauser.textContent = state === "paused" ? "Go on" : "Pause";
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
    const made = this.#made.get(this.#key(channel));
    try {
      const answer = await call(`drawings/${made.drawing}/channels/${channel}`);
      download(await answer.blob(), `${this.#place.layer}-channel-${channel}-seed-${this.seed.value}.png`);
    } catch (error) {
      this.failed(error);
    }
  }
}
