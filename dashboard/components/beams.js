// A beam search as a tree of text. Every text is set by textContent; nothing here reads HTML.

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".beams");
  const focused = root.getRootNode().activeElement?.dataset?.node;
  root.style.setProperty("--muted", data.muted);
  const tree = make("div", "tree");
  tree.setAttribute("role", "tree");
  tree.setAttribute("aria-label", "Beams of the search");
  const lines = data.lines.map((line) => draw(line, data));
  tree.dir = direction(data.lines.flatMap((line) => line.parts));
  const rtl = tree.dir === "rtl";
  tree.append(head(), ...lines);
  root.replaceChildren(tree);
  const reachable = (line) => lines.forEach((one) => { one.tabIndex = one === line ? 0 : -1; });
  reachable(lines.find((line) => line.dataset.node === focused) ?? lines[0]);
  if (focused !== undefined) lines.find((line) => line.dataset.node === focused)?.focus({ preventScroll: true });
  tree.addEventListener("click", (event) => {
    const line = event.target.closest(".line");
    if (!line) return;
    reachable(line);
    setTriggerValue("chosen", { node: Number(line.dataset.node), at: Date.now() });
  });
  tree.addEventListener("keydown", (event) => {
    const place = lines.indexOf(event.target.closest(".line"));
    if (place < 0) return;
    const depth = (at) => data.lines[at].depth;
    const goals = {
      ArrowDown: place + 1,
      ArrowUp: place - 1,
      Home: 0,
      End: lines.length - 1,
      // Along the tree: to the first branch of this one, and back to the one that it grows from.
      [rtl ? "ArrowLeft" : "ArrowRight"]: depth(place + 1 < lines.length ? place + 1 : place) > depth(place) ? place + 1 : place,
      [rtl ? "ArrowRight" : "ArrowLeft"]: lines.findLastIndex((_, at) => at < place && depth(at) < depth(place)),
    };
    if (!(event.key in goals)) return;
    event.preventDefault();
    const goal = lines[goals[event.key]];
    if (!goal) return;
    reachable(goal);
    goal.focus();
  });
}

function head() {
  const element = make("div", "head");
  element.setAttribute("aria-hidden", "true");
  element.append(make("span", "", "what was written"), make("span", "n", "this way on"), make("span", "n total", "sum (nats)"),
    make("span", "n", "score"));
  return element;
}

function draw(line, data) {
  const best = line.place === 0;
  const element = make("button", ["line", best ? "best" : "", line.dropped ? "dropped" : ""].join(" ").trim());
  element.type = "button";
  element.dataset.node = line.node;
  element.tabIndex = -1;
  element.setAttribute("role", "treeitem");
  element.setAttribute("aria-level", String(line.depth + 1));
  element.setAttribute("aria-selected", String(best));
  const way = make("span", "way");
  line.open.forEach((open) => way.append(make("span", open ? "rail on" : "rail")));
  if (line.depth) way.append(make("span", line.last ? "rail end turn" : "rail on turn"));
  const text = make("span", "text");
  text.dir = "auto";
  line.parts.forEach((part, index) => {
    if (part.g && index) text.append(document.createTextNode(part.g));
    text.append(make("span", part.s ? "special" : "", part.t));
  });
  way.append(text);
  const share = make("span", "n");
  const track = make("span", "track");
  const fill = make("span", "fill");
  fill.style.width = `${100 * line.share}%`;
  fill.style.backgroundColor = data.fill[best ? 1 : 0];
  fill.style.borderColor = data.fill[1];
  track.append(fill);
  share.append(track, make("span", "p", line.p));
  const score = make("span", "n");
  if (line.place !== null) score.append(make("span", "", line.score), make("span", "place", String(line.place + 1)));
  else if (line.dropped) score.append(make("span", "note", "dropped"));
  element.append(way, share, make("span", "n total", line.total), score);
  element.setAttribute("aria-label", spoken(line));
  return element;
}

function spoken(line) {
  const text = line.parts.map((part, index) => (index ? part.g : "") + part.t).join("");
  const parts = [text, `probability of this way on ${line.p}`, `sum ${line.total} nats`];
  if (line.place !== null) parts.push(`score ${line.score}, place ${line.place + 1}${line.place === 0 ? ", the winner" : ""}`);
  else if (line.dropped) parts.push("dropped");
  else parts.push("goes on in several ways");
  return parts.join(", ");
}
