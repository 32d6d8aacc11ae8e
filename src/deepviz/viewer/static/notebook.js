// The notebook cell: data and settings come from Python, and settings go back.

import { showEmbedded } from "./embedded.js";

function render({ model, el }) {
  const holder = el.appendChild(document.createElement("div"));
  const comparison = showEmbedded(holder, model.get("data"), {
    settings: model.get("settings"),
    onchange: (settings) => {
      model.set("settings", settings);
      model.save_changes();
    },
  });
  const follow = () => {
    if (JSON.stringify(model.get("settings")) !== JSON.stringify(comparison.settings)) comparison.set(model.get("settings"));
  };
  model.on("change:settings", follow);
  return () => {
    model.off("change:settings", follow);
    comparison.close();
  };
}

export default { render };
