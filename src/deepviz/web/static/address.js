// What the address says behind its #, which browsers send to nobody: the token, until it is read, and the view. What is
// written has no token, so that a link can be passed on; the tab remembers it.

const KEPT = `deepviz token ${location.pathname}`; // several servers may lie behind paths of one address

export function read(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  return { token: said.get("token") ?? "", view: decode(said.get("view")) };
}

export const write = (view) => `#view=${encode(view)}`;

export function recall() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

// Keep the token for this tab, or none; whether it is kept.
export function keep(token) {
  try {
    if (token) sessionStorage.setItem(KEPT, token);
    else sessionStorage.removeItem(KEPT);
    return true;
  } catch {
    return false;
  }
}

function encode(view) {
  const bytes = new TextEncoder().encode(JSON.stringify(view));
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function decode(text) {
  if (!text) return null;
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const view = JSON.parse(new TextDecoder().decode(bytes));
    return view && typeof view === "object" ? view : null;
  } catch {
    return null; // a link that was cut off opens the usual page
  }
}
