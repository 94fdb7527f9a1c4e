/* Finds, makes and fills elements. Text is only ever set as text, never read as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/** An HTML element with a class and children; strings among them become text. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** An SVG element with these attributes, and text in it. */
export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text) element.textContent = text;
  return element;
}

/** Put text in an element; the same text is not set again, so that nobody hears it twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show or hide an element. */
export function show(element, isShown) {
  element.hidden = !isShown;
}

/** Give a select these [value, label] choices, and keep what was chosen if it is still among them. */
export function fillSelect(select, choices) {
  const before = select.value;
  select.replaceChildren(
    ...choices.map(([value, label]) => {
      const option = make("option", "", label);
      option.value = value;
      return option;
    }),
  );
  if (choices.some(([value]) => value === before)) select.value = before;
}
