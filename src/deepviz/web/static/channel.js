// One channel, enlarged, with the images of the page that activate it most.

import { digits } from "../viewer/scale.js";
import { get, picture, post } from "./api.js";
import { element } from "./elements.js";
import { titleOf } from "./layers.js";
import { known, view } from "./state.js";

const LARGE = 768; // pixels of the longer side
const AT_ONCE = 16; // images in a request
const MOST = 512; // images that are looked at
const BEST = 8; // that are shown

// `path`: of the activations of an image; `generated`: the feature visualisation, if there is one; `choose` is given the
// id of an image.
export function enlarge({ model, layer, photograph, path, one, generated, choose }) {
  const left = new AbortController();
  const large = element("img", { src: one.picture, alt: `Channel ${one.channel} on ${photograph.name}` });
  const told = element("p", { class: "hint", role: "status" });
  const best = element("ol", { class: "most" });
  const dialog = element(
    "dialog",
    { class: "channel", "aria-labelledby": "channel-title" },
    element(
      "div",
      { class: "head" },
      element("h2", { id: "channel-title" }, `Channel ${one.channel} of ${titleOf(known.tree, layer)}`),
      element("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"),
    ),
    element(
      "div",
      { class: "pictures" },
      element("figure", {}, large, element("figcaption", {}, `${photograph.name}: mean ${digits(one.strength, 3)}, largest ${digits(one.peak, 3)}`)),
      generated ? element("figure", {}, element("img", { src: generated, alt: `Feature visualisation of channel ${one.channel}` }), element("figcaption", {}, "Feature visualisation")) : null,
    ),
    element("h3", {}, "Images that activate it most"),
    told,
    best,
  );
  dialog.addEventListener("close", () => {
    left.abort();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  get(`${path}&channel=${one.channel}&size=${LARGE}`, { signal: left.signal }).then(
    (found) => (large.src = found.shown[0].picture),
    () => {}, // the small one stays
  );
  const take = (id) => {
    dialog.close();
    choose(id);
  };
  rank({ model, layer, channel: one.channel, told, best, take, signal: left.signal }).catch((error) => {
    if (error.name !== "AbortError") told.textContent = error.message;
  });
}

// Look at one image after the other, those that are compared first; the best so far are shown.
async function rank({ model, layer, channel, told, best, take, signal }) {
  const compared = new Set(view.photographs);
  const order = known.photographs.toSorted((a, b) => Number(compared.has(b.id)) - Number(compared.has(a.id))).slice(0, MOST);
  const found = [];
  let failed = 0;
  for (let at = 0; at < order.length; at += AT_ONCE) {
    const photographs = order.slice(at, at + AT_ONCE).map((one) => one.id);
    for (const one of await post(`models/${model}/peaks`, { layer, channel, photographs }, { signal })) {
      if (one.peak === null) failed += 1;
      else found.push(one);
    }
    const done = Math.min(at + AT_ONCE, order.length);
    const rest = known.photographs.length > order.length ? `the first ${order.length}` : `${order.length}`;
    told.textContent = `By the channel's largest activation; ${done < order.length ? `${done} of ${rest} images so far` : `${rest} image${order.length === 1 ? "" : "s"} of this page`}${failed ? `, ${failed} failed` : ""}.`;
    best.replaceChildren(...found.toSorted((a, b) => b.peak - a.peak).slice(0, BEST).map((one) => line(one, take)));
  }
  for (const each of best.children) {
    const path = `models/${model}/photographs/${each.dataset.id}/activations?layer=${encodeURIComponent(layer)}&channel=${channel}`;
    const { shown } = await get(path, { signal });
    each.querySelector("img").src = shown[0].picture;
  }
}

function line({ photograph, peak }, take) {
  const { name } = known.photographs.find((one) => one.id === photograph) ?? { name: "image" };
  const image = element("img", { alt: "", width: 112 });
  picture(photograph, 192).then((address) => (image.src ||= address), () => {});
  return element(
    "li",
    { "data-id": photograph },
    element("button", { type: "button", class: "enlarge", title: `${name}: show its channels`, onclick: () => take(photograph) }, image, element("span", {}, name), element("b", {}, digits(peak, 3))),
  );
}
