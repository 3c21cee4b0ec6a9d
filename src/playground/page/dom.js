// Elements built from names and text only: model output can never become markup.

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | null | undefined>} [attributes] null, undefined and false are left out
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * The element with this id, which must exist.
 * @template {typeof HTMLElement} T
 * @param {string} id
 * @param {T} kind
 * @returns {InstanceType<T>}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return /** @type {InstanceType<T>} */ (found);
}

/**
 * A bar whose length is the share it shows.
 * @param {number} share in [0, 1]
 * @param {string} [kind] a class
 */
export function bar(share, kind = "") {
  const inner = element("span");
  // The page's policy forbids style attributes.
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("span", { class: `bar ${kind}`.trim(), "aria-hidden": "true" }, inner);
}

/**
 * Limits work to once per frame, however often it is requested.
 * @param {() => void} work
 */
export function oncePerFrame(work) {
  let isPending = false;
  return () => {
    if (isPending) return;
    isPending = true;
    requestAnimationFrame(() => {
      isPending = false;
      work();
    });
  };
}

/**
 * Delays work until it has not been requested again for a while.
 * @template {unknown[]} A
 * @param {number} delayMs
 * @param {(...args: A) => void} work
 */
export function debounced(delayMs, work) {
  let timer = 0;
  const request = (/** @type {A} */ ...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), delayMs);
  };
  return Object.assign(request, { cancel: () => clearTimeout(timer) });
}
