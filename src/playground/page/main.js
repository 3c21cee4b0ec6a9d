// The page at `/`: assembles its parts.

import * as api from "./api.js";
import { mountCompare } from "./compare.js";
import { startExample, isFirstVisit } from "./example.js";
import { save } from "./files.js";
import { byId } from "./dom.js";
import { Explore } from "./explore.js";
import { mountScore } from "./score.js";
import * as share from "./share.js";
import { mountTour } from "./tour.js";

/** @import { Model } from "./types.js" */

/** How often a server that is loading its model is asked again. */
const POLL_MS = 1000;

/**
 * Shows an error, and the form for an API key if that is what is missing.
 * @param {unknown} error null: none
 */
function showError(error) {
  const isLocked = error instanceof api.ApiError && error.status === 401;
  byId("unlock", HTMLFormElement).hidden = !isLocked;
  // The form alone says it at first.
  if (isLocked && !api.key.value) return showErrorText("");
  showErrorText(error instanceof Error ? error.message : error ? String(error) : "");
}

/** @param {string} text empty: no error */
function showErrorText(text) {
  const place = byId("error", HTMLElement);
  place.hidden = !text;
  place.textContent = text;
}

/** Shows what the page waits for. @param {string} text empty: nothing */
function showProgress(text) {
  const place = byId("progress", HTMLElement);
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, POLL_MS));
}

/** What the page starts with. A server that is loading its first model cannot answer yet (503): the page waits. */
async function modelsAndFields() {
  for (;;) {
    try {
      const answers = await Promise.all([api.models(), api.fields()]);
      showProgress("");
      return answers;
    } catch (error) {
      const isStarting = error instanceof api.ApiError && error.status === 503;
      showProgress(isStarting ? `${error.message} The page is waiting for the server.` : "");
      if (!isStarting) throw error;
      await pause();
    }
  }
}

/** The model of this name, once it is no longer loading. @param {Model[]} models @param {string} id @returns {Promise<Model | undefined>} */
async function settled(models, id) {
  for (;;) {
    const model = models.find((model) => model.id === id);
    const isLoading = model?.status?.value === "loading";
    showProgress(isLoading ? "The model is still being loaded. The page is waiting for it." : "");
    if (!isLoading) return model;
    await pause();
    models = await api.models().catch(() => models);
  }
}

async function start() {
  const [models, fields] = await modelsAndFields();
  showError(null);
  const context = { models, fields, showError };
  const explore = new Explore(context);
  mountScore(byId("score", HTMLElement), context);
  mountCompare(byId("compare", HTMLElement), context);
  mountTour(explore, () => show("explore"));
  mountSharing(explore);
  const ready = settled(models, explore.model);
  const stopExample = isFirstVisit() ? startExample(explore, ready) : () => {};
  const openLink = () => {
    const request = share.linked();
    if (!request) return;
    stopExample();
    const unknown = explore.set(request);
    const ignored = unknown.length ? ` The form has no field for ${unknown.join(", ")}.` : "";
    byId("status", HTMLElement).textContent = `The form contains the request from the link. Press Generate.${ignored}`;
  };
  openLink();
  addEventListener("hashchange", openLink);
  document.documentElement.dataset.ready = "true";
}

/** @param {Explore} explore */
function mountSharing(explore) {
  const needsKey = () => api.key.value !== "";
  byId("copy-as", HTMLButtonElement).addEventListener("click", () => {
    const { branch } = explore;
    if (!branch && !explore.isValid()) return;
    const [title, request] = branch ? ["Code for this text", branch.asRequest] : ["Code for this request", explore.request()];
    share.showCodes(title, { ...request, echo: true, ...explore.detailOptions() }, needsKey());
  });
  byId("permalink", HTMLButtonElement).addEventListener("click", async () => {
    if (!explore.branch && !explore.isValid()) return;
    const link = share.linkTo(explore.branch?.root.request ?? explore.request());
    history.replaceState(null, "", link);
    const isCopied = await share.toClipboard(link);
    byId("status", HTMLElement).textContent = isCopied ? "Link copied. It is in the address bar, too." : "The link is in the address bar.";
  });
  byId("export-json", HTMLButtonElement).addEventListener("click", () => {
    if (explore.branch) save("candor.json", "application/json", share.asJson(explore.branch));
  });
  byId("export-csv", HTMLButtonElement).addEventListener("click", () => {
    if (explore.branch) save("candor.csv", "text/csv", share.asCsv(explore.branch.tokens));
  });
}

/** Whether the page is starting. */
let isStarting = false;

/** Starts the page. Does nothing if it is starting or has started. */
function begin() {
  if (document.documentElement.dataset.ready) return showError(null);
  if (isStarting) return;
  isStarting = true;
  start().catch(showError).finally(() => {
    isStarting = false;
  });
}

// --- Tabs, by the WAI-ARIA pattern: arrow keys move from one to the next.

const tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[role=tab]")]);

/** @param {string} name a panel's id */
function show(name) {
  for (const tab of tabs) {
    const isShown = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
    byId(tab.getAttribute("aria-controls") ?? "", HTMLElement).hidden = !isShown;
  }
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab.getAttribute("aria-controls") ?? ""));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}

// --- Colours: the system's, light, dark.

const THEMES = [["", "◐", "system"], ["light", "☀", "light"], ["dark", "☾", "dark"]];

/** @param {string} theme */
function setTheme(theme) {
  const [name, sign, label] = THEMES.find(([name]) => name === theme) ?? THEMES[0];
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const button = byId("theme", HTMLButtonElement);
  button.textContent = sign;
  button.title = `Colours: ${label}`;
  button.setAttribute("aria-label", button.title);
  document.dispatchEvent(new Event("themechange"));
}

setTheme(api.stored(() => localStorage.getItem("theme")) ?? "");
byId("theme", HTMLButtonElement).addEventListener("click", () => {
  const now = THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? ""));
  const [next] = THEMES[(now + 1) % THEMES.length];
  api.stored(() => localStorage.setItem("theme", next));
  setTheme(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));

// --- The API key, if the server requires one.

byId("unlock", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    api.key.value = byId("key", HTMLInputElement).value;
  } catch (error) {
    // The form stays open for another try.
    return showErrorText(String(error));
  }
  begin();
});

begin();
