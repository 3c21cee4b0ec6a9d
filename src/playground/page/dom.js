// Elements, made of names and texts alone: what a model says can never become markup.

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | null | undefined>} [attributes] null and false: left out
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
 * The element of the page with this id, which must be there.
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
 * A bar as long as the share that it shows.
 * @param {number} share in [0, 1]
 * @param {string} [kind] a class
 */
export function bar(share, kind = "") {
  const inner = element("span");
  // Not by a style attribute: the page's policy forbids those.
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("span", { class: `bar ${kind}`.trim(), "aria-hidden": "true" }, inner);
}

/**
 * Whether something is to be done: not more often than once a frame, however often it is asked for.
 * @param {() => void} work
 */
export function onceAFrame(work) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      work();
    });
  };
}

/**
 * Does the last that was asked for, once nothing more was asked for a while.
 * @template {unknown[]} A
 * @param {number} milliseconds
 * @param {(...asked: A) => void} work
 */
export function afterAWhile(milliseconds, work) {
  let timer = 0;
  const ask = (/** @type {A} */ ...asked) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...asked), milliseconds);
  };
  return Object.assign(ask, { cancel: () => clearTimeout(timer) });
}
