// The Inside tab: what an image does in one of the network's layers.

import { get } from "./api.js";
import { enlarge } from "./channel.js";
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
  for (const id of ["channels", "channels-drawing", "channels-more"]) $(id).replaceChildren();
}

// `drawings` draws what the channels look for; `retry` asks once more for what could not be fetched; `choose` is given
// an image's id.
// Whether the channels of another layer, or these, are shown.
export async function drawChannels(model, photograph, layer, { drawings, retry, choose }) {
  const mine = ++asked;
  const hint = $("channels-hint");
  showTitle(layer);
  hint.textContent = `Activations for ${photograph.name} …`;
  $("channels").classList.add("stale");
  $("channels-more").replaceChildren();
  drawings.at(model, layer);
  const path = `models/${model}/photographs/${photograph.id}/activations?layer=${encodeURIComponent(layer)}`;
  const figure = (one) => figureOf(one, photograph, drawings, () => enlarge({ model, layer, photograph, path, one, generated: drawings.picture(one.channel), choose }));
  try {
    const found = await get(path);
    if (mine !== asked) return true; // another layer was chosen meanwhile
    const [h, w] = found.grid;
    const silent = found.silent ? `, ${found.silent} of them silent here` : "";
    hint.textContent = `${found.channels} channels of ${w} × ${h}${silent}. Those with the strongest activations for ${photograph.name} come first, each on its own scale.`;
    drawings.clear();
    const current = () => mine === asked;
    $("channels-drawing").replaceChildren(drawings.bars, search(found.channels, path, figure, current));
    $("channels").replaceChildren(...found.shown.map(figure));
    offerMore(found, path, figure, current);
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

function figureOf(one, photograph, drawings, open) {
  const image = element("img", { src: one.picture, alt: `Channel ${one.channel} on ${photograph.name}: enlarge` });
  return element(
    "figure",
    { "data-channel": String(one.channel) },
    element("button", { type: "button", class: "enlarge", onclick: open }, image),
    element("figcaption", {}, element("b", {}, `${one.channel}`), ` mean ${one.strength.toPrecision(3)}`),
    drawings.figure(one.channel),
  );
}

// The next ones, for a button below.
function offerMore(found, path, figure, current) {
  const next = found.first + found.shown.length;
  if (next >= found.channels) return $("channels-more").replaceChildren();
  const more = element("button", { type: "button", class: "quiet", id: "more-channels" }, "More channels");
  const told = element("span", { class: "of" }, ` ${next} of ${found.channels}`);
  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      const others = await get(`${path}&first=${next}`);
      if (!current()) return;
      const there = (one) => $("channels").querySelector(`[data-channel="${one.channel}"]`); // found by its number
      const figures = others.shown.filter((one) => !there(one)).map(figure);
      $("channels").append(...figures);
      offerMore(others, path, figure, current);
      figures[0]?.querySelector("button").focus();
    } catch (error) {
      more.disabled = false;
      say(error.message, true);
    }
  });
  $("channels-more").replaceChildren(more, told);
}

// A field for a channel's number.
function search(channels, path, figure, current) {
  const last = channels - 1;
  const input = element("input", { type: "number", id: "channel-number", class: "value", min: 0, max: last, step: 1, placeholder: `0 to ${last}` });
  return element(
    "form",
    {
      class: "drawing",
      novalidate: "",
      onsubmit: async (event) => {
        event.preventDefault();
        const channel = Number(input.value);
        if (input.value === "" || !input.checkValidity()) return say(`A channel of this layer is a whole number from 0 to ${last}.`, true);
        try {
          let shown = $("channels").querySelector(`[data-channel="${channel}"]`);
          if (!shown) {
            const found = await get(`${path}&channel=${channel}`);
            if (!current()) return;
            shown = figure(found.shown[0]);
            $("channels").prepend(shown);
          }
          shown.scrollIntoView({ block: "nearest" });
          shown.querySelector("button").focus();
          input.value = "";
        } catch (error) {
          say(error.message, true);
        }
      },
    },
    element("label", { for: input.id }, "Channel"),
    input,
    element("button", { type: "submit", class: "quiet" }, "Show"),
  );
}
