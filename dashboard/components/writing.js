// The output token by token, and what else was weighed at one of them. Every text is set by textContent.

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".writing");
  const page = root.page ?? (root.page = new Page(root));
  page.pick = (step) => setTriggerValue("picked", { step, at: Date.now() });
  page.fork = (step, id) => setTriggerValue("forked", { step, id, at: Date.now() });
  page.update(data);
}

class Page {
  constructor(root) {
    this.root = root;
    this.over = null;
    this.locked = null;
    this.head = make("div", "bar");
    this.tokens = make("div", "tokens");
    this.readout = make("div", "readout");
    this.readout.setAttribute("aria-live", "polite");
    this.strip = make("div", "strip pick");
    this.strip.setAttribute("role", "group");
    this.strip.setAttribute("aria-label", "Output");
    this.strip.append(this.head, this.tokens, this.readout);
    this.panel = make("div", "panel");
    root.replaceChildren(this.strip, this.panel);
    this.listen();
  }

  update(data) {
    const shape = JSON.stringify([data.tokens, data.steps, data.doubt[20]]);
    this.data = data;
    this.locked = data.picked;
    this.root.style.setProperty("--muted", data.muted);
    if (shape !== this.shape) {
      this.shape = shape;
      this.over = null;
      this.lay();
    }
    this.shown = null;
    this.paint();
  }

  lay() {
    const { tokens } = this.data;
    this.tokens.dir = direction(tokens);
    this.buttons = tokens.map((token, index) => this.button(token, index));
    const parts = [];
    tokens.forEach((token, index) => {
      const next = tokens[index + 1];
      this.buttons[index].classList.toggle("first", index === 0 || Boolean(token.g || token.n));
      this.buttons[index].classList.toggle("last", !next || Boolean(next.g || next.n));
      if (token.n) parts.push(make("span", "break"));
      const column = make("span", next?.g ? "column space" : "column");
      column.append(this.buttons[index], this.under(index));
      parts.push(column);
    });
    this.tokens.replaceChildren(...parts);
    this.head.replaceChildren(make("span", "label", "Output"), make("span", "hint", "click a token"), this.legend());
    this.reachable(this.locked ?? 0);
  }

  legend() {
    const element = make("span", "legend");
    const colour = scale(this.data.doubt, "probability 1", "0");
    const height = make("span");
    const sample = make("span", "sample");
    for (const share of [0.12, 0.45, 1]) {
      const bar = make("i");
      bar.style.height = `${100 * share}%`;
      sample.append(bar);
    }
    height.append(document.createTextNode("entropy 0"), sample, document.createTextNode(`${this.data.high} nats`));
    element.append(colour, height);
    return element;
  }

  button(token, index) {
    const step = this.data.steps[index];
    const level = Math.round(Math.max(0, Math.min(1, step.doubt)) * 20);
    const button = make("button", "token", token.t);
    button.type = "button";
    button.dir = "auto";
    button.dataset.index = index;
    button.tabIndex = -1;
    button.style.backgroundColor = this.data.doubt[level];
    button.style.color = this.data.ink[level];
    if (token.s) button.classList.add("special");
    if (token.f) button.classList.add("forced");
    const kind = [token.f ? "given, not chosen by the model" : "", token.s ? "special token" : ""].filter(Boolean);
    button.setAttribute("aria-label", [token.t, step.note, ...kind].join(" · "));
    return button;
  }

  under(index) {
    const step = this.data.steps[index];
    const element = make("span", "under");
    element.setAttribute("aria-hidden", "true");
    const bar = make("i");
    bar.style.height = `${Math.round(100 * Math.min(1, step.entropy / this.data.limit))}%`;
    element.append(bar);
    if (step.rank > 1) element.append(make("b", "", `#${step.rank}`));
    return element;
  }

  listen() {
    const at = (event) => {
      const button = event.target.closest?.(".token");
      return button ? Number(button.dataset.index) : null;
    };
    const enter = (event) => this.hover(at(event) ?? this.over);
    const leave = () => this.hover(null);
    this.tokens.addEventListener("pointerover", enter);
    this.tokens.addEventListener("focusin", enter);
    this.tokens.addEventListener("pointerleave", leave);
    this.tokens.addEventListener("focusout", leave);
    this.tokens.addEventListener("click", (event) => {
      const index = at(event);
      if (index !== null) this.lock(this.locked === index ? null : index);
    });
    this.tokens.addEventListener("keydown", (event) => this.key(event, at(event)));
    this.panel.addEventListener("keydown", (event) => this.listKey(event));
  }

  hover(index) {
    if (this.over === index) return;
    this.over = index;
    this.paint();
  }

  lock(index) {
    this.locked = index;
    this.over = null;
    if (index !== null) this.reachable(index);
    this.paint();
    this.pick(index);
  }

  // Arrows walk along the output; down goes to what else was weighed, Escape back.
  key(event, index) {
    if (index === null) return;
    const rtl = this.tokens.dir === "rtl";
    const goals = { [rtl ? "ArrowLeft" : "ArrowRight"]: index + 1, [rtl ? "ArrowRight" : "ArrowLeft"]: index - 1,
      Home: 0, End: this.buttons.length - 1 };
    if (event.key in goals) {
      if (this.buttons[goals[event.key]]) {
        this.reachable(goals[event.key]);
        this.buttons[goals[event.key]].focus();
      }
    } else if (event.key === "ArrowDown") {
      if (this.locked !== index) this.lock(index);
      this.over = null;
      this.paint();
      this.choices()[0]?.focus();
    } else if (event.key === "Escape") {
      if (this.locked !== null) this.lock(null);
    } else return;
    event.preventDefault();
  }

  listKey(event) {
    const rows = this.choices();
    const place = rows.indexOf(event.target);
    if (event.key === "ArrowDown") rows[place + 1]?.focus();
    else if (event.key === "ArrowUp" && place > 0) rows[place - 1].focus();
    else if (event.key === "Escape" || event.key === "ArrowUp") this.buttons[this.shown ?? 0]?.focus();
    else return;
    event.preventDefault();
  }

  choices() {
    return [...this.panel.querySelectorAll(".row:not([aria-current])")];
  }

  reachable(index) {
    this.buttons.forEach((button, place) => { button.tabIndex = place === index ? 0 : -1; });
  }

  paint() {
    const step = this.over ?? this.locked;
    this.buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === this.locked)));
    if (step === null || !this.data.steps[step]) {
      this.readout.textContent = "";
      this.panel.replaceChildren();
      this.shown = null;
      return;
    }
    this.readout.replaceChildren(make("bdi", "", this.data.tokens[step].t),
      document.createTextNode(`  ${this.data.steps[step].note}`));
    if (step === this.shown) return;
    // What is focused stays so when the same list is drawn anew.
    const focused = this.choices().indexOf(this.root.getRootNode().activeElement);
    this.shown = step;
    this.panel.replaceChildren(this.title(step), this.list(step));
    if (focused >= 0) this.choices()[focused]?.focus({ preventScroll: true });
  }

  title(step) {
    const element = make("div", "title");
    element.append(make("span", "label", `Step ${step}: what it weighed`),
      make("span", "hint", "choose another, and the model goes on from there"));
    return element;
  }

  list(step) {
    const list = make("div", "rows");
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", `Alternatives at step ${step}`);
    for (const one of this.data.steps[step].rows) list.append(this.row(step, one));
    list.style.minHeight = `${1.9 * this.data.rows}rem`;
    list.style.alignContent = "start";
    return list;
  }

  row(step, one) {
    const row = make("button", "row");
    row.type = "button";
    const name = make("span", "name", one.t);
    name.dir = "auto";
    const track = make("span", "track");
    const fill = make("span", "fill");
    fill.style.width = `${100 * one.share}%`;
    fill.style.backgroundColor = this.data.fill[one.written ? 1 : 0];
    fill.style.borderColor = this.data.fill[1];
    track.append(fill);
    const go = make("span", "go", one.written ? "written" : "write this →");
    row.append(make("span", "rank", String(one.rank)), name, track, make("span", "p", one.p), go);
    row.setAttribute("aria-label", `${one.t}, rank ${one.rank}, probability ${one.p}, `
      + (one.written ? "in the output" : "write this instead"));
    if (one.written) {
      row.setAttribute("aria-current", "true");
      row.tabIndex = -1;
    } else {
      row.addEventListener("click", () => {
        if (row.getAttribute("aria-busy") === "true") return;
        row.setAttribute("aria-busy", "true");
        go.textContent = "writing …";
        this.fork(step, one.id);
      });
    }
    return row;
  }
}
