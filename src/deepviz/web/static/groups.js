// Groups of a run's maps: a mean map for each class, or clusters of maps that look alike.

import { get, post } from "./api.js";
import { $, element } from "./elements.js";
import { conditions, thumbnailOf } from "./query.js";
import { Pictures } from "./screens.js";

/** @typedef {{name: string, images: number, separation?: number, typical?: number[]}} Group */

const WORDS = {
  classes: ["Mean map of each class", "The mean of the maps of each class, each divided by the mean of its magnitudes: where the method's evidence lies in most of them. A click shows the images."],
  clusters: ["Clusters of maps that look alike", "Spectral relevance analysis: where a model reads something else in some images than in others, such as a watermark, their maps are a cluster of their own. It tells most of one class at a time: choose a label."],
};
const COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f", "#9aa0a6"];
const NEAR = 12; // pixels from the pointer to a point
const EDGE = 16; // pixels about all points
const colourOf = (number) => COLOURS[number % COLOURS.length];
const counted = (count, what = "image") => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

export class Groups {
  #turn = 0;
  #asked = "";
  /** @type {any} */ #found = null;
  #lit = -1; // the cluster that is emphasised
  #at = -1; // the point under the pointer

  /**
   * @param {{show: (part: object) => void, open: (image: number) => void, failed: (error: Error) => void}} act
   * `show`: the rows of a group; `open`: an image in full.
   */
  constructor(act) {
    this.act = act;
    this.pictures = new Pictures((address) => this.#arrived(address));
    this.seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) target.classList.toggle("seen", isIntersecting);
      this.#ask();
    }, { rootMargin: "200px" });
    const plot = $("plot");
    plot.addEventListener("pointermove", (event) => this.#point(event));
    plot.addEventListener("pointerleave", () => this.#show(-1));
    plot.addEventListener("click", () => this.#at >= 0 && this.act.open(this.#found.points[this.#at][0]));
    new ResizeObserver(() => this.#plot()).observe(plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot());
  }

  /**
   * Group the maps of the rows of a view.
   * @param {"classes" | "clusters"} tab
   * @param {import("./query.js").View} view
   * @param {{by: string, n: number | null, method: string}} how
   */
  async show(tab, view, { by, n, method }) {
    const all = { ...view, method: "", rank: -1 };
    const asked = { kind: tab === "clusters" ? "clusters" : by, where: conditions(all), method, rank: Math.max(view.rank, 0), n: tab === "clusters" ? n : null };
    const key = JSON.stringify(asked);
    if (key === this.#asked) return this.#plot();
    const turn = (this.#turn += 1);
    this.#asked = key;
    [$("groups-title").textContent, $("groups-hint").textContent] = WORDS[tab];
    $("by").hidden = tab === "clusters";
    $("n-pair").hidden = tab !== "clusters";
    this.#clear();
    $("groups-status").textContent = "Maps are read";
    $("groups-bar").hidden = false;
    try {
      let found = await post("run/groups", asked);
      while (turn === this.#turn && ["waiting", "running"].includes(found.state)) {
        $("groups-status").textContent = `The maps of ${method} of ${counted(found.images)} are read`;
        found = await get(`run/groups/${found.id}`);
      }
      if (turn !== this.#turn) return;
      if (found.state === "dropped") return this.forget();
      this.#draw(tab, found);
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#asked = "";
      this.#problem(error.message);
      if (error.status !== 422) this.act.failed(error);
    }
  }

  // What is shown may not be there any more: ask again next time.
  forget() {
    this.#asked = "";
  }

  #clear() {
    this.#found = null;
    this.seen.disconnect();
    $("groups-problem").hidden = true;
    $("plot-box").hidden = true;
    $("groups-list").replaceChildren();
    $("groups-note").textContent = "";
  }

  #problem(text) {
    $("groups-bar").hidden = true;
    $("groups-status").textContent = "";
    $("groups-problem").textContent = text;
    $("groups-problem").hidden = false;
  }

  #draw(tab, found) {
    if (found.state === "failed") return this.#problem(found.reason);
    this.#found = found;
    $("groups-bar").hidden = true;
    const drawn = found.images < found.of ? `, drawn at random of ${found.of.toLocaleString("en")}` : "";
    const what = tab === "clusters" ? counted(found.groups.length, "cluster") : (found.groups.length === 1 ? "1 class" : `${found.groups.length.toLocaleString("en")} classes`);
    $("groups-status").textContent = `${what} of ${counted(found.images)}${drawn}`;
    const cards = found.groups.map((group, number) => this.#card(tab, group, number));
    if (found.odd?.length) cards.push(this.#odd(found.odd));
    $("groups-list").classList.toggle("small", tab === "classes");
    $("groups-list").replaceChildren(...cards);
    for (const card of cards) this.seen.observe(card);
    const note = found.footnote ?? "";
    $("groups-note").textContent = note && `${note[0].toUpperCase()}${note.slice(1)}.`;
    $("plot-box").hidden = !found.points;
    this.#lit = this.#at = -1;
    this.#plot();
  }

  /** @param {Group} group */
  #card(tab, group, number) {
    const of = tab === "clusters";
    const told = of ? `${counted(group.images)}, separation ${group.separation?.toFixed(2)}` : counted(group.images);
    const show = () => this.act.show(of ? { within: `${this.#found.id}:${number}`, cluster: group.name } : { [this.#found.kind]: group.name });
    const card = element(
      "li",
      { class: "group" },
      element("button", { type: "button", class: "group-mean", "aria-label": `${group.name}, ${told}: show the images`, onclick: show }, this.#image(`run/groups/${this.#found.id}/${number}?size=192`)),
      element("h3", {}, of ? element("span", { class: "dot", "aria-hidden": "true" }) : null, element("span", { class: "label" }, group.name)),
      element("p", { class: "of" }, told),
      group.typical ? element("div", { class: "examples" }, ...group.typical.map((image) => this.#example(image))) : null,
    );
    if (of) {
      card.style.setProperty("--dot", colourOf(number));
      for (const [on, lit] of /** @type {[string, number][]} */ ([["pointerenter", number], ["pointerleave", -1], ["focusin", number], ["focusout", -1]])) {
        card.addEventListener(on, () => this.#light(lit));
      }
    }
    return card;
  }

  #odd(images) {
    return element(
      "li",
      { class: "group odd" },
      element("h3", {}, "The odd ones"),
      element("p", { class: "of" }, "whose maps are least like any other"),
      element("div", { class: "examples" }, ...images.map((image) => this.#example(image))),
    );
  }

  #example(index) {
    const row = { index, method: this.#found.method, rank: this.#found.rank, input: "" };
    return element("button", { type: "button", class: "example", "aria-label": `Image ${index} in full`, onclick: () => this.act.open(index) }, this.#image(thumbnailOf(row, 192)));
  }

  #image(address) {
    return element("img", { alt: "", "data-address": address, draggable: false });
  }

  // The pictures of the cards that can be seen.
  #ask() {
    const wanted = [...document.querySelectorAll(".group.seen img[data-address], #plot-shown img[data-address]")].map(
      (image) => /** @type {HTMLElement} */ (image).dataset.address ?? "",
    );
    this.pictures.want(wanted);
    for (const address of wanted) this.#arrived(address);
  }

  #arrived(address) {
    const url = this.pictures.picture(address);
    if (!url) return;
    for (const image of document.querySelectorAll(`#groups img[data-address="${CSS.escape(address)}"]`)) {
      if (!image.hasAttribute("src")) image.setAttribute("src", url);
    }
    const shown = $("plot-shown").querySelector("img");
    if (shown.dataset.address === address && shown.hidden) {
      shown.src = url;
      shown.hidden = false;
    }
  }

  #light(number) {
    if (number === this.#lit) return;
    this.#lit = number;
    this.#plot();
  }

  // Where the points lie on the plot, in its pixels.
  #places() {
    const { clientWidth: width, clientHeight: height } = $("plot");
    const points = this.#found.points;
    const range = (axis) => points.reduce(([low, high], one) => [Math.min(low, one[axis]), Math.max(high, one[axis])], [Infinity, -Infinity]);
    const [[left, right], [low, high]] = [range(2), range(3)];
    const across = (width - 2 * EDGE) / (right - left || 1);
    const up = (height - 2 * EDGE) / (high - low || 1);
    return points.map(([, , x, y]) => [EDGE + (x - left) * across, height - EDGE - (y - low) * up]);
  }

  #plot() {
    const plot = $("plot");
    if (!this.#found?.points || !plot.clientWidth) return;
    const scale = window.devicePixelRatio || 1;
    plot.width = Math.round(plot.clientWidth * scale);
    plot.height = Math.round(plot.clientHeight * scale);
    const context = plot.getContext("2d");
    context.scale(scale, scale);
    const places = this.#places();
    const draw = (n, radius) => {
      context.beginPath();
      context.arc(places[n][0], places[n][1], radius, 0, 7);
      context.fill();
    };
    this.#found.points.forEach(([, number], n) => {
      context.globalAlpha = this.#lit < 0 || this.#lit === number ? 0.8 : 0.12;
      context.fillStyle = colourOf(number);
      draw(n, 3.2);
    });
    context.globalAlpha = 1;
    if (this.#at >= 0) {
      context.fillStyle = getComputedStyle(plot).color;
      draw(this.#at, 7);
      context.fillStyle = colourOf(this.#found.points[this.#at][1]);
      draw(this.#at, 5);
    }
    const told = this.#found.groups.map((group) => `${group.name}: ${counted(group.images)}`).join(", ");
    plot.setAttribute("aria-label", `Points of maps in a plane. ${told}`);
  }

  #point(event) {
    if (!this.#found?.points) return;
    const box = $("plot").getBoundingClientRect();
    let [nearest, least] = [-1, NEAR];
    this.#places().forEach(([x, y], n) => {
      const far = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
      if (far < least) [nearest, least] = [n, far];
    });
    this.#show(nearest);
  }

  // The image of a point beside the plot.
  #show(at) {
    if (at === this.#at) return;
    this.#at = at;
    $("plot").style.cursor = at < 0 ? "" : "pointer";
    this.#plot();
    if (at < 0) return;
    const [index, number] = this.#found.points[at];
    const shown = $("plot-shown").querySelector("img");
    const address = thumbnailOf({ index, method: this.#found.method, rank: this.#found.rank, input: "" }, 192);
    shown.dataset.address = address;
    shown.hidden = true;
    $("plot-shown").querySelector("figcaption").textContent = `Image ${index.toLocaleString("en")}, ${this.#found.groups[number].name.toLowerCase()}`;
    this.#ask();
  }
}
