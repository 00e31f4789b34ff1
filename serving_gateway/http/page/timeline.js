// The switches of the routing record as a timeline: to what, by whom, why and for how long.
const RECENT = 6;

/** A span of time by its two largest units. */
function span(ms) {
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => ms >= 1000 * size);
  if (first < 0) return "0 s";
  let left = Math.round(ms / 1000);
  return units.slice(first, first + 2).map(([unit, size]) => {
    const count = Math.floor(left / size);
    left -= count * size;
    return count ? `${count} ${unit}` : null;
  }).filter(Boolean).join(" ");
}

function direction({ alias, version, previous_version: before, mode }) {
  const moved = before === null ? "first version" : version < before ? `back from ${before}` : version > before ? `from ${before}` : "another run";
  return [alias === "A" ? null : `variant ${alias}`, moved, mode === "pinned" ? "pinned" : null].filter(Boolean);
}

/** Variant A always has a version from its first switch on; B may have lost its own without one. */
function stay({ alias, at, until }, now) {
  if (alias !== "A") return null;
  const long = span((until ? Date.parse(until) : now) - Date.parse(at));
  return `for ${long}${until ? "" : " so far"}`;
}

function timeline({ routing: { switches }, ssot }) {
  const now = Date.parse(ssot.observed_at);
  const all = Object.entries(switches)
    .flatMap(([alias, moves]) => moves.map((move, i) => ({ ...move, alias, until: moves[i - 1]?.at ?? null })))
    .sort((one, other) => other.generation - one.generation);
  const items = all.map((move) => el("li", { class: move.until ? "past" : "current" },
    el("p", {}, el("strong", {}, `version ${move.version}`), " ", direction(move).map((word) => el("span", { class: "tag" }, word)), " ", el("span", { class: "stay" }, stay(move, now) ?? "")),
    el("p", { class: "soft" }, moment(move.at), ` by ${move.by}, run `, run(move.run_id, short(move.run_id))),
    move.reason ? el("p", { class: "soft" }, move.reason) : null));
  put("history", items.slice(0, RECENT));
  put("older-history", items.slice(RECENT));
  byId("history").closest("section").hidden = !items.length;
  byId("older").hidden = items.length <= RECENT;
  say("older-count", `${items.length - RECENT} older`);
}
