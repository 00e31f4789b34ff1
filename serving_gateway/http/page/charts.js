// Charts of the last minutes. They are drawn of what the page itself has heard, so that keeping
// them costs the gateway nothing; what was before it was opened is in Prometheus.
const points = []; // oldest first: when, and what each variant did in the window that ended then
const WIDTH = 240, HEIGHT = 60, FIRST_MS = 60_000;

const seconds = (found) => (found ? found.low : null);
const MEASURES = [
  ["Requests/s", rate, (sum) => sum.rate + sum.errors],
  ["Errors/s", rate, (sum) => sum.errors],
  ["Latency p50", duration, (sum) => seconds(quantile(0.5, sum.buckets))],
  ["Latency p99", duration, (sum) => seconds(quantile(0.99, sum.buckets))],
];

function remember(aliases) {
  const at = Date.now(), point = { at };
  for (const alias of aliases) {
    const sum = measure(alias);
    if (sum) point[alias] = MEASURES.map(([, , value]) => value(sum));
  }
  points.push(point);
  while (points[0].at < at - CHART_MS) points.shift();
}

/** The next number above that begins with 1, 2 or 5. */
function above(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 5, 10].find((factor) => factor * unit >= value);
}

/** A line that is interrupted where nothing is known. */
function path(alias, measure, x, y) {
  let drawn = "", known = false;
  for (const point of points) {
    const value = point[alias]?.[measure] ?? null;
    if (value !== null) drawn += `${known ? "L" : "M"}${x(point.at).toFixed(1)} ${y(value).toFixed(1)}`;
    known = value !== null;
  }
  return svg("path", { class: `line ${alias.toLowerCase()}`, d: `${drawn}${drawn && "h.1"}` });
}

/** The time axis: it grows with what there is to show. */
const shownMs = () => Math.min(CHART_MS, Math.max(FIRST_MS, points.at(-1).at - points[0].at));

function chart([name, show], measure, aliases, switches) {
  const end = points.at(-1).at, long = shownMs();
  const of = (alias) => points.map((point) => point[alias]?.[measure] ?? null);
  const highest = Math.max(0, ...aliases.flatMap(of));
  const top = highest > 0 ? above(highest) : 1;
  const x = (at) => WIDTH * (1 - (end - at) / long), y = (value) => (HEIGHT - 1) * (1 - value / top) + 0.5;
  const now = aliases.map((alias) => [alias, of(alias).at(-1)]).filter(([, value]) => value !== null);
  const words = now.length ? now.map(([alias, value]) => `${alias} ${show(value)}`).join(", ") : "nothing yet";
  return el("figure", { class: "chart" },
    el("figcaption", {}, name),
    el("p", { class: "now" }, now.length ? now.map(([alias, value]) => el("span", { class: alias.toLowerCase() }, show(value), " ")) : "–"),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name} of the last ${span(long)}: now ${words}; at most ${show(highest)}` },
      svg("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      switches.map((at) => svg("path", { class: "switch", d: `M${x(at).toFixed(1)} 0V${HEIGHT}` })),
      aliases.map((alias) => path(alias, measure, x, y))),
    el("p", { class: "axis", "aria-hidden": "true" }, el("span", {}, `−${span(long)}`), el("span", {}, `top ${show(top)}`), el("span", {}, "now")));
}

function charts({ effective, routing: { switches }, ssot }) {
  const aliases = Object.keys(effective);
  remember(aliases);
  // The gateway's clock may differ from this one.
  const ahead = Date.now() - Date.parse(ssot.observed_at);
  const moved = (switches.A ?? []).map(({ at }) => Date.parse(at) + ahead).filter((at) => at > points.at(-1).at - shownMs());
  put("charts", MEASURES.map((measure, i) => chart(measure, i, aliases, moved)));
  const key = (alias, text) => [el("span", { class: `key ${alias}`, "aria-hidden": "true" }), text];
  put("charts-key",
    `Means of ${WINDOW_MS / 1000} s, while this page is open. `,
    key("a", "variant A "), aliases.includes("B") ? key("b", "variant B ") : null, moved.length ? key("switch", "switch of A") : null);
  byId("charts").closest("section").hidden = aliases.length === 0;
}
