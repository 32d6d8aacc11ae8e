// The contents of a long report: its rows by name, and a field that leaves those that are looked for.

import { freshId, make, setText } from "./elements.js";

// from so many photographs on
const MANY = 10;

export function contents(holder, comparison, { photographs, rows }) {
  if (photographs.length < MANY) return;
  const links = rows.map((row, n) => {
    const { element } = comparison.sections[n];
    element.id = freshId("row");
    const link = make("a", { href: `#${element.id}` }, make("span", {}, row.title), make("small", {}, row.detail));
    return make("li", {}, link);
  });
  const said = rows.map((row) => [row.title, row.detail, ...row.tiles.flatMap((tile) => [tile.title, tile.detail])].join(" ").toLowerCase());
  const count = make("span", { class: "dv-count", role: "status" });
  const none = make("p", { class: "dv-none", hidden: true }, "Nothing has these words.");
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    rows.forEach((_, n) => {
      const found = words.every((word) => said[n].includes(word));
      shown += Number(found);
      links[n].hidden = comparison.sections[n].element.hidden = !found;
    });
    setText(count, `${shown} of ${rows.length}`);
    none.hidden = shown > 0;
  };
  const field = make("input", { type: "search", id: freshId("filter"), placeholder: "Image or class", oninput: show });
  holder.append(
    make("div", { class: "dv-filter" }, make("h2", {}, "Contents"), make("label", { for: field.id }, "Filter"), field, count),
    make("ol", {}, ...links),
    none,
  );
  holder.hidden = false;
  show();
}
