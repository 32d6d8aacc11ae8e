// What is asked of a run's rows: conditions in the language of `Run.where`, and an order.

/**
 * @typedef {object} View  What the page shows of a run.
 * @property {string} where  A condition, as it was typed.
 * @property {string} label  Of this label alone; "" for all.
 * @property {string} prediction  Likewise.
 * @property {"" | "correct" | "wrong"} correct
 * @property {boolean} warnings  With warnings alone.
 * @property {boolean} failures  Without a map alone.
 * @property {string} method  Of this method alone; "" for all.
 * @property {number} rank  Of this target of each image alone; -1 for all.
 * @property {string} within  Of this cluster alone, by the server's name of it; "" for all.
 * @property {string} cluster  What people call it.
 * @property {string} sort  A column; "" for the order of the run.
 * @property {boolean} descending
 * @property {number} open  The image that is shown in full; -1 for none.
 * @property {string} tab
 */

export const TABS = ["images", "classes", "clusters"];

/** @type {Readonly<View>} */
export const EVERYTHING = Object.freeze({
  where: "", label: "", prediction: "", correct: "", warnings: false, failures: false, method: "", rank: 0, within: "", cluster: "",
  sort: "", descending: false, open: -1, tab: "images",
});

// A text as Python writes it.
export const quoted = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

const CORRECT = { correct: "correct", wrong: "not correct" };

/**
 * The conditions that must hold, what was typed first. Images that could not be read have rows without a method.
 * @param {View} view
 * @returns {string[]}
 */
export function conditions(view) {
  return [
    view.where.trim(),
    view.method && `method == ${quoted(view.method)} or method == None`,
    view.rank >= 0 && `rank == ${view.rank} or rank == None`,
    view.label && `label == ${quoted(view.label)}`,
    view.prediction && `prediction == ${quoted(view.prediction)}`,
    view.correct && CORRECT[view.correct],
    view.warnings && "warnings",
    view.failures && "failure",
  ].filter(Boolean);
}

/**
 * How the server is asked for rows.
 * @param {View} view
 * @returns {URLSearchParams}
 */
export function parameters(view) {
  const found = new URLSearchParams(conditions(view).map((one) => ["where", one]));
  if (view.within) found.set("within", view.within);
  if (view.sort) found.set("sort", view.sort);
  if (view.descending) found.set("descending", "true");
  return found;
}

/**
 * The same as Python code.
 * @param {string} folder
 * @param {View} view
 */
export function asPython(folder, view) {
  const all = conditions(view);
  const whole = all.length > 1 ? all.map((one) => (/^[\w.]+$/.test(one) ? one : `(${one})`)).join(" and ") : (all[0] ?? "");
  return `import deepviz\n\nrun = deepviz.Run(${quoted(folder)})${whole ? `.where(${quoted(whole)})` : ""}\n`;
}

/**
 * What a link says, as far as it is anything; of the methods and columns there are.
 * @param {any} said
 * @param {{methods: string[], sortable: string[], ranks: number}} known
 * @returns {View}
 */
export function viewFrom(said, known) {
  const view = { ...EVERYTHING, method: known.methods[0] ?? "" };
  if (!said || typeof said !== "object") return view;
  for (const name of ["where", "label", "prediction"]) if (typeof said[name] === "string") view[name] = said[name];
  for (const name of ["warnings", "failures", "descending"]) if (typeof said[name] === "boolean") view[name] = said[name];
  if (Object.hasOwn(CORRECT, said.correct ?? "")) view.correct = said.correct;
  if (said.method === "" || known.methods.includes(said.method)) view.method = said.method;
  if (Number.isInteger(said.rank) && said.rank >= -1 && said.rank < known.ranks) view.rank = said.rank;
  if (/^[0-9a-f]{32}:\d{1,6}$/.test(said.within)) Object.assign(view, { within: said.within, cluster: String(said.cluster) });
  if (known.sortable.includes(said.sort)) view.sort = said.sort;
  if (Number.isInteger(said.open) && said.open >= 0) view.open = said.open;
  if (TABS.includes(said.tab)) view.tab = said.tab;
  return view;
}

/**
 * The address of a row's small picture.
 * @param {{index: number, method: string | null, rank: number | null, input: string | null}} row
 * @param {number} size
 */
export function thumbnailOf({ index, method, rank, input }, size) {
  const asked = new URLSearchParams({ size: String(size) });
  if (method !== null) asked.set("method", method);
  if (rank) asked.set("rank", String(rank));
  if (input) asked.set("input", input);
  return `run/images/${index}/thumbnail?${asked}`;
}
