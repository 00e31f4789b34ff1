// The loop: ask, show, and say when there is no answer.
let good = null, silentSince = null, busy = false, names;

async function ask(path, options = {}, limit = LIMIT_MS) {
  const silent = ({ name }) => {
    throw new Error(name === "TimeoutError" ? `waited ${limit / 1000} s` : "no connection", { cause: "has not answered" });
  };
  const answer = await fetch(path, { cache: "no-store", headers: key ? { authorization: `Bearer ${key}` } : {}, signal: AbortSignal.timeout(limit), ...options }).catch(silent);
  const text = await answer.text().catch(silent);
  if (answer.ok) return { text, at: performance.now() };
  let reason = "";
  try { reason = JSON.parse(text).error ?? ""; } catch { /* a proxy's error page */ }
  throw Object.assign(new Error(`HTTP ${answer.status} ${reason}`.trim()), { status: answer.status });
}

function stale() {
  document.body.classList.add("stale");
  say("pulse", good ? `not live: as of ${clock(good)}` : "no data yet");
}

function lost({ message, cause }) {
  silentSince ??= new Date();
  stale();
  heard.clear();
  points.push({ at: Date.now() }); // a gap
  document.title = "✕ no live data";
  say("announce", "");
  const last = good ? `Below is what it said at ${clock(good)}; it may be otherwise by now.` : "Nothing is known yet.";
  say("alert", `The gateway ${cause ?? "has not reported its state"} since ${clock(silentSince)} (${message}). ${last}`);
}

async function look() {
  const state = chosen === null ? "" : `${own}/`;
  const [models, mirrored] = await Promise.allSettled([ask(chosen === null ? "models" : own), ask(`${state}shadow`)]);
  if (models.status === "rejected" && models.reason.status === 401) return locked();
  const hosted = async () => JSON.parse((await ask("models")).text).models ?? [];
  if (models.status === "fulfilled") await show(JSON.parse(models.value.text), mirrored, hosted);
  else if (chosen !== null && models.reason.status === 404) absent(await hosted());
  else throw models.reason;
  [good, silentSince] = [new Date(), null];
  document.body.classList.remove("stale");
  say("alert", "");
  say("pulse", `live, ${clock(good)}`);
}

async function show(status, mirrored, hosted) {
  const model = status.ssot.model_name;
  names ??= status.models ?? (chosen === null ? [] : await hosted());
  pages = status.mlflow_ui_url;
  // Of this model alone: those of a thousand are megabytes.
  const [metrics] = await Promise.allSettled([ask(`metrics?model=${encodeURIComponent(model)}`)]);
  if (metrics.status === "fulfilled") note(parse(metrics.value, model), status.replicas);
  // Like the metrics, only where there is something to ask for.
  const [release] = await Promise.allSettled(status.routing.release ? [ask(`${chosen === null ? "" : `${own}/`}release`)] : []);
  headline(status);
  releasePanel(status, release?.status === "fulfilled" ? JSON.parse(release.value.text) : null);
  charts(status);
  variants(status, metrics.status === "rejected" ? metrics.reason.message : null);
  timeline(status);
  routing(status);
  replicas(status);
  shadow(mirrored.status === "fulfilled" ? JSON.parse(mirrored.value.text) : null, status);
  navigation(names, model);
  // What scrolls must be reachable by keyboard, and what does not is no stop on the way.
  for (const box of document.querySelectorAll(".wide")) box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
}

async function poll() {
  if (busy || !byId("key").hidden) return;
  busy = true;
  await look().catch(lost);
  busy = false;
}

poll();
setInterval(poll, EVERY_MS);
document.addEventListener("visibilitychange", () => document.hidden || poll());
// A machine that slept, or a tab that was put aside, wakes up with old data.
setInterval(() => { if (good && Date.now() - good > EVERY_MS + LIMIT_MS) stale(); }, 1000);
