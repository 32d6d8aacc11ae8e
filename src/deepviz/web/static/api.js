// Talking to the server: every call carries the token, every address is relative, so that any path prefix works.

const HEADER = "X-DeepViz-Token";
let token = "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useToken(value) {
  token = value;
}

/**
 * @typedef {object} Asked  How the server is asked.
 * @property {string} [method]
 * @property {unknown} [json]  The body, as a value.
 * @property {any} [body]  The body, as bytes.
 * @property {AbortSignal} [signal]
 */

/**
 * @param {string} path
 * @param {Asked} [how]
 * @returns {Promise<Response>}
 */
export async function call(path, { method = "GET", json, body, signal } = {}) {
  const headers = { [HEADER]: token };
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  } else if (body !== undefined) {
    headers["Content-Type"] = "application/octet-stream";
  }
  for (let attempt = 0; ; attempt++) {
    let answer;
    try {
      // what ends something is sent even by a page that is being left
      const keepalive = method === "DELETE";
      answer = await fetch(`api/${path}`, { method, headers, body, signal, keepalive, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "Cannot reach the server. Is deepviz serve still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 429 && attempt < 8) {
      // the server says that it is busy: ask again, a little later each time
      await pause(150 * (attempt + 1), signal);
      continue;
    }
    throw new Refused(answer.status, await reason(answer));
  }
}

/** @type {(path: string, options?: Asked) => Promise<any>} */
export const get = async (path, options) => (await call(path, options)).json();
/** @type {(path: string, json: unknown, options?: Asked) => Promise<any>} */
export const post = async (path, json, options = {}) => (await call(path, { ...options, method: "POST", json })).json();
export const bytes = async (path, options) => (await call(path, options)).arrayBuffer();

export async function upload(file) {
  const name = encodeURIComponent(file.name || "pasted image");
  return (await call(`photographs?name=${name}`, { method: "POST", body: file })).json();
}

const pictures = new Map();

// An address for <img>: the picture is fetched with the token, which an <img> could not send. Of a volume or clip it is
// one slice, by default the middle one.
export function picture(id, size, slice = null) {
  const query = slice === null ? `size=${size}` : `size=${size}&slice=${slice}`;
  const key = `${id} ${query}`;
  if (!pictures.has(key)) {
    const made = call(`photographs/${id}?${query}`)
      .then((answer) => answer.blob())
      .then((blob) => URL.createObjectURL(blob));
    made.catch(() => pictures.delete(key));
    pictures.set(key, made);
  }
  return pictures.get(key);
}

// Follow a job to its end; `seen` gets every state in which it was found.
export async function follow(job, seen, signal) {
  seen(job);
  while (job.state === "queued" || job.state === "running") {
    job = await get(`jobs/${job.id}?after=${job.version}`, { signal });
    seen(job);
  }
  return job;
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(milliseconds, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(new DOMException("cancelled", "AbortError"));
    });
  });
}
async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server returned status ${answer.status}.`;
  }
}
