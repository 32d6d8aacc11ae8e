// What the address says behind its #: the token, and the view. Browsers send that part to nobody.

export function read(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  return { token: said.get("token") ?? "", view: decode(said.get("view")) };
}

export function write(token, view) {
  return `#token=${encodeURIComponent(token)}&view=${encode(view)}`;
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
