// The panel beside the comparison: model, classes, methods with their options, layer.

import { $, element, focusedIn, percent } from "./elements.js";
import { sizeOf, stops, titleOf } from "./layers.js";
import { reachable, rove } from "./roving.js";

export function drawModels(models, chosen, choose) {
  const title = (model) => (model.random ? `${model.name} (random weights)` : model.name);
  const alone = models.length === 1;
  $("model-name").textContent = alone ? title(models[0]) : "";
  $("model").hidden = alone;
  $("model").replaceChildren(
    ...models.map((model) => element("option", { value: model.id, selected: model.id === chosen }, title(model))),
  );
  $("model").onchange = () => choose($("model").value);
}

const FEW = 5; // classes that are listed at first

// `label`: what a class, or an expression of classes, is called.
export function drawClasses(predictions, pinned, label, { pin, preview, leave }) {
  const holder = $("classes");
  const listed = predictions.map((one) => ({ ...one, here: true }));
  for (const index of pinned) {
    if (!listed.some((one) => one.index === index)) listed.push({ index, label: label(index), probability: null });
  }
  const all = holder.dataset.all === "true";
  const shown = listed.filter((one, n) => all || n < FEW || pinned.includes(one.index));
  const rows = shown.map((one) => {
    const on = pinned.includes(one.index);
    return element(
      "li",
      {
        role: "option",
        class: "class",
        "aria-selected": String(on),
        "data-class": String(one.index),
        title: on ? `${one.label}: remove its row` : `${one.label}: hover to preview, click to pin as a row`,
      },
      element("span", { class: "pin", "aria-hidden": "true" }),
      element("span", { class: "label" }, one.label),
      " ",
      element("span", { class: "chance" }, one.probability === null ? "" : percent(one.probability)),
      element("span", { class: "share", "aria-hidden": "true" }),
    );
  });
  const targetOf = (line) => (/^\d+$/.test(line.dataset.class) ? Number(line.dataset.class) : line.dataset.class);
  if (!holder.dataset.wired) {
    holder.dataset.wired = "true";
    const take = (line) => holder.pin(targetOf(line));
    rove(holder, { elements: () => [...holder.children], keys: { Enter: take, " ": take } });
  }
  holder.pin = pin;
  holder.onclick = (event) => {
    const line = event.target.closest("[data-class]");
    if (line) pin(targetOf(line));
  };
  // of the list, not of its lines: they are made anew under the pointer, and then tell nobody that it left
  holder.onpointerover = (event) => {
    const under = event.target.closest("[data-class]");
    if (under) preview(targetOf(under));
    else leave();
  };
  holder.onpointerleave = leave;
  holder.onfocusin = (event) => event.target.dataset.class && preview(targetOf(event.target));
  holder.onfocusout = leave;
  keepFocus(holder, () => holder.replaceChildren(...rows));
  rows.forEach((line, n) => line.querySelector(".share").style.setProperty("--share", String(shown[n].probability ?? 0)));
  reachable(rows, rows.find((line) => line.getAttribute("aria-selected") === "true"));
  const more = $("classes-more");
  more.hidden = listed.length <= FEW;
  more.textContent = all ? `Show the best ${FEW}` : `Show all ${listed.length}`;
  more.setAttribute("aria-expanded", String(all));
  more.onclick = () => {
    holder.dataset.all = String(!all);
    drawClasses(predictions, pinned, label, { pin, preview, leave });
  };
}

// What every column is compared with: `chosen` is null, "next" or a class; `others` pairs of a class and its name.
export function drawVersus(others, chosen, choose) {
  const select = $("versus");
  const known = others.some(([index]) => index === chosen) || chosen === null || chosen === "next";
  const listed = known ? others : [...others, [chosen, `class ${chosen}`]];
  select.replaceChildren(
    new Option("nothing", "", false, chosen === null),
    new Option("next best class", "next", false, chosen === "next"),
    ...listed.map(([index, label]) => new Option(label, String(index), false, index === chosen)),
  );
  select.onchange = () => choose(select.value === "" ? null : select.value === "next" ? "next" : Number(select.value));
}

// `problems`: by a method's name, why it cannot be asked for with these options.
export function drawMethods(methods, chosen, problems, { toggle, change }) {
  const open = new Set([...$("methods").querySelectorAll("details[open]")].map((one) => one.dataset.method));
  let reason = { text: "", id: "" };
  const rowOf = (method) => {
    const here = chosen.find((one) => one.name === method.name);
    const applies = method.reason === "";
    const box = element("input", {
      type: "checkbox",
      id: `method-${method.name}`,
      checked: Boolean(here),
      disabled: !applies,
      onchange: () => toggle(method.name),
    });
    const label = element("label", { for: box.id }, method.title);
    const head = element("div", { class: "method-head" }, box, label);
    const row = element("li", { class: `method${applies ? "" : " inapplicable"}` }, head);
    if (!applies && method.reason === reason.text) {
      box.setAttribute("aria-describedby", reason.id); // said once, for neighbours
      return row;
    }
    reason = { text: method.reason, id: `why-${method.name}` };
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
    const fields = options.map((option) => field(method, option, here?.options?.[option.name], methods, change));
    const what = options.length ? `About ${method.title}, and its options` : `About ${method.title}`;
    row.append(
      element(
        "details",
        { "data-method": method.name, open: open.has(method.name) },
        element("summary", { id: `about-${method.name}`, title: what }, element("span", { class: "hidden" }, what), options.length ? element("span", { class: "of", "aria-hidden": "true" }, "options") : null, element("span", { class: "question", "aria-hidden": "true" }, "?")),
        element("p", { class: "summary" }, method.summary),
        element("p", { class: "summary" }, method.reading),
        element("p", { class: "summary" }, `Cost: ${method.cost.replaceAll(/`(\w+)`/g, (_, option) => named(option)).replaceAll("`", "")}. `, ...paper(method)),
        ...fields,
      ),
    );
    return row;
  };
  const families = [...new Set(methods.filter((one) => !one.usual).map((one) => one.family))];
  const rows = methods.filter((one) => one.usual).map(rowOf);
  for (const family of families) {
    reason = { text: "", id: "" };
    const inside = methods.filter((one) => !one.usual && one.family === family);
    const count = inside.filter((one) => chosen.some((other) => other.name === one.name)).length;
    rows.push(
      element(
        "li",
        { class: "family" },
        element(
          "details",
          { "data-method": `family ${family}`, open: open.has(`family ${family}`) || count > 0 },
          element("summary", {}, family, element("span", { class: "of" }, count ? `${count} of ${inside.length}` : String(inside.length))),
          element("ul", { class: "methods", "aria-label": family }, ...inside.map(rowOf)),
        ),
      ),
    );
  }
  keepFocus($("methods"), () => $("methods").replaceChildren(...rows));
}

function paper({ paper: text, address }) {
  if (!address) return text ? [text] : [];
  return [element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text)];
}

const named = (option) => option.replaceAll("_", " ");

function field(method, option, given, methods, change) {
  const id = `option-${method.name}-${option.name}`;
  const text = option.default === null ? "none" : String(option.default);
  const value = given ?? text;
  const tell = (now) => change(method.name, option.name, now === text ? undefined : now);
  const words = named(option.name);
  const control = controlFor(option, id, value, methods, tell);
  control.setAttribute("title", option.help);
  return element("div", { class: "option" }, element("label", { for: id, title: option.help }, words), control);
}

function controlFor(option, id, value, methods, tell) {
  if (option.kinds.includes("method")) {
    const inner = methods.filter((one) => !one.options.some((each) => each.kinds.includes("method")) && !one.reason);
    const none = option.optional ? [["none", "its own"]] : [];
    return choice(id, [...none, ...inner.map((one) => [one.name, one.title])], value, tell);
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

export function drawLayers(tree, chosen, needed, choose) {
  const rows = stops(tree.layers);
  $("layer-block").hidden = rows.length === 0;
  if (!rows.length) return;
  $("layer-block").classList.toggle("idle", !needed);
  const grid = (row) => (row?.grid ? ` · ${sizeOf(row.grid)}` : "");
  const named = chosen ?? tree.default;
  const usable = tree.layers.filter((row) => row.usable);
  const here = usable.find((row) => row.layer === named);
  $("layer-name").textContent = named ? `${titleOf(tree, named)}${grid(here)}` : "";
  $("layer-name").title = named ?? "";
  const slider = $("layer");
  slider.max = String(rows.length - 1);
  const at = rows.findIndex((row) => row.layer === named);
  if (at >= 0) slider.value = String(at);
  slider.setAttribute("aria-valuetext", named ? titleOf(tree, named) : "");
  slider.disabled = !needed;
  $("layer-all").disabled = !needed;
  $("layer-first").textContent = `fine${grid(rows[0])}`;
  $("layer-last").textContent = `coarse${grid(rows.at(-1))}`;
  slider.oninput = () => {
    const row = rows[Number(slider.value)];
    $("layer-name").textContent = `${row.title}${grid(row)}`;
    $("layer-name").title = row.layer;
    slider.setAttribute("aria-valuetext", row.title);
    choose(row.layer === tree.default ? null : row.layer);
  };
  $("layer-all").replaceChildren(
    ...usable.map((row) =>
      element(
        "option",
        { value: row.layer, selected: row.layer === named },
        `${row.title}${grid(row)}${row.default ? " (default)" : ""}`,
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

const INSIDE = [["channels", "Channels"], ["attention", "Attention"]];

// What the Inside tab shows of a layer, where there is a choice: of a model with attention. Why not is said where the
// layers' classes suggest that there is some.
export function drawInsideOf({ layers, reason }, tree, chosen, choose) {
  $("inside-of").hidden = layers.length === 0;
  const boxes = INSIDE.map(([name, title]) => {
    const box = element("input", { type: "radio", name: "inside-of", id: `inside-of-${name}`, checked: name === chosen, onchange: () => choose(name) });
    return element("label", { for: box.id }, box, element("span", {}, title));
  });
  keepFocus($("inside-of"), () => $("inside-of").replaceChildren(...boxes));
  $("no-attention").hidden = !reason || !tree.layers.some((row) => /attention/i.test(row.type));
  $("no-attention").textContent = `Attention is not shown: ${reason}.`;
}

// Of which two of the columns, pairs of a key and a title, the difference is a column too; `chosen`: two keys, or null.
export function drawDifference(columns, chosen, choose) {
  $("difference-block").hidden = columns.length < 2;
  const [one, other] = chosen ?? ["", ""];
  const option = (selected) => ([key, title]) => element("option", { value: key, selected: key === selected }, title);
  $("difference-of").replaceChildren(...[["", "none"], ...columns].map(option(one)));
  $("difference-from").replaceChildren(...columns.filter(([key]) => key !== one).map(option(other)));
  $("difference-rest").hidden = chosen === null;
  const tell = () => {
    const [first, second] = [$("difference-of").value, $("difference-from").value];
    const rest = columns.map(([key]) => key).filter((key) => key !== first);
    choose(first ? [first, rest.includes(second) ? second : rest[0]] : null);
  };
  $("difference-of").onchange = tell;
  $("difference-from").onchange = tell;
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
    const grid = element("span", { class: "of" }, ` ${sizeOf(row.grid)}`);
    return element("li", { class: "method" }, element("div", { class: "method-head" }, box, element("label", { for: box.id, title: row.layer }, row.title, grid)));
  });
  keepFocus($("layer-list"), () => $("layer-list").replaceChildren(...rows));
}

// Redraw, and leave the keyboard where it was.
function keepFocus(holder, redraw) {
  const focused = focusedIn(holder);
  const key = focused?.id ? `#${CSS.escape(focused.id)}` : focused?.dataset.class ? `[data-class="${focused.dataset.class}"]`
    : null;
  redraw();
  if (key) holder.querySelector(key)?.focus({ preventScroll: true });
}
