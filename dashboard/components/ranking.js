// The ranking of methods as a table. Every text is set by textContent; nothing here reads HTML.
const SVG = "http://www.w3.org/2000/svg";

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".ranking");
  const focused = root.querySelector("button:focus")?.dataset.method;
  root.style.setProperty("--wrong", data.wrong);
  root.style.setProperty("--muted", data.muted);
  const scrolled = root.querySelector(".scroll")?.scrollLeft ?? 0;
  const scroll = make("div", "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Ranking of the methods");
  scroll.append(table(data, (method) => {
    const there = data.rows.some((row) => row.picked && row.method === method);
    root.wanted = there ? null : method;
    if (there) reveal(data.leadsTo);
    else setTriggerValue("picked", { method, at: Date.now() });
  }));
  root.replaceChildren(scroll, make("div", "caption", data.caption));
  scroll.scrollLeft = scrolled;
  if (focused) [...root.querySelectorAll("button")].find((one) => one.dataset.method === focused)?.focus({ preventScroll: true });
  if (root.wanted && data.rows.some((row) => row.picked && row.method === root.wanted)) {
    root.wanted = null;
    reveal(data.leadsTo);
  }
}

// Scroll to what a pick leads to. It may still be on its way, or have no room below it yet to be scrolled up to,
// so look again for a while, unless the reader scrolls.
function reveal(name) {
  const behavior = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  const end = Date.now() + 3000;
  let ours = true;
  for (const kind of ["wheel", "touchstart", "keydown"]) {
    window.addEventListener(kind, () => { ours = false; }, { once: true, passive: true });
  }
  const look = () => {
    const goal = document.querySelector(`.st-key-${name}`);
    if (!ours || Date.now() > end || goal?.getBoundingClientRect().top < window.innerHeight / 2) return;
    goal?.scrollIntoView({ behavior, block: "start" });
    setTimeout(look, 300);
  };
  look();
}

function table(data, choose) {
  const element = make("table");
  const head = make("tr");
  head.append(cell("th", "place", "#"), cell("th", "method", "Method"), cell("th", "verdict", "Verdict"));
  for (const [name, technical] of data.columns) head.append(cell("th", "", name, technical));
  for (const one of head.children) one.scope = "col";
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  for (const row of data.rows) body.append(line(row, data, choose));
  element.append(top, body);
  return element;
}

function line(row, data, choose) {
  const names = ["row"];
  if (row.off) names.push("off");
  if (row.failed) names.push("failed");
  if (row.picked) names.push("picked");
  const element = make("tr", names.join(" "));
  const method = make("th", "method");
  method.scope = "row";
  const button = make("button", "name");
  button.type = "button";
  button.dataset.method = row.method;
  button.setAttribute("aria-pressed", String(row.picked));
  button.append(make("span", "", row.label));
  if (row.best) {
    const star = make("span", "star", "\u00a0★");
    star.title = "most trusted";
    button.append(star);
  }
  method.append(button);
  const verdict = make("td", "verdict", `${row.sign} ${row.word}`);
  if (row.said) verdict.title = row.said;
  element.append(make("td", "place", row.place), method, verdict);
  for (const one of row.cells) element.append(figure(one, data.width));
  for (let at = row.cells.length; at < data.columns.length; at += 1) element.append(make("td", "", "–"));
  element.addEventListener("click", () => choose(row.method));
  return element;
}

function figure(one, width) {
  const element = make("td", one.failed ? "wrong" : "");
  const inside = make("div", "figure");
  if (one.picture) inside.append(picture(one.picture, width));
  inside.append(make("span", "value", one.failed ? `✗ ${one.value}` : one.value));
  // Only the figure that orders the methods has room for its interval; the others show theirs when pointed at.
  if (one.picture && one.detail) inside.append(make("span", "detail", one.detail));
  else if (one.detail) element.title = one.detail;
  element.append(inside);
  return element;
}

function picture([low, value, high, mark], width) {
  const svg = shape("svg", { viewBox: `0 0 ${width} 16`, width: 60, height: 12, "aria-hidden": "true" });
  svg.append(shape("line", { class: "axis", x1: 0, x2: width, y1: 8, y2: 8 }));
  if (mark !== null) svg.append(shape("line", { class: "mark", x1: mark, x2: mark, y1: 1, y2: 15 }));
  svg.append(shape("line", { class: "range", x1: low, x2: high, y1: 8, y2: 8 }));
  svg.append(shape("circle", { class: "dot", cx: value, cy: 8, r: 4.5 }));
  return svg;
}

function cell(tag, css, text, small = "") {
  const element = make(tag, css, text);
  if (small) element.append(make("span", "detail", small));
  return element;
}

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
