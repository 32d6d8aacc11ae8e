// The Inside tab: the layers of the network, and what a photograph does in one of them.

import { get } from "./api.js";
import { $, element, say } from "./elements.js";

let asked = 0;

export function drawTree(tree, chosen, choose) {
  const wanted = $("tree-filter").value.trim().toLowerCase();
  const rows = tree.layers.filter((row) => !wanted || `${row.layer} ${row.type}`.toLowerCase().includes(wanted));
  $("tree").replaceChildren(
    ...rows.map((row) => {
      const shape = row.output ? row.output.slice(1).join(" × ") : "";
      const button = element(
        "button",
        {
          type: "button",
          "aria-pressed": String(row.layer === chosen),
          disabled: !row.grid,
          title: row.grid ? `${row.layer}: ${row.parameters.toLocaleString("en")} parameters` : `${row.layer}: ${row.reason}`,
          "aria-label": `${row.layer}, ${row.type}, ${shape || "no output of its own"}`,
          onclick: () => choose(row.layer),
        },
        element("span", { class: `layer depth-${wanted ? 0 : Math.min(row.depth, 4)}` }, wanted ? row.layer : row.layer.split(".").pop()),
        element("span", { class: "type" }, row.type),
        element("span", { class: "shape" }, shape),
      );
      return element("li", {}, button);
    }),
  );
  $("tree").querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest" });
  $("tree-filter").oninput = () => drawTree(tree, chosen, choose);
}

// `drawings` draws what the channels look for; `retry` asks once more for what could not be fetched.
// Whether the channels of another layer, or these, are shown.
export async function drawChannels(model, photograph, layer, drawings, retry) {
  const mine = ++asked;
  const hint = $("channels-hint");
  $("channels-title").textContent = layer;
  hint.textContent = `Activations for ${photograph.name} …`;
  $("channels").classList.add("stale");
  drawings.at(model, layer);
  try {
    const path = `models/${model}/photographs/${photograph.id}/activations?layer=${encodeURIComponent(layer)}`;
    const found = await get(path);
    if (mine !== asked) return true; // another layer was chosen meanwhile
    const [h, w] = found.grid;
    const silent = found.silent ? `, ${found.silent} of them silent here` : "";
    hint.textContent = `${found.channels} channels of ${w} × ${h}${silent}. The ${found.strongest.length} with the strongest activations for ${photograph.name}, each on its own scale.`;
    drawings.clear();
    $("channels-drawing").replaceChildren(drawings.bars);
    $("channels").replaceChildren(
      ...found.strongest.map((one) =>
        element(
          "figure",
          {},
          element("img", { src: one.picture, alt: `Channel ${one.channel} on ${photograph.name}` }),
          element("figcaption", {}, element("b", {}, `${one.channel}`), ` mean ${one.strength.toPrecision(3)}`),
          drawings.figure(one.channel),
        ),
      ),
    );
    return true;
  } catch (error) {
    if (mine !== asked) return true;
    $("channels").replaceChildren(element("button", { type: "button", class: "quiet", onclick: retry }, "Try again"));
    hint.textContent = error.message;
    say(error.message, true);
    return false;
  } finally {
    if (mine === asked) $("channels").classList.remove("stale");
  }
}
