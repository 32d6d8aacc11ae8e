// The Inside tab: what an image does in one of the network's layers.

import { get } from "./api.js";
import { $, element, say } from "./elements.js";
import { titleOf } from "./layers.js";
import { known } from "./state.js";

let asked = 0;

function showTitle(layer) {
  $("channels-title").textContent = titleOf(known.tree, layer);
  $("channels-title").title = layer;
}


// What stands where channels would be while no image is chosen.
export function noChannels(layer) {
  asked += 1;
  showTitle(layer);
  $("channels-hint").textContent = "Choose an image to see what it does in a layer.";
  for (const id of ["channels", "channels-drawing"]) $(id).replaceChildren();
}

// `drawings` draws what the channels look for; `retry` asks once more for what could not be fetched.
// Whether the channels of another layer, or these, are shown.
export async function drawChannels(model, photograph, layer, drawings, retry) {
  const mine = ++asked;
  const hint = $("channels-hint");
  showTitle(layer);
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
