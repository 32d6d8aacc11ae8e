// The report: its data lie in the page.

import { showEmbedded } from "./embedded.js";

const data = JSON.parse(document.getElementById("data").textContent);
globalThis.comparison = showEmbedded(document.getElementById("comparison"), data);
