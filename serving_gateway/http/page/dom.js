// The DOM: strings become text nodes, so nothing that others wrote is ever read as HTML.
const EVERY_MS = 2000, LIMIT_MS = 4000, ACT_MS = 60_000, WINDOW_MS = 20_000, CHART_MS = 300_000;
const chosen = new URLSearchParams(location.search).get("model");
const own = `models/${encodeURIComponent(chosen)}`;

const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

/** Change only what differs: selection, focus and screen readers stay where they are. */
function sync(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const [ours, theirs] = [[...old.childNodes], [...fresh.childNodes]];
  const alike = old.cloneNode(false).isEqualNode(fresh.cloneNode(false));
  if (alike && ours.length === theirs.length) ours.forEach((node, i) => sync(node, theirs[i]));
  else old.replaceWith(fresh);
}

function put(id, ...children) {
  const fresh = byId(id).cloneNode(false);
  fresh.append(...children.flat().filter((child) => child !== null));
  sync(byId(id), fresh);
  byId(id).closest("[hidden]")?.removeAttribute("hidden");
}

const say = (id, text) => byId(id).textContent === text || byId(id).replaceChildren(text);
const glyph = (ok) => el("span", { class: "glyph", "aria-hidden": "true" }, ok ? "✓" : "✕");
const badge = (ok, text) => el("span", { class: ok ? "ok" : "bad" }, glyph(ok), ` ${text}`);
const mark = (ok, text) => el("li", { class: ok ? "ok" : "bad" }, glyph(ok), el("span", {}, text));
const code = (text) => el("code", {}, text);
const head = (names) => el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
const row = (name, cells) => el("tr", {}, el("th", { scope: "row" }, name), cells.map((cell) => el("td", {}, cell)));
const clock = (date) => date.toLocaleTimeString();
const moment = (text) => el("time", { datetime: text }, new Date(text).toLocaleString());
const list = (items) => (items.length ? items.join(", ") : "none");
const percent = (share) => `${(share < 1 ? Math.min(100 * share, 99.99) : 100).toFixed(2)} %`; // 100 is all
const rate = (value) => value.toFixed(value < 10 ? 1 : 0);
const duration = (s) => (s < 1 ? `${(1000 * s).toFixed(s < 0.01 ? 1 : 0)} ms` : `${s.toFixed(2)} s`);
