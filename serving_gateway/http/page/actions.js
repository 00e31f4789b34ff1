// What can be done here: roll back, decide on a release, and give a key where the gateway wants one.
const dialog = byId("act");
const DECISIONS = {
  rollback: ({ variant, version }) => ({
    title: `Roll variant ${variant} back to version ${version}?`,
    note: "On every replica, once the version has answered a trial inference; it stays pinned there until it is released.",
    button: "Roll back", path: `variant/${variant}/rollback`, body: { version: Number(version) },
    doing: `The gateway verifies version ${version}`, done: "rolled back",
  }),
  approve: ({ release, version }) => ({
    title: `Approve version ${version}?`,
    note: "The release goes on by itself; the token's name and the reason are recorded.",
    button: "Approve", path: "release/approve", body: { id: release }, doing: "The gateway records it", done: "approved",
  }),
  stop: ({ release, version, previous, watched }) => ({
    title: watched === "true" ? `Stop, and roll back to version ${previous}?` : `Stop the release of version ${version}?`,
    note: watched === "true" ? `Version ${previous} is production again on every replica, pinned there until it is released.` : `Variant A, version ${previous}, answers all clients at once.`,
    button: "Stop", path: "release/stop", body: { id: release }, doing: "The gateway stops it", done: "stopped",
  }),
};
let decision = null;

// On the document: a poll may put another table in the place of the one that holds the button.
document.addEventListener("click", ({ target }) => {
  const { act, ...wanted } = target.closest("button[data-act]")?.dataset ?? {};
  if (!act) return;
  decision = DECISIONS[act](wanted);
  byId("act-title").textContent = decision.title;
  byId("act-note").textContent = decision.note;
  byId("act-go").textContent = decision.button;
  say("act-problem", "");
  byId("act-token").value ||= key;
  dialog.showModal();
});
byId("act-cancel").addEventListener("click", () => dialog.close());
byId("act-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { path, doing, done, body: wanted } = decision, token = byId("act-token").value;
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const body = JSON.stringify({ ...wanted, reason: byId("act-reason").value || "manually, from the gateway's page" });
  byId("act-go").disabled = true;
  say("act-problem", "");
  const started = Date.now();
  const progress = () => say("act-progress", `${doing}: ${Math.round((Date.now() - started) / 1000)} s. This may take half a minute.`);
  progress();
  const ticking = setInterval(progress, 1000);
  try {
    await ask(`${chosen === null ? "" : `${own}/`}${path}`, { method: "POST", headers, body }, ACT_MS);
    keep(token);
    byId("act-reason").value = "";
    dialog.close();
    poll();
  } catch ({ message, status }) {
    // Without an answer it is unknown: the gateway may have done it, or may still do it.
    if (status === undefined) say("act-problem", `It is unknown whether it was ${done}: the gateway has not answered (${message}). The page behind shows what is in production.`);
    else say("act-problem", `Not ${done}: ${status === 401 ? "that is not its control token" : `the gateway refused (${message})`}.`);
  }
  clearInterval(ticking);
  say("act-progress", "");
  byId("act-go").disabled = false;
});

const STORED = "serving-gateway-key";
let key = sessionStorage.getItem(STORED) ?? "";

function keep(value) {
  key = value;
  sessionStorage.setItem(STORED, value);
}

function locked() {
  stale();
  say("alert", "");
  say("key-problem", key ? "The gateway does not accept that key." : "");
  keep("");
  byId("key").hidden = false;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(byId("key-value").value);
  byId("key-value").value = "";
  byId("key").hidden = true;
  poll();
});
