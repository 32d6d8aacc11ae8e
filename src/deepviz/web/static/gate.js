// The form that asks for the token, where the link had none, or none that the server takes.

import { keep, read, write } from "./address.js";
import { $ } from "./elements.js";

export function showGate() {
  keep("");
  $("gate").hidden = false;
  $("gate-token").focus();
}

// A token, or a link that holds one, opens the page again.
export function wireGate() {
  $("gate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("gate-token").value.trim();
    const linked = given.includes("token=") ? read(given.slice(given.indexOf("#"))) : { token: given, view: null };
    const shown = linked.view ?? read(location.hash).view;
    const kept = keep(linked.token);
    const parts = [kept ? "" : `token=${encodeURIComponent(linked.token)}`, shown ? write(shown).slice(1) : ""];
    history.replaceState(null, "", `${location.pathname}${location.search}#${parts.filter(Boolean).join("&")}`);
    location.reload();
  });
}
