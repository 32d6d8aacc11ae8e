// Small parts of the page. Text is always set as text, so that no name or label can become markup.

/**
 * An element of the page; of which kind, its markup says.
 * @type {(id: string) => any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * A new element: attributes, properties and listeners by name ("onclick"), then what is in it.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} attributes
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name in made && typeof value !== "string") Object.assign(made, { [name]: value });
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * The elements in another one, or found by a selector.
 * @param {Element | Document} holder
 * @param {string} [selector]
 * @returns {HTMLElement[]}
 */
export const within = (holder, selector) => [.../** @type {any} */ (selector ? holder.querySelectorAll(selector) : holder.children)];

/**
 * What has the focus, if it is in `holder`.
 * @param {Element} holder
 * @returns {HTMLElement | null}
 */
export const focusedIn = (holder) => (holder.contains(document.activeElement) ? /** @type {any} */ (document.activeElement) : null);

// A probability as `percent` in deepviz/render/text.py shows it.
export function percent(probability) {
  if (probability > 0 && probability < 0.001) return "<0.1 %";
  return `${(probability < 1 ? Math.min(100 * probability, 99.9) : 100).toFixed(1)} %`;
}

export const withChance = ({ label, probability }) => (probability === null ? label : `${label} ${percent(probability)}`);

let fading = 0;
export function say(text, bad = false) {
  const toast = $("toast");
  toast.textContent = text;
  toast.classList.toggle("bad", bad);
  toast.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => toast.classList.remove("shown"), bad ? 8000 : 3500);
}

// Said to those who hear the page; nothing is seen of it.
export function announce(text) {
  $("spoken").textContent = text;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    // no clipboard on plain http beyond loopback: show it to be copied by hand
    const area = element("textarea", { readOnly: true, rows: 8, "aria-label": what }, text);
    const shown = element(
      "dialog",
      { class: "copy" },
      element("p", {}, `${what}: copy it from here`),
      area,
      element("form", { method: "dialog" }, element("button", {}, "Close")),
    );
    shown.addEventListener("close", () => shown.remove());
    document.body.append(shown);
    shown.showModal();
    area.select();
  }
}

export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
