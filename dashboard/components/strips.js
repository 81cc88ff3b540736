// Rows of tokens. Every text is set by textContent; nothing here reads HTML or touches the network.
const LEVELS = 20;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".strips");
  const board = root.board ?? (root.board = new Board(root));
  board.send = (step) => setTriggerValue("picked", { step, at: Date.now() });
  board.update(data);
}

class Board {
  constructor(root) {
    this.root = root;
    this.rows = [];
    this.shape = "";
    this.locked = null;
    this.over = null;
    this.specials = true;
    this.own = false;
  }

  update(data) {
    const shape = JSON.stringify(data.strips.map((s) => [s.id, s.role, s.label, s.hint, s.tokens, s.bar?.title]));
    if (shape !== this.shape) {
      this.shape = shape;
      this.over = null;
      this.revealed = null;
      this.rows = data.strips.map((strip) => new Row(strip, this));
      this.first = data.strips.some((s) => s.tokens.some((t) => t.s)) ? this.rows[0] : null;
      this.root.replaceChildren(...this.rows.map((row) => row.element));
    }
    data.strips.forEach((strip, index) => this.rows[index].take(strip));
    this.locked = data.picked ?? null;
    this.paint();
  }

  hover(index) {
    if (this.over === index) return;
    this.over = index;
    this.paint();
  }

  lock(index) {
    this.locked = this.locked === index ? null : index;
    this.over = null;
    this.paint();
    this.send(this.locked);
  }

  unlock() {
    if (this.locked !== null) this.lock(this.locked);
  }

  showSpecials(shown) {
    this.specials = shown;
    for (const row of this.rows) row.showSpecials(shown);
  }

  // The end of the lit strips' scale: one for all tokens, or the largest number of the token at hand.
  limit(bar, step) {
    if (!this.own || step === null) return bar.limit;
    return Math.max(0, ...this.rows.map((row) => row.largest(step)));
  }

  stretch(own) {
    this.own = own;
    this.paint();
  }

  paint() {
    const step = this.over ?? this.locked;
    for (const row of this.rows) row.paint(step, this.locked);
    if (this.over === null && step !== null && step !== this.revealed) {
      this.revealed = step;
      for (const row of this.rows) row.reveal(step);
    }
  }
}

class Row {
  constructor(strip, board) {
    this.board = board;
    this.pick = strip.role === "pick";
    this.element = make("div", `strip ${strip.role}`);
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", strip.label);
    this.head = make("div", "bar");
    this.tokens = make("div", "tokens");
    this.readout = make("div", "readout");
    this.readout.setAttribute("aria-live", "polite");
    this.element.append(this.head, this.tokens, this.readout);
    this.buttons = strip.tokens.map((token, index) => this.button(token, index));
    this.lay(strip);
    this.listen();
    this.showSpecials(board.specials);
  }

  lay(strip) {
    const first = strip.tokens.map((token) => (token.s ? "" : token.t)).join("").match(/\p{L}/u);
    this.tokens.dir = first && /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u
      .test(first[0]) ? "rtl" : "ltr";
    this.buttons.forEach((button, index) => {
      if (strip.tokens[index].n) this.tokens.append(make("br"));
      else if (strip.tokens[index].g) this.tokens.append(document.createTextNode(" "));
      else this.tokens.append(make("wbr"));
      const next = strip.tokens[index + 1];
      button.classList.toggle("first", index === 0 || Boolean(strip.tokens[index].g || strip.tokens[index].n));
      button.classList.toggle("last", !next || Boolean(next.g || next.n));
      this.tokens.append(button);
    });
    this.reachable(0);
  }

  button(token, index) {
    const button = make("button", "token");
    button.type = "button";
    button.dir = "auto";
    button.textContent = token.t;
    button.dataset.index = index;
    button.tabIndex = -1;
    if (token.s) button.classList.add("special");
    if (token.f) button.classList.add("forced");
    if (this.pick) button.setAttribute("aria-pressed", "false");
    return button;
  }

  listen() {
    const at = (event) => {
      const button = event.target.closest?.(".token");
      return button ? Number(button.dataset.index) : null;
    };
    const enter = (event) => {
      const index = at(event);
      if (index === null) return;
      this.touched = index;
      if (this.pick) this.board.hover(index);
      this.read();
    };
    const leave = () => {
      this.touched = null;
      if (this.pick) this.board.hover(null);
      this.read();
    };
    this.tokens.addEventListener("pointerover", enter);
    this.tokens.addEventListener("focusin", enter);
    this.tokens.addEventListener("pointerleave", leave);
    this.tokens.addEventListener("focusout", leave);
    this.tokens.addEventListener("click", (event) => {
      const index = at(event);
      if (index === null) return;
      this.reachable(index);
      if (this.pick) this.board.lock(index);
    });
    this.tokens.addEventListener("keydown", (event) => this.key(event, at(event)));
  }

  key(event, index) {
    if (index === null) return;
    const forward = this.tokens.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
    const back = this.tokens.dir === "rtl" ? "ArrowRight" : "ArrowLeft";
    const seen = this.buttons.filter((button) => button.offsetParent !== null);
    const place = seen.indexOf(this.buttons[index]);
    const goals = { [forward]: place + 1, ArrowDown: place + 1, [back]: place - 1, ArrowUp: place - 1, Home: 0,
      End: seen.length - 1 };
    if (event.key === "Escape" && this.pick) this.board.unlock();
    else if (event.key in goals && seen[goals[event.key]]) {
      this.reachable(Number(seen[goals[event.key]].dataset.index));
      seen[goals[event.key]].focus();
    } else if (!(event.key in goals)) return;
    event.preventDefault();
  }

  reachable(index) {
    this.buttons.forEach((button, place) => { button.tabIndex = place === index ? 0 : -1; });
  }

  take(strip) {
    this.strip = strip;
    this.values = strip.values ? floats(strip.values) : null;
    this.head.replaceChildren(...this.heading(strip));
  }

  heading(strip) {
    const parts = [make("span", "label", strip.label)];
    if (strip.hint) parts.push(make("span", "hint", strip.hint));
    if (this.board.first === this && strip.tokens.length) {
      this.toggle = make("button", "specials");
      this.toggle.type = "button";
      this.toggle.addEventListener("click", () => this.board.showSpecials(!this.board.specials));
      parts.push(this.toggle);
      this.showSpecials(this.board.specials);
    }
    this.legend = strip.bar && strip.legend ? new Legend(strip.bar, strip.role === "lit" ? this.board : null) : null;
    if (this.legend) parts.push(this.legend.element);
    return parts;
  }

  largest(step) {
    if (this.strip.role !== "lit" || !this.values) return 0;
    const row = this.values.subarray(step * this.buttons.length, (step + 1) * this.buttons.length);
    return row.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);
  }

  // In a text too long to show whole: scroll to what is locked, and to what counted most for it.
  reveal(step) {
    const { clientHeight, scrollHeight, scrollTop } = this.tokens;
    if (scrollHeight <= clientHeight) return;
    let place = this.pick ? step : null;
    if (this.strip.role === "lit" && this.values) {
      const row = this.values.subarray(step * this.buttons.length, (step + 1) * this.buttons.length);
      row.forEach((value, index) => {
        if (!Number.isNaN(value) && (place === null || Math.abs(value) > Math.abs(row[place]))) place = index;
      });
    }
    const top = this.buttons[place]?.offsetTop;
    if (top === undefined || (top >= scrollTop && top + 24 <= scrollTop + clientHeight)) return;
    this.tokens.scrollTop = top - clientHeight / 2;
  }

  showSpecials(shown) {
    this.tokens.classList.toggle("hidden-specials", !shown);
    if (!this.toggle) return;
    this.toggle.textContent = shown ? "hide special tokens" : "show special tokens";
    this.toggle.setAttribute("aria-pressed", String(!shown));
  }

  value(index, step) {
    if (!this.values) return null;
    if (this.strip.role !== "lit") return this.values[index];
    return step === null ? null : this.values[step * this.buttons.length + index];
  }

  paint(step, locked) {
    this.step = step;
    const bar = this.strip.bar;
    const limit = bar && this.strip.role === "lit" ? this.board.limit(bar, step) : bar?.limit;
    this.legend?.take(limit);
    this.buttons.forEach((button, index) => {
      const value = this.value(index, step);
      const unable = value !== null && Number.isNaN(value);
      const colour = value === null || unable || !bar ? null : shade(value, bar, limit);
      button.style.backgroundColor = colour ? colour[0] : "";
      button.style.color = colour ? colour[1] : "";
      button.classList.toggle("unable", unable && this.strip.role === "lit");
      button.classList.toggle("outlined", this.pick && !bar);
      if (this.pick) button.setAttribute("aria-pressed", String(index === locked));
      button.setAttribute("aria-label", this.words(index, step).join(" "));
    });
    this.read();
  }

  words(index, step) {
    const token = this.strip.tokens[index];
    const parts = [];
    const value = this.value(index, step);
    if (this.strip.role === "lit" && value !== null) {
      parts.push(Number.isNaN(value) ? "comes too late to have a part in it"
        : `${this.strip.bar.noun} ${spell(value, this.strip.bar)}`);
    }
    if (this.strip.notes[index]) parts.push(this.strip.notes[index]);
    if (token.f) parts.push("given, not chosen by the model");
    if (token.s) parts.push("special token");
    return [token.t, parts.join(" · ")];
  }

  read() {
    const index = this.touched ?? (this.pick ? this.board.locked : null);
    if (index === null || index === undefined || !this.buttons[index]) {
      this.readout.textContent = "";
      return;
    }
    const [text, rest] = this.words(index, this.step);
    const name = make("bdi", "", text);
    this.readout.replaceChildren(name, document.createTextNode(`  ${rest || `position ${index}`}`));
  }
}

class Legend {
  constructor(bar, board) {
    this.bar = bar;
    this.element = make("span", "legend");
    this.low = make("span", "end");
    this.high = make("span", "end");
    const ramp = make("span", "ramp");
    for (const colour of bar.background) {
      const part = make("span");
      part.style.backgroundColor = colour;
      ramp.append(part);
    }
    if (board) {
      this.switch = make("button", "specials");
      this.switch.type = "button";
      this.switch.addEventListener("click", () => board.stretch(!board.own));
      this.board = board;
      this.element.append(this.switch);
    }
    this.element.append(make("span", "title", bar.title), this.low, ramp, this.high);
  }

  take(limit) {
    const { bar } = this;
    if (this.switch) {
      this.switch.textContent = this.board.own ? "one scale for all tokens" : "stretch to this token";
      this.switch.setAttribute("aria-pressed", String(this.board.own));
    }
    const decimals = limit > 0 ? Math.min(8, Math.max(bar.decimals, 1 - Math.floor(Math.log10(limit)))) : 1;
    const numbers = bar.numbers ? [bar.signed ? spell(-limit, bar, decimals) : "0", spell(limit, bar, decimals)] : ["", ""];
    this.low.textContent = `${bar.ends[0]} ${numbers[0]}`.trim();
    this.high.textContent = `${numbers[1]} ${bar.ends[1]}`.trim();
  }
}

function shade(value, bar, limit) {
  const share = limit > 0 ? Math.max(-1, Math.min(1, value / limit)) : 0;
  const level = bar.signed ? Math.round(share * LEVELS) + LEVELS : Math.round(Math.max(0, share) * LEVELS);
  return [bar.background[level], bar.text[level]];
}

function spell(value, bar, decimals = bar.decimals + 2) {
  const digits = Math.abs(value).toFixed(decimals);
  if (value < 0 && Number(digits) !== 0) return `−${digits}`;
  return bar.signed && Number(digits) !== 0 ? `+${digits}` : digits;
}

function floats(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function make(tag, css = "", text = null) {
  const element = document.createElement(tag);
  if (css) element.className = css;
  if (text !== null) element.textContent = text;
  return element;
}
