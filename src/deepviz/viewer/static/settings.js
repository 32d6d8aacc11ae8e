// What a reader can change without anything being computed again, and the controls for it.

import { freshId, make } from "./elements.js";
import { colourMaps } from "./paint.js";
import { PAINT } from "./tables.js";

/**
 * @typedef {object} Settings
 * @property {string} view  "overlay", "map", "error" or "image".
 * @property {number} opacity  From 0 to 1.
 * @property {number} threshold  Percentile of the magnitudes below which nothing is drawn.
 * @property {string} colours
 * @property {string} diverging  Of signed maps.
 * @property {string} sign  "both", "positive", "negative" or "magnitude".
 * @property {string} scale  "row", "own", "method" or "all".
 * @property {boolean} contours
 * @property {string} size  "s", "m" or "l".
 */

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  view: "overlay",
  opacity: PAINT.opacity,
  threshold: 0,
  colours: PAINT.colours,
  diverging: PAINT.diverging,
  sign: "both",
  scale: "row",
  contours: false,
  size: "m",
});

const CHOICES = {
  view: { overlay: "Overlay", map: "Map", error: "Error", image: "Image" },
  sign: { both: "± both", positive: "+", negative: "−", magnitude: "|x|" },
  scale: { row: "Each row", own: "Each map", method: "Each method", all: "All" },
  size: { s: "S", m: "M", l: "L" },
};
const SPOKEN = {
  error: "Standard error of each value",
  both: "Both signs", positive: "Positive values only", negative: "Negative values only", magnitude: "Magnitude",
  s: "Small", m: "Medium", l: "Large",
  row: "One scale for the maps of a method and model in a row", own: "A scale for each map", method: "One scale for each method", all: "One scale for all maps",
};

// Settings out of anything, such as a permalink: unknown names and values are left out.
/**
 * @param {Record<string, any> | null | undefined} given
 * @returns {Settings}
 */
export function settingsFrom(given) {
  const found = { ...DEFAULTS };
  for (const [name, value] of Object.entries(given ?? {})) {
    if (name in CHOICES) {
      if (Object.hasOwn(CHOICES[name], value)) found[name] = value;
    } else if (name === "opacity" && value >= 0 && value <= 1) found.opacity = Number(value);
    else if (name === "threshold" && value >= 0 && value <= 99) found.threshold = Number(value);
    else if (name === "contours") found.contours = value === true;
    else if (name === "colours" && colourMaps(false).some((one) => one.name === value)) found.colours = value;
    else if (name === "diverging" && colourMaps(true).some((one) => one.name === value)) found.diverging = value;
  }
  return found;
}

const titles = (diverging) => colourMaps(diverging).map((table) => [table.name, table.title]);

// The controls: `change(part)` is called with what the reader changed, `zoom(factor)` with 0 for all of it.
export class Toolbar {
  constructor(settings, change, zoom) {
    this.change = change;
    this.inputs = {};
    const opacity = this.slider("opacity", "Opacity", 100, (share) => `${share} %`, 100);
    const threshold = this.slider("threshold", "Threshold", 99, (part) => (part ? `top ${Math.round(100 - part)} %` : "off"), 1);
    threshold.title = "Show only the values of largest magnitude";
    const more = make(
      "div",
      { class: "dv-more", id: freshId("more") },
      threshold,
      this.toggle("contours", "Contours"),
      this.segments("sign", "Sign"),
      this.list("colours", "Colours", titles(false)),
      this.list("diverging", "Signed colours", titles(true)),
      this.list("scale", "Scale", Object.entries(CHOICES.scale)),
      this.segments("size", "Size"),
      this.zooms(zoom),
    );
    const opener = make("button", { type: "button", class: "dv-opener", "aria-expanded": "false", "aria-controls": more.id }, "More");
    opener.addEventListener("click", () => {
      const open = this.element.classList.toggle("dv-open");
      opener.setAttribute("aria-expanded", String(open));
      opener.textContent = open ? "Less" : "More";
    });
    this.element = make(
      "div",
      { class: "dv-tools", role: "group", "aria-label": "How the maps are drawn" },
      this.segments("view", "View"),
      opacity,
      opener,
      more,
    );
    this.show(settings);
  }

  // Bring the controls in line with settings, and leave out what no map on the page has use for.
  show(settings, has = { signed: true, unsigned: true, errors: false }) {
    for (const [name, update] of Object.entries(this.inputs)) update(settings[name]);
    const magnitude = settings.sign === "magnitude";
    this.element.classList.toggle("dv-unsigned", !has.signed);
    this.element.classList.toggle("dv-signed", !has.unsigned && !magnitude);
    this.element.classList.toggle("dv-no-errors", !has.errors && settings.view !== "error");
    this.element.classList.toggle("dv-plain", settings.view === "image");
  }

  slider(name, title, most, words, factor) {
    const id = freshId(name);
    const input = make("input", { type: "range", id, min: 0, max: most, step: 1 });
    const told = make("output", { for: id, class: "dv-told" });
    const tell = () => {
      told.textContent = words(Number(input.value));
      input.setAttribute("aria-valuetext", told.textContent);
    };
    input.addEventListener("input", () => {
      tell();
      this.change({ [name]: Number(input.value) / factor });
    });
    this.inputs[name] = (value) => {
      input.value = String(Math.round(value * factor));
      tell();
    };
    return make("div", { class: `dv-control dv-set-${name}` }, make("label", { for: id }, title), input, told);
  }

  segments(name, title) {
    const group = freshId(name);
    const inputs = [];
    const radios = Object.entries(CHOICES[name]).map(([value, text]) => {
      const input = make("input", { type: "radio", name: group, value, "aria-label": SPOKEN[value] ?? text });
      input.addEventListener("change", () => this.change({ [name]: value }));
      inputs.push(input);
      return make("label", { title: SPOKEN[value] ?? text, class: `dv-${name}-${value}` }, input, make("span", {}, text));
    });
    this.inputs[name] = (value) => {
      for (const input of inputs) input.checked = input.value === value;
    };
    const legend = make("span", { class: "dv-legend", id: `${group}-title` }, title);
    const row = make("span", { class: "dv-segments", role: "radiogroup", "aria-labelledby": `${group}-title` }, ...radios);
    return make("div", { class: `dv-control dv-set-${name}` }, legend, row);
  }

  list(name, title, pairs) {
    const id = freshId(name);
    const select = make("select", { id }, ...pairs.map(([value, text]) => make("option", { value }, text)));
    select.addEventListener("change", () => this.change({ [name]: select.value }));
    this.inputs[name] = (value) => (select.value = value);
    return make("div", { class: `dv-control dv-set-${name}` }, make("label", { for: id }, title), select);
  }

  toggle(name, title) {
    const input = make("input", { type: "checkbox", id: freshId(name) });
    input.addEventListener("change", () => this.change({ [name]: input.checked }));
    this.inputs[name] = (value) => (input.checked = value);
    return make("div", { class: `dv-control dv-set-${name}` }, input, make("label", { for: input.id }, title));
  }

  zooms(zoom) {
    const button = (text, title, factor) => {
      const made = make("button", { type: "button", title, "aria-label": title }, text);
      made.addEventListener("click", () => zoom(factor));
      return made;
    };
    return make(
      "div",
      { class: "dv-control dv-zooms", role: "group", "aria-label": "Zoom" },
      make("span", { class: "dv-legend", "aria-hidden": "true" }, "Zoom"),
      make(
        "span",
        { class: "dv-buttons" },
        button("−", "Zoom out (−)", 1 / 1.5),
        button("+", "Zoom in (+)", 1.5),
        button("Fit", "Fit the whole image (0)", 0),
      ),
    );
  }
}
