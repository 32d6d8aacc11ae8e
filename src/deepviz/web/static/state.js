// What the page knows of the server, and what it shows: the one store that its parts read.

/**
 * @typedef {object} Photograph  An image of the server.
 * @property {string} id
 * @property {string} name  Unlike that of any other one.
 */
/**
 * @typedef {object} Layer  A module of the network, as `viz_layers` tells of it.
 * @property {string} layer  Its name, by which it is asked for.
 * @property {string} title  As people read it.
 * @property {string} type
 * @property {number} depth
 * @property {number[] | null} output
 * @property {number[] | null} grid  Null if it does not lie on the image.
 * @property {boolean} usable  By the methods that take a layer.
 * @property {boolean} default
 * @property {number} parameters
 * @property {string} reason  Why it is not usable.
 */
/**
 * @typedef {object} Chosen  A method with the options that are not its defaults.
 * @property {string} name
 * @property {Record<string, string>} [options]
 */
/** @typedef {number | string} Target  A class by its index, or an expression such as "logit(281) - logit(282)". */
/**
 * @typedef {Chosen & {model: string, layer: string | null, title: string, versus?: "next" | number}} Column
 * Of the comparison; `versus`: the class that it is compared with.
 */
/**
 * @typedef {object} Row  Of the comparison: a target of an image.
 * @property {string} key
 * @property {Photograph} photograph
 * @property {Target} target
 * @property {string} label
 * @property {number | null} probability
 */

export const known = {
  models: [],
  /** @type {Photograph[]} */ photographs: [],
  methods: [],
  /** @type {{layers: Layer[], default: string | null} | null} */ tree: null,
  /** @type {string[]} */ labels: [],
  predictions: new Map(), // by model and image: a promise of the best classes
  classes: new Map(), // likewise, those that are there
  /** @type {Map<string, {layers: string[], reason: string}>} */ attention: new Map(), // by model: its layers of attention
  chances: new Map(), // likewise, a promise of the probability of each class
};

export const view = {
  model: "",
  /** @type {string[]} */ photographs: [],
  active: "", // the image whose classes are listed
  /** @type {Record<string, Target[]>} */ targets: {},
  /** @type {Chosen[]} */ methods: [],
  by: "methods",
  /** @type {"next" | number | null} */ versus: null,
  /** @type {[string, string] | null} */ difference: null, // of two columns, by their keys
  /** @type {string | null} */ layer: null,
  /** @type {string[]} */ layers: [],
  tab: "compare",
  /** @type {string | null} */ inside: null,
  of: "channels", // what the Inside tab shows of the layer: these, or "attention"
  look: null,
};

export const info = (id) => known.photographs.find((one) => one.id === id);
export const method = (name) => known.methods.find((one) => one.name === name);
