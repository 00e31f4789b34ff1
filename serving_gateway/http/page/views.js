// What is shown of the state, part by part.
let pages = null; // the address of MLflow's pages, where the gateway knows it
const reload = code(`POST ${chosen === null ? "" : `/${own}`}/variant/A/reload`);

/** A run's id, which leads to its page. */
const run = (id, shown = code(id)) => (pages ? el("a", { href: `${pages}/#/runs/${encodeURIComponent(id)}` }, shown) : shown);
const called = (replica) => `${replica.host}, pid ${replica.pid}`;
/** Production is both halves, judged as the pipeline judges a promotion. */
function judge({ ssot, effective, replicas, replicas_problem: problem, in_sync: inSync, routing }) {
  const a = effective.A;
  if (!a) return { half1: ssot.reason ?? `READY in Triton: ${list(ssot.served_versions)}.`, half2: "No replica routes to a version." };
  const served = ssot.prod_served_version === a.version;
  const late = replicas.filter((replica) => !replica.ready || replica.generation < routing.generation);
  const followed = inSync && problem === null && late.length === 0;
  const why = ssot.reason ?? a.reason;
  const count = `${replicas.length - late.length} of ${replicas.length}`;
  let half2 = `Every replica has reloaded onto it: ${count}, generation ${routing.generation}.`;
  if (problem !== null) half2 = `Other replicas cannot be listed: ${problem}`;
  else if (late.length) half2 = `Only ${count} replicas serve it. Not: ${late.map(called).join("; ")}.`;
  else if (!followed) half2 = "The replicas do not all route by the newest generation.";
  const half1 = `Triton ${served ? "has" : "does not have"} version ${a.version} READY${!served && why ? `: ${why}` : "."}`;
  return { served, followed, half1, half2 };
}

/** What brings the first version here. */
function firstSteps({ model_name: name, served_versions: ready }) {
  const body = JSON.stringify({ version: Math.max(...ready) });
  return el("p", { id: "first" },
    "A chain trains the first version and takes it to production: ", code(`make chain MODEL=${name}`), ", or the job ", code(`${name}_chain`), " in Dagster; ", code("make up"), " runs that of the model that ships.",
    ready.length ? [" To route to a version that is READY already, without the checks of a chain: ", reload.cloneNode(true), " with ", code(body), "."] : null);
}

function headline(models) {
  const { served, followed, half1, half2 } = judge(models);
  const a = models.effective.A, own = models.replica, proven = served && followed;
  const verdict = proven ? "In production" : a ? "Not proven in production" : "Nothing in production";
  const name = `${models.ssot.model_name}${a ? ` version ${a.version}` : ""}`;
  put("headline",
    el("p", { class: "verdict" }, badge(proven, verdict)),
    el("h1", { id: "name" }, name),
    a ? el("p", {}, "run_id ", run(a.run_id)) : firstSteps(models.ssot),
    el("p", { class: "soft", id: "rule" }, "A version is in production when both hold at this moment:"),
    el("ul", { class: "marks", "aria-labelledby": "rule" }, mark(served, half1), mark(followed, half2)),
    el("p", {}, "This replica (", called(own), ") is ", badge(own.ready, own.ready ? "ready" : "not ready"), own.ready ? "." : ":"),
    own.ready ? null : el("ul", { id: "reasons" }, own.reasons.map((reason) => el("li", {}, reason))));
  document.title = `${proven ? "✓" : "✕"} ${name}`;
  // Only of what all replicas say alike: the next poll may be answered by another one.
  const ready = models.replicas.filter((replica) => replica.ready).length;
  say("announce", `${name}: ${verdict}. ${ready} of ${models.replicas.length} replicas ready.`);
}

function share(alias, { strategy, percent: part }, alone) {
  if (strategy === "split" && !alone) return `${+(alias === "B" ? part : 100 - part).toFixed(2)} % of clients (split)`;
  if (alias === "A") return "all requests";
  return strategy === "mirror" ? `copies of ${+part.toFixed(2)} % (mirror)` : "none (off)";
}

const ORIGINS = [["data", "data_fingerprint"], ["code", "code_version"], ["Dagster run", "dagster_run_id"], ["ONNX", "onnx_sha256"], ["features", "feature_contract"]];
/** The beginning of a digest; the whole of it is in its title. */
const short = (text) => el("code", { title: text }, text.slice(0, 12));
const origin = (slot) => {
  const known = ORIGINS.filter(([, key]) => slot[key]);
  return known.length ? known.flatMap(([name, key], i) => [`${i ? ", " : ""}${name} `, short(slot[key])]) : "–";
};

const few = (names) => names.slice(0, 10).join(", ") + (names.length > 10 ? ` and ${names.length - 10} more` : "");
/** What a request for stored features has to hold. */
const asked = ({ signature }) => {
  const { join_keys: keys = [], request = [] } = signature ?? {};
  return [keys.length ? `keys ${few(keys)}` : "", request.length ? `features ${few(request)}` : ""].filter(Boolean).join("; ");
};

function variants({ ssot, effective, routing, replicas }, noMetrics) {
  const found = Object.entries(effective).map(([alias, slot]) => {
    const ready = (alias === "A" ? ssot.prod_served_version : ssot.shadow_served_version) === slot.version;
    return { alias, slot, ready, did: noMetrics ? null : measure(alias, slot.version) };
  });
  const cells = (name, cell) => row(name, found.map(cell));
  const did = (name, show) => cells(name, (one) => (one.did === null ? "–" : show(one.did)));
  const back = ({ alias, slot }) => {
    const older = (routing.previous[alias] ?? []).filter((former) => former.version !== slot.version);
    if (!older.length) return "–";
    const further = older.slice(1).map((former) => former.version);
    const { version, model_name: model, triton_url: url } = older[0];
    const gone = ssot.triton_reachable && !model && !url && !ssot.served_versions.includes(version);
    const named = { type: "button", "data-act": "rollback", "data-variant": alias, "data-version": String(version), "aria-label": `Roll variant ${alias} back to version ${version}` };
    return [`version ${version}${gone ? " (not READY)" : ""}, `, run(older[0].run_id), further.length ? `; then ${further.join(", ")}` : "", gone ? null : el("button", named, "Roll back")];
  };
  const role = { A: "production", B: routing.traffic.strategy === "mirror" ? "shadow" : "candidate" };
  const measured = [...heard.values()].filter((samples) => samples.length > 1).length;
  let caption = `Rates of the last ${WINDOW_MS / 1000} s, of ${measured} of ${replicas.length} replicas.`;
  if (noMetrics) caption = `No rates: ${noMetrics}`;
  else if (!measured) caption = "Rates stand here after the next look.";
  const elsewhere = found.some(({ slot }) => slot.model_name !== ssot.model_name || slot.triton_url !== ssot.prod_triton_url);
  put("variants", el("caption", {}, caption),
    head(["Variant", ...found.map(({ alias }) => `${alias}, ${role[alias]}`)]),
    el("tbody", {},
      cells("Version", ({ slot }) => String(slot.version)),
      elsewhere ? cells("Model", ({ slot }) => `${slot.model_name} on ${slot.triton_url}`) : null,
      cells("In Triton", ({ slot, ready }) => badge(ready, ready ? "READY" : `not READY${slot.reason ? `: ${slot.reason}` : ""}`)),
      cells("Traffic", ({ alias }) => share(alias, routing.traffic, found.length === 1)),
      did("Requests/s", (sum) => rate(sum.rate + sum.errors)),
      did("Latency p50", (sum) => latency(0.5, sum.buckets)),
      did("Latency p99", (sum) => latency(0.99, sum.buckets)),
      did("Errors/s", (sum) => (sum.errors ? badge(false, rate(sum.errors)) : rate(0))),
      cells("Rollback to", back),
      cells("Mode", ({ slot }) => slot.mode),
      cells("run_id", ({ slot }) => run(slot.run_id)),
      found.some(({ slot }) => asked(slot)) ? cells("A look-up needs", ({ slot }) => asked(slot) || "–") : null,
      cells("Origin", ({ slot }) => origin(slot))));
  put("pin", effective.A?.mode === "pinned" ? ["A chain leaves variant A where it is pinned, unless it is launched with unpin. Release it by ", reload.cloneNode(true), " with ", code('{"unpin": true}'), "; the version stays until the next chain."] : []);
  byId("sides").hidden = found.length === 0;
}

function routing({ ssot, effective, routing: record }) {
  const routed = Object.values(effective).map((slot) => slot.version);
  const others = ssot.served_versions.filter((version) => !routed.includes(version));
  const pair = (name, ...value) => [el("dt", {}, name), el("dd", {}, ...value)];
  put("routing",
    pair("Generation", String(record.generation)),
    record.changed_at ? pair("Changed", moment(record.changed_at), ` by ${record.changed_by}`) : null,
    record.reason ? pair("Reason", record.reason) : null,
    pair("READY, not routed to", ssot.triton_reachable ? list(others) : badge(false, `unknown: ${ssot.reason}`)),
    record.store_problem ? pair("Store", badge(false, record.store_problem)) : null);
}

function replicas({ replicas: all, in_sync: inSync, replicas_problem: problem }) {
  put("replicas",
    el("caption", {}, badge(inSync, inSync ? "in sync: all route by the newest generation" : `not in sync${problem ? `: ${problem}` : ""}`)),
    head(["Host", "pid", "Generation", "Ready", "Age"]),
    el("tbody", {}, all.flatMap((one) => [
      row(one.host, [String(one.pid), String(one.generation), badge(one.ready, one.ready ? "yes" : "no"), `${one.age_seconds.toFixed(1)} s`]),
      one.ready ? null : el("tr", { class: "why" }, el("td", { colspan: "5" }, `Not ready: ${one.reasons.join("; ")}`)),
    ])));
}

/** Bounds of a quantile; beyond the histogram there is none. */
function between({ low, high }) {
  if (low === null || high === null) return low === high ? "unknown" : low === null ? `at most ${duration(high)}` : `over ${duration(low)}`;
  return `${duration(low)} to ${duration(high)}`;
}

const compared = new Map(); // replica id -> its report on the present pairing

function shadow(answer, { replicas: all }) {
  const section = byId("shadow").closest("section");
  const pairing = ({ a, b }) => JSON.stringify([a, b]);
  section.hidden = !(answer?.a && answer.b);
  if (section.hidden) return;
  compared.set(answer.replica, answer);
  const known = new Set([answer.replica, ...all.map((replica) => replica.id)]);
  for (const [id, report] of compared) if (!known.has(id) || pairing(report) !== pairing(answer)) compared.delete(id);
  const reports = [...compared.values()].sort((one, other) => (one.replica < other.replica ? -1 : 1));
  const cells = (name, cell) => row(name, reports.map(cell));
  put("shadow",
    el("caption", {}, `Answers of version ${answer.b.version} to copies, beside those of version ${answer.a.version}. Each replica counts its own. Bounds hold however long they are watched.`),
    head(["Replica", ...reports.map(({ replica }) => replica)]),
    el("tbody", {},
      cells("Agreement", ({ agreement: one }) => (one ? percent(one.value) : "–")),
      cells("Bounds, 95 %", ({ agreement: one }) => (one ? `${percent(one.low)} to ${percent(one.high)}` : "–")),
      cells("Median latency, B − A", ({ latency_difference_median_seconds: one }) => (one ? between(one) : "–")),
      cells("Rows", ({ rows }) => String(rows)),
      cells("Disagreements", ({ rows, rows_agreed: agreed }) => String(rows - agreed)),
      cells("Failed copies", ({ failed }) => String(failed)),
      cells("Dropped copies", ({ dropped }) => String(dropped))));
}

const link = (name, attributes = {}) => el("a", { href: `?model=${encodeURIComponent(name)}`, ...attributes }, name);

function navigation(names, current) {
  if (!(names?.length > 1)) return;
  const shown = (name) => (name === current ? { "aria-current": "page" } : {});
  put("models", names.map((name) => link(name, shown(name))));
}

/** A name that the gateway does not host; those that it does are one click away. */
function absent(names) {
  for (const section of document.querySelectorAll("main section:not(#headline)")) section.hidden = true;
  put("headline",
    el("h1", { id: "name" }, `There is no model ${chosen}`),
    el("p", {}, "The gateway hosts a model from its first switch to production on", /^\w+$/.test(chosen) ? [", which is the end of a chain: ", code(`make chain MODEL=${chosen}`)] : null, ". There are:"),
    el("ul", {}, names.map((name) => el("li", {}, link(name)))));
  document.title = `✕ no model ${chosen}`;
  say("announce", `There is no model ${chosen}.`);
}
