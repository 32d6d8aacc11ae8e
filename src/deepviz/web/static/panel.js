// The panel beside the comparison: model, photographs, classes, methods with their options, layer.

import { picture } from "./api.js";
import { $, element, percent } from "./elements.js";

export function drawModels(models, chosen, choose) {
  $("model-block").hidden = models.length < 2;
  $("model").replaceChildren(
    ...models.map((model) =>
      element("option", { value: model.id, selected: model.id === chosen }, model.random ? `${model.name} (random weights)` : model.name),
    ),
  );
  $("model").onchange = () => choose($("model").value);
}

export function drawPhotographs(all, shown, active, { toggle, activate, add }) {
  const tiles = all.map((photograph) => {
    const on = shown.includes(photograph.id);
    const image = element("img", { alt: "", width: 64, height: 64 });
    picture(photograph.id, 192).then((address) => (image.src = address), () => {});
    const tile = element(
      "button",
      {
        type: "button",
        class: `photograph${photograph.id === active ? " active" : ""}`,
        "aria-pressed": String(on),
        "aria-label": `${photograph.name}, ${on ? "compared" : "not compared"}`,
        title: photograph.name,
        "data-id": photograph.id,
        onclick: () => (on && photograph.id !== active ? activate(photograph.id) : toggle(photograph.id)),
      },
      image,
      element("span", { class: "tick", "aria-hidden": "true" }, on ? "✓" : ""),
    );
    return tile;
  });
  const input = element("input", {
    type: "file",
    accept: "image/jpeg,image/png,image/webp,image/gif,image/avif,image/bmp",
    multiple: true,
    class: "hidden",
    id: "file",
    onchange: () => add([...input.files]),
  });
  const adder = element("label", { class: "photograph add", title: "Add images" }, input, element("span", {}, "Add"));
  keepFocus($("photographs"), () => $("photographs").replaceChildren(...tiles, adder));
}

// `label`: what a class, or an expression of classes, is called.
export function drawClasses(predictions, pinned, label, { pin, preview, leave, versus }) {
  const listed = [...predictions];
  for (const index of pinned) {
    if (!listed.some((one) => one.index === index)) listed.push({ index, label: label(index), probability: null });
  }
  const classes = listed.filter((one) => typeof one.index === "number");
  const rows = listed.map((one) => {
    const on = pinned.includes(one.index);
    const chance = one.probability === null ? "" : percent(one.probability);
    const meter = element("meter", { min: 0, max: 1, value: one.probability ?? 0, "aria-hidden": "true" });
    const button = element(
      "button",
      {
        type: "button",
        class: "class",
        "aria-pressed": String(on),
        "data-class": String(one.index),
        title: on ? `${one.label}: remove its row` : `${one.label}: hover to preview, click to pin as a row`,
        onclick: () => pin(one.index),
        onfocus: () => preview(one.index),
        onblur: leave,
      },
      element("span", { class: "pin", "aria-hidden": "true" }),
      element("span", { class: "label" }, one.label),
      element("span", { class: "chance" }, chance),
      meter,
    );
    return element("li", {}, button, ...versusOf(one, classes, versus));
  });
  // of the list, not of its buttons: they are made anew under the pointer, and then tell nobody that it left
  $("classes").onpointerover = (event) => {
    const under = event.target.closest("[data-class]");
    if (under) preview(/^\d+$/.test(under.dataset.class) ? Number(under.dataset.class) : under.dataset.class);
    else leave();
  };
  $("classes").onpointerleave = leave;
  keepFocus($("classes"), () => $("classes").replaceChildren(...rows));
}

// The choice of another class to compare a class with: a row of what speaks for the one and not for the other.
function versusOf(one, classes, versus) {
  const others = classes.filter((each) => each.index !== one.index);
  if (typeof one.index !== "number" || !others.length) return [];
  const choice = element(
    "select",
    {
      class: "versus",
      id: `versus-${one.index}`,
      "aria-label": `Compare ${one.label} with`,
      title: `Compare with: evidence for ${one.label} rather than another class`,
      onchange: () => versus(one.index, Number(choice.value)),
    },
    new Option("vs", "", true, true),
    ...others.map((each) => new Option(each.label, String(each.index))),
  );
  choice.options[0].disabled = true;
  return [choice];
}

// `problems`: by a method's name, why it cannot be asked for with these options.
export function drawMethods(methods, chosen, problems, { toggle, change }) {
  const open = new Set([...$("methods").querySelectorAll("details[open]")].map((one) => one.dataset.method));
  const rows = methods.map((method) => {
    const here = chosen.find((one) => one.name === method.name);
    const applies = method.reason === "";
    const box = element("input", {
      type: "checkbox",
      id: `method-${method.name}`,
      checked: Boolean(here),
      disabled: !applies,
      onchange: () => toggle(method.name),
    });
    const label = element("label", { for: box.id, title: `${method.summary}\n${method.cost}` }, method.title);
    const head = element("div", { class: "method-head" }, box, label);
    const row = element("li", { class: `method${applies ? "" : " inapplicable"}` }, head);
    if (!applies) {
      const why = element("p", { class: "why", id: `why-${method.name}` }, method.reason);
      box.setAttribute("aria-describedby", why.id);
      row.append(why);
      return row;
    }
    const problem = problems.get(method.name);
    if (problem) {
      const why = element("p", { class: "why bad", id: `why-${method.name}` }, problem);
      box.setAttribute("aria-describedby", why.id);
      row.append(why);
    }
    const options = method.options.filter((option) => option.name !== "layer");
    if (options.length) {
      const fields = options.map((option) => field(method, option, here?.options?.[option.name], methods, change));
      row.append(
        element(
          "details",
          { "data-method": method.name, open: open.has(method.name) },
          element("summary", { "aria-label": `Options of ${method.title}` }, "options"),
          element("p", { class: "summary" }, method.summary),
          ...fields,
        ),
      );
    }
    return row;
  });
  keepFocus($("methods"), () => $("methods").replaceChildren(...rows));
}

function field(method, option, given, methods, change) {
  const id = `option-${method.name}-${option.name}`;
  const text = option.default === null ? "none" : String(option.default);
  const value = given ?? text;
  const tell = (now) => change(method.name, option.name, now === text ? undefined : now);
  const words = option.name.replaceAll("_", " ");
  const control = controlFor(option, id, value, methods, tell);
  control.setAttribute("title", option.help);
  return element("div", { class: "option" }, element("label", { for: id, title: option.help }, words), control);
}

function controlFor(option, id, value, methods, tell) {
  if (option.kinds.includes("method")) {
    const inner = methods.filter((one) => !one.options.some((each) => each.kinds.includes("method")) && !one.reason);
    return choice(id, inner.map((one) => [one.name, one.title]), value, tell);
  }
  if (option.kinds.includes("bool")) {
    const box = element("input", { type: "checkbox", id, checked: value === "true", onchange: () => tell(String(box.checked)) });
    return box;
  }
  if (option.choices.length && !option.kinds.length) {
    return choice(id, option.choices.map((one) => [one, one]), value, tell);
  }
  const input = element("input", {
    id,
    class: "value",
    value,
    inputMode: option.choices.length || option.optional ? "text" : "decimal",
    autocomplete: "off",
    spellcheck: false,
    onchange: () => tell(input.value.trim()),
  });
  input.value = value;
  return input;
}

function choice(id, pairs, value, tell) {
  const select = element(
    "select",
    { id, onchange: () => tell(select.value) },
    ...pairs.map(([name, title]) => element("option", { value: name, selected: name === value }, title)),
  );
  return select;
}

// The layers that a slider stops at: few enough to aim at, from fine to coarse. All others are in the list below it.
export function stops(layers) {
  const usable = layers.filter((row) => row.usable);
  const outer = usable.filter((row) => row.depth <= 1);
  return fineToCoarse(outer.length >= 4 ? outer : usable);
}

export function fineToCoarse(rows) {
  const cells = (row) => (row.grid ? row.grid[0] * row.grid[1] : 0);
  return rows.toSorted((a, b) => cells(b) - cells(a));
}

export function drawLayers(tree, chosen, needed, choose) {
  const rows = stops(tree.layers);
  $("layer-block").hidden = rows.length === 0;
  if (!rows.length) return;
  $("layer-block").classList.toggle("idle", !needed);
  const grid = (row) => (row?.grid ? ` · ${row.grid[1]} × ${row.grid[0]}` : "");
  const named = chosen ?? tree.default;
  const usable = tree.layers.filter((row) => row.usable);
  const here = usable.find((row) => row.layer === named);
  $("layer-name").textContent = named ? `${named}${grid(here)}` : "";
  const slider = $("layer");
  slider.max = String(rows.length - 1);
  const at = rows.findIndex((row) => row.layer === named);
  if (at >= 0) slider.value = String(at);
  slider.setAttribute("aria-valuetext", named ?? "");
  slider.disabled = !needed;
  $("layer-all").disabled = !needed;
  $("layer-first").textContent = `fine${grid(rows[0])}`;
  $("layer-last").textContent = `coarse${grid(rows.at(-1))}`;
  slider.oninput = () => {
    const row = rows[Number(slider.value)];
    $("layer-name").textContent = `${row.layer}${grid(row)}`;
    slider.setAttribute("aria-valuetext", row.layer);
    choose(row.layer === tree.default ? null : row.layer);
  };
  $("layer-all").replaceChildren(
    ...usable.map((row) =>
      element(
        "option",
        { value: row.layer, selected: row.layer === named },
        `${row.layer}${grid(row)}${row.default ? " (default)" : ""}`,
      ),
    ),
  );
  $("layer-all").onchange = () => choose($("layer-all").value === tree.default ? null : $("layer-all").value);
}

// What the columns of the comparison are: `offered` pairs of a name and its title.
export function drawBy(offered, chosen, choose) {
  $("by-block").hidden = offered.length < 2;
  const boxes = offered.map(([name, title]) => {
    const box = element("input", { type: "radio", name: "by", id: `by-${name}`, checked: name === chosen, onchange: () => choose(name) });
    return element("label", { for: box.id }, box, element("span", {}, title));
  });
  keepFocus($("by"), () => $("by").replaceChildren(...boxes));
}

// The layers that can be columns, those that are ticked.
export function drawLayerList(tree, chosen, several, toggle) {
  $("layer-one").hidden = several;
  $("layer-list").hidden = !several;
  if (!several) return;
  $("layer-name").textContent = "";
  $("layer-block").classList.remove("idle");
  const shown = stops(tree.layers);
  const others = tree.layers.filter((row) => chosen.includes(row.layer) && !shown.includes(row));
  const rows = [...shown, ...others].map((row) => {
    const on = chosen.includes(row.layer);
    const box = element("input", { type: "checkbox", id: `column-${row.layer}`, checked: on, onchange: () => toggle(row.layer) });
    const grid = element("span", { class: "of" }, ` ${row.grid[1]} × ${row.grid[0]}`);
    return element("li", { class: "method" }, element("div", { class: "method-head" }, box, element("label", { for: box.id }, row.layer, grid)));
  });
  keepFocus($("layer-list"), () => $("layer-list").replaceChildren(...rows));
}

// The layers that are columns at first: of each resolution the default layer, or the last that is called once. Where
// there is hardly more than one resolution, as of tokens, some evenly apart.
export function firstLayers(tree) {
  const rows = stops(tree.layers);
  const last = new Map();
  for (const row of rows) {
    const before = last.get(String(row.grid));
    if (!before || (!before.default && (row.default || !row.layer.includes("#")))) last.set(String(row.grid), row);
  }
  if (last.size > 2) return [...last.values()].map((row) => row.layer).slice(-5);
  const apart = new Set([0, 1, 2, 3].map((k) => Math.round((k * (rows.length - 1)) / 3)));
  return rows.filter((row, n) => row.default || apart.has(n)).map((row) => row.layer);
}

// Redraw, and leave the keyboard where it was.
function keepFocus(holder, redraw) {
  const focused = holder.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.id ? `#${CSS.escape(focused.id)}` : focused?.dataset.class ? `[data-class="${focused.dataset.class}"]`
    : focused?.dataset.id ? `[data-id="${focused.dataset.id}"]` : null;
  redraw();
  if (key) holder.querySelector(key)?.focus({ preventScroll: true });
}
