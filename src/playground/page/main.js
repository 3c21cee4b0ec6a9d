// The page at `/`: puts its parts together.

import * as api from "./api.js";
import { mountCompare } from "./compare.js";
import { save } from "./files.js";
import { byId } from "./dom.js";
import { Explore } from "./explore.js";
import { mountScore } from "./score.js";
import * as share from "./share.js";
import { mountTour } from "./tour.js";

/**
 * Tells what went wrong, and asks for a key if that is what is missing.
 * @param {unknown} error null: nothing did
 */
function trouble(error) {
  say(error instanceof Error ? error.message : error ? String(error) : "");
  byId("unlock", HTMLFormElement).hidden = !(error instanceof api.ApiError && error.status === 401);
}

/** @param {string} words of trouble; none: there is none */
function say(words) {
  const place = byId("trouble", HTMLElement);
  place.hidden = !words;
  place.textContent = words;
}

async function start() {
  const [models, fields] = await Promise.all([api.models(), api.fields()]);
  trouble(null);
  const context = { models, fields, trouble };
  const explore = new Explore(context);
  mountScore(byId("score", HTMLElement), context);
  mountCompare(byId("compare", HTMLElement), context);
  mountTour(explore, () => show("explore"));
  mountSharing(explore);
  const open = () => {
    const held = share.linked();
    if (!held) return;
    const unknown = explore.set(held);
    const words = unknown.length ? ` It has no place for ${unknown.join(", ")}.` : "";
    byId("status", HTMLElement).textContent = `The link's request stands in the form: press Generate.${words}`;
  };
  open();
  addEventListener("hashchange", open);
  document.documentElement.dataset.ready = "true";
}

/** @param {Explore} explore */
function mountSharing(explore) {
  const needsKey = () => api.key.value !== "";
  byId("copy-as", HTMLButtonElement).addEventListener("click", () => {
    const { branch } = explore;
    if (!branch && !explore.isValid()) return;
    const [title, request] = branch ? ["The request of this text, as code", branch.asRequest] : ["This request as code", explore.request()];
    share.showCodes(title, { ...request, echo: true, ...explore.told() }, needsKey());
  });
  byId("permalink", HTMLButtonElement).addEventListener("click", async () => {
    if (!explore.branch && !explore.isValid()) return;
    const link = share.linkTo(explore.branch?.root.request ?? explore.request());
    history.replaceState(null, "", link);
    const isCopied = await share.toClipboard(link);
    byId("status", HTMLElement).textContent = isCopied ? "The link is copied, and stands in the address bar." : "The link stands in the address bar.";
  });
  byId("export-json", HTMLButtonElement).addEventListener("click", () => {
    if (explore.branch) save("candor.json", "application/json", share.asJson(explore.branch));
  });
  byId("export-csv", HTMLButtonElement).addEventListener("click", () => {
    if (explore.branch) save("candor.csv", "text/csv", share.asCsv(explore.branch.tokens));
  });
}

/** Whether the page is being put together. */
let begins = false;

/** Puts it together, once: again only if it could not be. */
function begin() {
  if (document.documentElement.dataset.ready) return trouble(null);
  if (begins) return;
  begins = true;
  start().catch(trouble).finally(() => {
    begins = false;
  });
}

// --- Tabs, by the pattern of WAI-ARIA: arrow keys go from one to the next.

const tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[role=tab]")]);

/** @param {string} name of a panel */
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

const THEMES = [["", "◐", "as the system has them"], ["light", "☀", "light"], ["dark", "☾", "dark"]];

/** @param {string} theme */
function colours(theme) {
  const [name, sign, words] = THEMES.find(([name]) => name === theme) ?? THEMES[0];
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const button = byId("theme", HTMLButtonElement);
  button.textContent = sign;
  button.setAttribute("aria-label", `Colours: ${words}`);
  document.dispatchEvent(new Event("themechange"));
}

colours(api.kept(() => localStorage.getItem("theme")) ?? "");
byId("theme", HTMLButtonElement).addEventListener("click", () => {
  const now = THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? ""));
  const [next] = THEMES[(now + 1) % THEMES.length];
  api.kept(() => localStorage.setItem("theme", next));
  colours(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));

// --- A key, if the server wants one.

byId("unlock", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    api.key.value = byId("key", HTMLInputElement).value;
  } catch (error) {
    // The form stays: it is where this is mended.
    return say(String(error));
  }
  begin();
});

begin();
