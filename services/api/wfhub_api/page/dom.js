// DOM: elements out of names, attributes and children. Texts become text, never markup.
//
// el("p", {class: "a", onclick: f}, "text", otherElement, null) — null and false are left out.
// `shown` is for texts that come from tasks, agents and logs: what would be invisible or would turn
// the reading direction is made visible.

const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...kept(children));
  return element;
}

export function put(parent, ...children) {
  parent.replaceChildren(...kept(children));
}

const kept = (children) => children.flat().filter((c) => c !== null && c !== undefined && c !== false);

export function shown(value, name = "bdi") {
  const text = String(value ?? "");
  const element = el(name);
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    element.append(text.slice(from, match.index), mark(match[0]));
    from = match.index + match[0].length;
  }
  element.append(text.slice(from));
  return element;
}

function mark(character) {
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return el("span", { class: "hidden-character", title: "a character that cannot be seen" }, `U+${code}`);
}

// Only where it changed: the reader's selection, focus and place stay.
export function putIfChanged(parent, key, make) {
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  put(parent, ...[make()].flat());
}

// The children of `parent` become one for each item, in order. An item's element is kept as long as
// `versionOf(item)` says the same, so that focus and selection outlive a repeated look.
export function putList(parent, items, keyOf, versionOf, make) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const [key, version] = [keyOf(item), versionOf(item)];
    const known = there.get(key);
    if (known?.dataset.version === version) return known;
    const made = make(item);
    made.dataset.key = key;
    made.dataset.version = version;
    return made;
  });
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const [row, place] = [focused?.closest("[data-key]")?.dataset.key, placeOf(focused)];
  wanted.forEach((child, n) => {
    if (parent.children[n] !== child) parent.insertBefore(child, parent.children[n] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
  if (focused && !focused.isConnected) {
    const heir = wanted.find((child) => child.dataset.key === row);
    heir?.querySelectorAll("a, button, summary")[place]?.focus();
  }
}

function placeOf(focused) {
  const within = focused?.closest("[data-key]");
  return within ? [...within.querySelectorAll("a, button, summary")].indexOf(focused) : -1;
}
