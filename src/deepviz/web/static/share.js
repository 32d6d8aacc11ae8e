// What is taken away: links, code, files.

import { call, post } from "./api.js";
import { asJob, byPhotograph, columns, requests, rows } from "./columns.js";
import { copy, download, say } from "./elements.js";
import { view } from "./state.js";

const FILES = { report: "deepviz-report.html", sheet: "deepviz-sheet.png", data: "results.deepviz" };

// All that is shown, as requests; what is known to be no map is left out.
function asked(results) {
  const wanted = (row, one) => typeof (results.cell(row.photograph.id, row.target, one) ?? "") === "string";
  return requests(columns()).flatMap((group) => {
    const shown = rows().filter((row) => group.some((one) => wanted(row, one)));
    // the predicted class is not named: what is copied is for other images too
    const predicted = (row) => group[0].versus === undefined && group[0].model === view.model && !view.targets[row.photograph]?.length;
    const asRow = (row) => (predicted(row) ? { photograph: row.photograph } : row);
    return shown.length ? [asJob(group, byPhotograph(shown, group).map(asRow))] : [];
  });
}

/**
 * Copy or save what is shown.
 * @param {string} what  "link", "python", "command", or a file: "report", "sheet", "data".
 * @param {import("./results.js").Results} results
 */
export async function takeAway(what, results) {
  if (what === "link") return copy(location.href, "Link");
  if (what === "python" || what === "command") {
    const comparisons = asked(results);
    if (!comparisons.length) return say("There is nothing to copy yet.");
    const said = await post("snippets", { comparisons });
    return copy(said[what], what === "python" ? "Python code" : "Command");
  }
  const cells = rows().flatMap((row) => columns().map((one) => results.cell(row.photograph.id, row.target, one)));
  const there = cells.filter((one) => typeof one === "string");
  const missing = cells.filter((one) => one === null).length;
  if (!there.length) return say("There is nothing to save yet.");
  say("Saving …");
  const answer = await call(what, { method: "POST", json: { results: there } });
  download(await answer.blob(), FILES[what]);
  say(missing ? `${FILES[what]} saved without ${missing} maps that are still being computed` : `${FILES[what]} saved`, missing > 0);
}
