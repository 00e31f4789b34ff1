// The release: how far it is, what its guardrails show, and what is still missing.
const ENDED = ["completed", "stopped", "rolled_back"];
const GUARDS = { failures: "Failures, difference", latency_p99: "Latency p99, ratio", disagreement: "Disagreement", score_shift: "Score shift", outcome: "Outcome, difference" };
const STATES = { waiting: "waits for an approval", running: "is being released", cleared: "may be switched to", watching: "was switched to, and is watched", completed: "was released", stopped: "was stopped", rolled_back: "was rolled back" };

const stepName = ({ strategy, percent: part }) => `${strategy} ${+part.toFixed(2)} %`;

/** Whether another change ended it after the switch, which stays. */
const isCutShort = ({ state, acts }) => state === "stopped" && acts.at(-1)?.phase === "watch";

/** The steps as a line, with the one that is under way. */
function stepLine(release) {
  const { plan, step, state } = release;
  const names = [...plan.steps.map(stepName), "switch", ...(plan.watch_seconds ? ["watch"] : [])];
  const switched = plan.steps.length;
  let at = { watching: switched + 1, cleared: switched, completed: names.length }[state] ?? (state === "waiting" && plan.approval === "before_switch" ? switched : step);
  if (state === "rolled_back" || isCutShort(release)) at = switched + 1;
  const active = !ENDED.includes(state);
  return names.map((name, i) => {
    const done = i < at, now = i === at && active, broken = i === at && !active && state !== "completed";
    const attributes = { class: done ? "done" : now ? "now" : broken ? "broken" : "ahead", ...(now ? { "aria-current": "step" } : {}) };
    const said = done ? "done" : now ? "now" : broken ? "ended here" : "to come";
    return el("li", attributes, name, el("span", { class: "off-screen" }, said ? `, ${said}` : ""));
  });
}

const figure = (guard, value) => (value === null ? "–" : guard === "latency_p99" ? value.toFixed(2) : `${+(100 * value).toFixed(2)} %`);

/** The bounds beside the margin, on a scale of twice the margin; an estimate is a tick. */
function bar({ margin, value, low, high, verdict, guard }) {
  if (value === null) return svg("svg", { class: "bounds", viewBox: "0 0 100 12", "aria-hidden": "true" });
  const least = guard === "latency_p99" ? 0 : -margin || -0.01, most = 2 * margin || 0.02;
  const place = (one) => Math.max(0, Math.min(100, (100 * (one - least)) / (most - least)));
  const [from, to] = [place(low ?? least), place(high ?? most)];
  return svg("svg", { class: `bounds ${verdict === "stop" ? "bad" : verdict === "go" ? "ok" : "open"}`, viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 5, width: 100, height: 2 }),
    svg("rect", { class: "range", x: from, y: 3, width: Math.max(1.5, to - from), height: 6 }),
    svg("line", { class: "estimate", x1: place(value), x2: place(value), y1: 1, y2: 11 }),
    svg("line", { class: "margin", x1: place(margin), x2: place(margin), y1: 0, y2: 12 }));
}

const verdictMark = ({ verdict }) => (verdict === "stop" ? badge(false, "broken") : verdict === "go" ? badge(true, "within its margin") : "not shown yet");

function guardTable(guards) {
  if (!guards.length) return [];
  const shown = (one) => row(GUARDS[one.guard] ?? one.guard, [
    figure(one.guard, one.value),
    one.value === null ? "–" : `${figure(one.guard, one.low)} to ${one.high === null ? "∞" : figure(one.guard, one.high)}`,
    [bar(one), ` at most ${figure(one.guard, one.margin)}`],
    String(one.observations),
    verdictMark(one),
  ]);
  return [el("caption", {}, "Candidate beside production. Bounds hold however long they are watched; the line marks the margin."),
    head(["Guardrail", "Estimate", "Bounds", "Margin", "Observations", "Verdict"]), el("tbody", {}, guards.map(shown))];
}

const actItem = (act) => el("li", {},
  el("p", {}, el("strong", {}, act.is_approval ? "approved" : act.verdict), el("span", { class: "tag" }, act.phase === "watch" ? "watch" : `step ${Number(act.phase) + 1}`)),
  el("p", { class: "soft" }, moment(act.at), ` by ${act.by}`), el("p", { class: "soft" }, act.reason));

function actions(release) {
  if (ENDED.includes(release.state)) return [];
  const button = (act, text) => el("button", { type: "button", "data-act": act, "data-release": release.id, "data-version": String(release.version), "data-previous": String(release.previous_version), "data-watched": String(release.state === "watching") }, text);
  return [release.state === "waiting" ? [button("approve", "Approve"), " "] : null, button("stop", release.state === "watching" ? "Stop and roll back" : "Stop")].flat();
}

/** Newer versions that are READY: the pipeline begins their release after this one. */
function waitingVersions({ version, state, previous_version: previous }, { served_versions: ready }) {
  const newer = ready.filter((one) => one > version && one !== previous);
  if (ENDED.includes(state) || !newer.length) return null;
  const how = state === "watching" ? "." : "; to begin it at once, stop this one.";
  return el("p", { class: "soft" }, `${newer.length > 1 ? "Versions" : "Version"} ${list(newer)} ${newer.length > 1 ? "are" : "is"} READY too. The pipeline begins no other release until this one has ended${how}`);
}

/** `report` is null where this caller may not read it: the record has the state all the same. */
function releasePanel({ routing: { release }, ssot }, report) {
  const section = byId("release");
  section.hidden = !release;
  if (!release) return;
  const ended = ENDED.includes(release.state), step = release.plan.steps.length;
  const where = ["running", "waiting"].includes(release.state) ? ` (step ${release.step + 1} of ${step})` : "";
  const counted = report?.evidence && !ended ? report.evidence.phases[release.state === "watching" ? "watch" : String(release.step)]?.candidate : null;
  put("release-steps", stepLine(release));
  put("release-state",
    el("p", {}, el("strong", {}, `Version ${release.version} ${isCutShort(release) ? "was switched to, and is watched no more" : STATES[release.state]}${where}`), `, since `, moment(release.since), `; begun `, moment(release.started_at), ` by ${release.by}, beside version ${release.previous_version}.`),
    ended && release.reason ? el("p", {}, "Reason: ", release.reason) : null,
    report?.stop_pending ? el("p", {}, badge(false, "Stopped on this replica; the store could not be written yet, so others may go on.")) : null,
    !ended && report?.reason ? el("p", {}, `Verdict: ${report.verdict}: `, report.reason) : null,
    counted ? el("p", { class: "soft" }, `${counted.requests} requests or copies in this phase, ${counted.failed} failed; counted by ${report.replicas.length} process${report.replicas.length === 1 ? "" : "es"}.`) : null,
    waitingVersions(release, ssot),
    report?.evidence_problem ? el("p", {}, badge(false, report.evidence_problem)) : null,
    report === null ? el("p", { class: "soft" }, "The evidence is shown to callers with a control token, or at the gateway's own name.") : null);
  put("release-actions", actions(release));
  put("release-guards", guardTable(report?.guards ?? []));
  put("release-acts", [...release.acts].reverse().map(actItem));
  byId("release-history").hidden = !release.acts.length;
}
