// What can be done here: roll back, and give a key where the gateway wants one.
const dialog = byId("rollback");

// On the document: a poll may put another table in the place of the one that holds the button.
document.addEventListener("click", ({ target }) => {
  const { variant, version } = target.closest("button[data-variant]")?.dataset ?? {};
  if (!variant) return;
  Object.assign(dialog.dataset, { variant, version });
  byId("rollback-title").textContent = `Roll variant ${variant} back to version ${version}?`;
  say("rollback-problem", "");
  byId("rollback-token").value ||= key;
  dialog.showModal();
});
byId("rollback-cancel").addEventListener("click", () => dialog.close());
byId("rollback-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { variant, version } = dialog.dataset, token = byId("rollback-token").value;
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const body = JSON.stringify({ version: Number(version), reason: byId("rollback-reason").value || "manually, from the gateway's page" });
  byId("rollback-go").disabled = true;
  say("rollback-problem", "");
  const started = Date.now();
  const progress = () => say("rollback-progress", `The gateway verifies version ${version}: ${Math.round((Date.now() - started) / 1000)} s. This may take half a minute.`);
  progress();
  const ticking = setInterval(progress, 1000);
  try {
    await ask(`${chosen === null ? "" : `${own}/`}variant/${variant}/rollback`, { method: "POST", headers, body }, ROLLBACK_MS);
    keep(token);
    byId("rollback-reason").value = "";
    dialog.close();
    poll();
  } catch ({ message, status }) {
    // Without an answer it is unknown: the gateway may have done it, or may still do it.
    if (status === undefined) say("rollback-problem", `It is unknown whether it was rolled back: the gateway has not answered (${message}). The page behind shows what is in production.`);
    else say("rollback-problem", `Not rolled back: ${status === 401 ? "that is not its control token" : `the gateway refused (${message})`}.`);
  }
  clearInterval(ticking);
  say("rollback-progress", "");
  byId("rollback-go").disabled = false;
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
