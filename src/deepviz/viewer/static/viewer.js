// What a page needs: a grid of maps that can be looked at from all sides, without anything being computed again.

export { Comparison } from "./comparison.js";
export { decode } from "./decode.js";
export { pictureOf } from "./tile.js";
export { DEFAULTS, settingsFrom } from "./settings.js";
