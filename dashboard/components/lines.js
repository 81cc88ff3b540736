// Two columns of tokens and the lines between them. Every text is set by textContent.
const ROW = 28, NEAR = 12, MOST = 26, ALL = 240, FAINT = 0.01, LEVELS = 20;
const NAMESPACE = "http://www.w3.org/2000/svg";

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".lines");
  const graph = root.graph ?? (root.graph = new Graph(root));
  graph.send = (step) => setTriggerValue("picked", { step, at: Date.now() });
  graph.update(data);
}

class Graph {
  constructor(root) {
    this.root = root;
    root.style.setProperty("--row", `${ROW}px`);
    this.bar = make("div", "bar");
    this.graph = make("div", "graph");
    this.heads = { left: make("div", "head left"), middle: make("div"), right: make("div", "head right") };
    this.columns = { left: make("div", "column left"), right: make("div", "column right") };
    this.svg = document.createElementNS(NAMESPACE, "svg");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    for (const [side, column] of Object.entries(this.columns)) {
      column.setAttribute("role", "group");
      column.addEventListener("pointerover", (event) => this.point(side, event));
      column.addEventListener("focusin", (event) => this.point(side, event));
      column.addEventListener("pointerleave", () => this.leave());
      column.addEventListener("focusout", () => this.leave());
      column.addEventListener("click", (event) => this.click(side, event));
      column.addEventListener("keydown", (event) => this.key(side, event));
    }
    this.graph.append(this.heads.left, this.heads.middle, this.heads.right, this.columns.left, this.svg,
      this.columns.right);
    this.readout = make("div", "readout");
    this.readout.setAttribute("aria-live", "polite");
    root.replaceChildren(this.bar, this.graph, this.readout);
    this.over = null;
  }

  update(data) {
    this.data = data;
    this.weights = floats(data.weights);
    this.tokens = { left: data.left.tokens, right: data.right.tokens };
    this.locked = data.picked ?? null;
    this.over = null;
    const focused = this.focused();
    this.bar.replaceChildren(make("span", "hint", data.right.hint), legend(data.bar));
    this.lay();
    // The rows are new ones; who was at a token by keys stays there.
    const place = focused && this.place(focused.side, focused.index);
    if (place !== null && place !== undefined) this.go(focused.side, this.buttons[focused.side][place]);
  }

  // The token that has the keyboard's focus.
  focused() {
    const active = this.root.getRootNode().activeElement;
    for (const side of ["left", "right"]) {
      const place = this.buttons?.[side]?.indexOf(active) ?? -1;
      if (place >= 0) return { side, index: this.rows[side][place][0] };
    }
    return null;
  }

  weight(right, left) {
    const value = this.weights[right * this.tokens.left.length + left];
    return Number.isNaN(value) ? 0 : value;
  }

  // Which tokens have a row of their own; the others are counted in the rows between.
  lay() {
    const { left, right } = this.tokens;
    const shown = { left: left.map((_, index) => index), right: right.map((_, index) => index) };
    if (right.length > MOST) {
      const middle = this.locked ?? 0;
      const begin = Math.max(0, Math.min(right.length - 2 * NEAR - 1, middle - NEAR));
      shown.right = shown.right.slice(begin, begin + 2 * NEAR + 1);
    }
    if (left.length > MOST) {
      const most = this.locked === null
        ? left.map((_, index) => Math.max(...shown.right.map((row) => this.weight(row, index))))
        : left.map((_, index) => this.weight(this.locked, index));
      const ranked = [...shown.left].sort((a, b) => most[b] - most[a]).slice(0, MOST);
      shown.left = ranked.sort((a, b) => a - b);
    }
    this.rows = { left: rows(shown.left, left.length), right: rows(shown.right, right.length) };
    for (const side of ["left", "right"]) {
      this.heads[side].textContent = this.data[side].label;
      this.columns[side].setAttribute("aria-label", this.data[side].label);
      this.buttons = { ...this.buttons, [side]: this.rows[side].map((row) => this.button(side, row)) };
      this.columns[side].replaceChildren(...this.buttons[side].map((button) => button.parentElement));
    }
    this.reachable("right", this.place("right", this.locked) ?? 0);
    this.reachable("left", 0);
    const tall = Math.max(this.rows.left.length, this.rows.right.length) * ROW;
    this.svg.setAttribute("viewBox", `0 0 100 ${tall}`);
    this.svg.style.height = `${tall}px`;
    this.paint();
  }

  button(side, row) {
    const gap = row.length > 1 || row.gap;
    const line = make("div", "row");
    const button = make(gap ? "span" : "button", "token");
    const number = make("span", "number");
    if (gap) {
      button.classList.add("gap");
      button.textContent = row.length === 1 ? "⋯ 1 token" : `⋯ ${row.length} tokens`;
    } else {
      const token = this.tokens[side][row[0]];
      button.type = "button";
      button.dir = "auto";
      button.textContent = token.t;
      button.title = token.t;
      button.tabIndex = -1;
      if (token.s) button.classList.add("special");
      if (side === "right") button.setAttribute("aria-pressed", "false");
    }
    button.number = number;
    line.append(...(side === "left" ? [number, button] : [button, number]));
    return button;
  }

  place(side, index) {
    if (index === null) return null;
    const found = this.rows[side].findIndex((row) => row.includes(index));
    return found < 0 ? null : found;
  }

  // What lines are drawn of: what is pointed at, else what is locked.
  get focus() {
    return this.over ?? (this.locked === null ? null : { side: "right", index: this.locked });
  }

  paint() {
    const { focus } = this;
    const found = [];
    this.rows.right.forEach((right, y) => {
      this.rows.left.forEach((left, x) => {
        if (focus?.side === "right" && !right.includes(focus.index)) return;
        if (focus?.side === "left" && !left.includes(focus.index)) return;
        const value = this.sum(focus?.side === "right" ? [focus.index] : right, left, focus === null);
        if (value > 0) found.push([x, y, value]);
      });
    });
    found.sort((a, b) => b[2] - a[2]);
    const limit = this.data.bar.limit || 1;
    const drawn = found.slice(0, ALL).filter(([, , value]) => value >= FAINT * (focus ? 1 : 5) * Math.min(1, limit));
    this.svg.replaceChildren(...drawn.reverse().map((line) => this.line(...line, limit, focus)));
    this.number(focus, found);
    this.buttons.right.forEach((button, row) => {
      if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", String(this.rows.right[row][0] === this.locked));
    });
    this.say(focus, found);
  }

  // A row of several tokens stands for all they come to; of several that look, for the most that one does.
  sum(right, left, every) {
    const each = right.map((row) => left.reduce((sum, index) => sum + this.weight(row, index), 0));
    return every && right.length > 1 ? 0 : Math.max(...each);
  }

  line(x, y, value, limit, focus) {
    const share = Math.min(1, value / limit);
    const path = document.createElementNS(NAMESPACE, "path");
    const [from, to] = [(x + 0.5) * ROW, (y + 0.5) * ROW];
    path.setAttribute("d", `M 0 ${from} C 45 ${from} 55 ${to} 100 ${to}`);
    // The palest colours of the scale cannot be seen as lines.
    path.setAttribute("stroke", this.data.bar.background[Math.round(5 + share * (LEVELS - 5))]);
    path.setAttribute("stroke-width", String(1 + share * (focus ? 6 : 3.5)));
    if (!focus) path.setAttribute("opacity", "0.75");
    return path;
  }

  // Beside the tokens at the other end: the weight that each has.
  number(focus, found) {
    for (const side of ["left", "right"]) {
      const at = side === "left" ? 0 : 1;
      const values = new Map(focus && focus.side !== side ? found.map((line) => [line[at], line[2]]) : []);
      this.buttons[side].forEach((button, row) => {
        const value = values.get(row) ?? 0;
        button.number.textContent = value >= 0.005 ? value.toFixed(2) : "";
        button.classList.toggle("off", Boolean(focus) && focus.side !== side && value < 0.005);
        if (button.tagName === "BUTTON") {
          const token = this.tokens[side][this.rows[side][row][0]];
          button.setAttribute("aria-label", focus && focus.side !== side
            ? `${token.t}, weight ${value.toFixed(2)}` : token.t);
        }
      });
    }
  }

  say(focus, found) {
    if (!focus) {
      this.readout.textContent = "The strongest lines of all tokens.";
      return;
    }
    const other = focus.side === "right" ? "left" : "right";
    const [x, y, value] = found[0] ?? [];
    const name = make("bdi", "", this.tokens[focus.side][focus.index].t);
    if (value === undefined) this.readout.replaceChildren(name, ": no weight");
    else {
      const row = this.rows[other][other === "left" ? x : y];
      const best = row.gap ? "the tokens not shown" : this.tokens[other][row[0]].t;
      this.readout.replaceChildren(name, focus.side === "right" ? " looks most at " : " is looked at most by ",
        make("bdi", "", best), ` · weight ${value.toFixed(3)}`);
    }
  }

  at(side, event) {
    const place = this.buttons[side].indexOf(event.target.closest?.(".token"));
    return place < 0 || this.rows[side][place].gap ? null : place;
  }

  point(side, event) {
    const place = this.at(side, event);
    const next = place === null ? null : { side, index: this.rows[side][place][0] };
    if (next?.side === this.over?.side && next?.index === this.over?.index) return;
    this.over = next;
    this.paint();
  }

  leave() {
    if (this.over === null) return;
    this.over = null;
    this.paint();
  }

  click(side, event) {
    const place = this.at(side, event);
    if (place === null || side === "left") return;
    this.lock(this.rows.right[place][0]);
  }

  lock(index) {
    this.locked = this.locked === index ? null : index;
    this.over = null;
    this.paint();
    this.send(this.locked);
  }

  key(side, event) {
    const place = this.at(side, event);
    if (place === null) return;
    const own = this.buttons[side].filter((button) => button.tagName === "BUTTON");
    const rank = own.indexOf(this.buttons[side][place]);
    const goals = { ArrowDown: rank + 1, ArrowUp: rank - 1, Home: 0, End: own.length - 1 };
    if (event.key in goals && own[goals[event.key]]) this.go(side, own[goals[event.key]]);
    else if (event.key === (side === "left" ? "ArrowRight" : "ArrowLeft")) {
      const other = side === "left" ? "right" : "left";
      this.go(other, this.columns[other].querySelector('.token[tabindex="0"]'));
    } else if (event.key === "Escape" && this.locked !== null) this.lock(this.locked);
    else if (!(event.key in goals)) return;
    event.preventDefault();
  }

  go(side, button) {
    if (button?.tagName !== "BUTTON") return;
    this.reachable(side, this.buttons[side].indexOf(button));
    button.focus();
  }

  // One token of each column can be reached by Tab, the others by arrows.
  reachable(side, place) {
    const able = this.buttons[side][place]?.tagName === "BUTTON" ? place
      : this.buttons[side].findIndex((button) => button.tagName === "BUTTON");
    this.buttons[side].forEach((button, row) => {
      if (button.tagName === "BUTTON") button.tabIndex = row === able ? 0 : -1;
    });
  }
}

// Positions in rows: each shown one alone, those between them together.
function rows(shown, length) {
  const found = [];
  let reached = 0;
  const skip = (until) => {
    if (until > reached) {
      const between = Array.from({ length: until - reached }, (_, index) => reached + index);
      between.gap = true;
      found.push(between);
    }
  };
  for (const index of shown) {
    skip(index);
    found.push([index]);
    reached = index + 1;
  }
  skip(length);
  return found;
}

function legend(bar) {
  const element = make("span", "legend");
  element.append(make("span", "", bar.title), scale(bar.background, "0", bar.limit.toFixed(2)));
  return element;
}
