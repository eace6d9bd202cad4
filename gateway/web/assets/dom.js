// Elements from descriptions, and the difference between two descriptions carried out on the page.
//
// A page is described anew after every look at the gateway; what is the same stays the same element, so that focus, scroll and
// what somebody is typing survive. Nothing here parses markup: text is text.

/** @typedef {{tag: string, props: Record<string, unknown>, children: Node_[], key: string | undefined}} Described */
/** @typedef {Described | string} Node_ */

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "line", "rect", "circle", "text", "g", "title"]);
const HANDLERS = Symbol("handlers");
const KEY = Symbol("key");

/**
 * Describes an element. `on…` are handlers, `key` tells siblings apart, `focus` takes the focus when the element is new,
 * `modal` opens a new dialog in front of everything.
 * Absent values (`undefined`, `null`, `false`) leave an attribute out and a child away.
 */
export function h(tag, props, ...children) {
  const { key, ...rest } = props ?? {};
  const flat = children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false && child !== "");
  return { tag, props: rest, children: flat.map((child) => (typeof child === "object" ? child : String(child))), key };
}

/** Makes the children of `parent` what is described. */
export function render(parent, ...children) {
  reconcile(parent, h("x", null, ...children).children);
}

function create(described, inSvg) {
  if (typeof described === "string") return document.createTextNode(described);
  const svg = described.tag === "svg" || (inSvg && SVG_TAGS.has(described.tag));
  const element = svg ? document.createElementNS(SVG, described.tag) : document.createElement(described.tag);
  element[HANDLERS] = {};
  element[KEY] = described.key;
  for (const [name, value] of Object.entries(described.props)) apply(element, name, value);
  element.props_ = described.props;
  reconcile(element, described.children);
  if (described.props.modal) queueMicrotask(() => element.isConnected && !element.open && element.showModal());
  if (described.props.focus) queueMicrotask(() => element.isConnected && element.focus());
  return element;
}

function apply(element, name, value) {
  if (name === "focus" || name === "modal") return;
  if (name.startsWith("on")) {
    const event = name.slice(2).toLowerCase();
    if (!(event in element[HANDLERS])) element.addEventListener(event, (happened) => element[HANDLERS][event]?.(happened));
    element[HANDLERS][event] = value || undefined;
  } else if (value === undefined || value === null || value === false) {
    element.removeAttribute(name);
    if (name === "disabled" || name === "open") element[name] = false;
  } else if (name === "value" && "value" in element && element.tagName !== "OPTION" && element.tagName !== "PROGRESS") {
    if (element.value !== String(value)) element.value = String(value);
  } else if (name === "checked") {
    element.checked = Boolean(value);
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

const fits = (element, described) =>
  typeof described === "string"
    ? element.nodeType === Node.TEXT_NODE
    : element.nodeType === Node.ELEMENT_NODE && element.localName === described.tag && element[KEY] === described.key;

function update(element, described) {
  if (typeof described === "string") {
    if (element.data !== described) element.data = described;
    return;
  }
  const before = element.props_ ?? {};
  for (const name of Object.keys(before)) if (!(name in described.props)) apply(element, name, undefined);
  for (const [name, value] of Object.entries(described.props)) {
    // A field belongs to whoever types in it: only a value that the description changed is set.
    if (value !== before[name] || name.startsWith("on")) apply(element, name, value);
  }
  element.props_ = described.props;
  reconcile(element, described.children);
}

function reconcile(parent, wanted) {
  const inSvg = parent.namespaceURI === SVG;
  const keyed = new Map();
  for (const child of parent.childNodes) if (child[KEY] !== undefined) keyed.set(child[KEY], child);
  let at = parent.firstChild;
  for (const described of wanted) {
    const known = typeof described === "object" && described.key !== undefined ? keyed.get(described.key) : undefined;
    if (known && known !== at && fits(known, described)) {
      parent.insertBefore(known, at);
      at = known;
    }
    if (at && fits(at, described)) {
      update(at, described);
      at = at.nextSibling;
    } else {
      parent.insertBefore(create(described, inSvg), at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
