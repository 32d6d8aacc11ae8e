// From a record, as Python writes it, to the numbers that are drawn.

const VERSION = 1;

// The map of a record: { width, height, values: Float32Array }; of a volume or clip the values of all slices.
export async function decode(record) {
  return decodePart(record, record.map);
}

// The standard errors of a record's map, likewise; null where there are none.
export async function decodeErrors(record) {
  return record.errors ? decodePart(record, record.errors) : null;
}

async function decodePart(record, part) {
  if (record.version > VERSION) throw new Error(`the result has form ${record.version}, this page reads up to ${VERSION}`);
  const { size, bits, packing, data, values } = part;
  if (values) return { width: size[0], height: size[1], values };
  const bytes = await unpack(packing, typeof data === "function" ? await data() : data);
  const [width, height] = size;
  const count = width * height * (record.slices?.count ?? 1);
  if (bytes.byteLength !== (count * bits) / 8) throw new Error(`the map is not ${width} × ${height}`);
  if (bits === 32) return { width, height, values: floats(bytes, count) };
  return { width, height, values: bits === 16 ? evenly(bytes, count, part) : roots(bytes, part) };
}

// Whole numbers of 16 bits, from the lowest value to the highest.
function evenly(bytes, count, { low, high, levels }) {
  const step = (high - low) / levels;
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = low + (bytes[2 * i] | (bytes[2 * i + 1] << 8)) * step;
  return values;
}

// Of each value the square root of the magnitude, with its sign, in steps of a unit.
function roots(bytes, { first, unit }) {
  return Float32Array.from(bytes, (step) => {
    const root = (step + first) * unit;
    return root * Math.abs(root);
  });
}

function floats(bytes, count) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true));
}

async function unpack(packing, data) {
  if (packing === "base64") return fromBase64(data);
  if (packing === "base85 deflate") return inflate(fromBase85(data));
  throw new Error(`unknown packing ${packing}`);
}

export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The alphabet of RFC 1924, with a comma for "<", so that it can stand in a page.
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";

export function fromBase85(text) {
  const digit = new Uint8Array(128);
  for (let i = 0; i < DIGITS.length; i++) digit[DIGITS.charCodeAt(i)] = i;
  const groups = Math.ceil(text.length / 5);
  const bytes = new Uint8Array(4 * groups);
  for (let group = 0, at = 0; group < groups; group++) {
    let value = 0;
    for (let i = 0; i < 5; i++, at++) value = value * 85 + (at < text.length ? digit[text.charCodeAt(at)] : 84);
    bytes[4 * group] = value >>> 24;
    bytes[4 * group + 1] = value >>> 16;
    bytes[4 * group + 2] = value >>> 8;
    bytes[4 * group + 3] = value;
  }
  return bytes.subarray(0, 4 * groups - (5 * groups - text.length));
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
