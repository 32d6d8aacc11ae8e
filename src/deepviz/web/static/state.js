// What the page knows of the server, and what it shows: one place that its parts read.

export const known = { models: [], photographs: [], methods: [], tree: null, labels: [], predictions: new Map(), classes: new Map(), chances: new Map() };
export const view = { model: "", photographs: [], active: "", targets: {}, methods: [], by: "methods", versus: null, layer: null, layers: [], tab: "compare", inside: null, look: null };

export const info = (id) => known.photographs.find((one) => one.id === id);
export const method = (name) => known.methods.find((one) => one.name === name);
