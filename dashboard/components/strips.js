// Rows of tokens. Every text is set by textContent; nothing here reads HTML or touches the network.
const LEVELS = 20;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".strips");
  const board = root.board ?? (root.board = new Board(root));
  board.send = (span) => setTriggerValue("picked", { step: span ? span[0] : null, end: span ? span[1] : null, at: Date.now() });
  board.update(data);
}

class Board {
  constructor(root) {
    this.root = root;
    this.rows = [];
    this.shape = "";
    this.locked = null; // tokens [start, end) of the strip to pick from
    this.over = null;
    this.drawn = null; // the tokens that are being dragged over, likewise
    this.extending = false;
    this.specials = true;
    this.own = false;
  }

  update(data) {
    const shape = JSON.stringify([data.spans,
      data.strips.map((s) => [s.id, s.role, s.label, s.by, s.column, s.hint, s.tokens, s.bar?.title])]);
    this.spans = data.spans;
    this.note = data.span_note;
    if (shape !== this.shape) {
      this.shape = shape;
      this.over = null;
      this.revealed = null;
      this.rows = data.strips.map((strip) => new Row(strip, this));
      this.first = data.strips.some((s) => s.tokens.some((t) => t.s)) ? this.rows[0] : null;
      this.root.replaceChildren(...this.rows.map((row) => row.element));
      this.root.classList.toggle("two", data.strips.some((strip) => strip.column > 0));
    }
    this.length = data.strips.find((strip) => strip.role === "pick")?.tokens.length ?? 0;
    this.locked = data.picked ?? null;
    data.strips.forEach((strip, index) => this.rows[index].take(strip));
    this.waiting(false);
    this.paint();
  }

  // The row of numbers that is shown: of the token pointed at, else of what is locked.
  get step() {
    if (this.over !== null && !this.drawn) return this.over;
    if (!this.locked) return null;
    return this.locked[1] - this.locked[0] > 1 ? this.length : this.locked[0];
  }

  hover(index) {
    if (this.over === index) return;
    this.over = index;
    if (this.drawn && index !== null) this.drawn = [this.drawn[0], index];
    this.paint();
  }

  lock(index, extend = false) {
    if ((extend || this.extending) && this.spans && this.locked) {
      this.take([Math.min(this.locked[0], index), Math.max(this.locked[1], index + 1)]);
    } else if (this.locked && this.locked[0] === index && this.locked[1] === index + 1) this.take(null);
    else this.take([index, index + 1]);
  }

  take(span) {
    this.locked = span;
    this.over = null;
    this.extending = false;
    for (const row of this.rows) row.touched = null; // what was picked is read out, not where the pointer is
    // What a span did has to be computed; until then nothing is shown rather than something else.
    this.waiting(span !== null && span[1] - span[0] > 1);
    this.paint();
    this.send(span);
  }

  unlock() {
    if (this.drawn) {
      this.drawn = null;
      this.paint();
    } else if (this.locked !== null) this.take(null);
  }

  begin(index) {
    this.drawn = [index, index];
  }

  // A drag that ends where it began was a click.
  finish() {
    const drawn = this.drawn;
    this.drawn = null;
    if (!drawn || drawn[0] === drawn[1]) return false;
    this.take([Math.min(...drawn), Math.max(...drawn) + 1]);
    return true;
  }

  extend() {
    this.extending = !this.extending;
    for (const row of this.rows) row.showExtending();
  }

  waiting(wanted) {
    this.root.classList.toggle("waiting", wanted);
    this.root.setAttribute("aria-busy", String(wanted));
  }

  showSpecials(shown) {
    this.specials = shown;
    for (const row of this.rows) row.showSpecials(shown);
  }

  // The end of the lit strips' scale: one for all tokens, or the largest number of the token at hand.
  limit(bar, step, column) {
    if (!this.own || step === null) return bar.limit;
    return Math.max(0, ...this.rows.filter((row) => row.column === column).map((row) => row.largest(step)));
  }

  stretch(own) {
    this.own = own;
    this.paint();
  }

  paint() {
    const { step } = this;
    const marked = this.drawn ? [Math.min(...this.drawn), Math.max(...this.drawn) + 1] : this.locked;
    for (const row of this.rows) row.paint(step, marked);
    if (this.over === null && step !== null && step !== this.revealed) {
      this.revealed = step;
      for (const row of this.rows) row.reveal(step, marked);
    }
  }
}

class Row {
  constructor(strip, board) {
    this.board = board;
    this.pick = strip.role === "pick";
    this.column = strip.column;
    this.element = make("div", `strip ${strip.role} column-${strip.column}`);
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", strip.by ? `${strip.label}, by ${strip.by}` : strip.label);
    this.head = make("div", "bar");
    this.tokens = make("div", "tokens");
    this.readout = make("div", "readout");
    this.readout.setAttribute("aria-live", "polite");
    this.element.append(this.head, this.tokens, this.readout);
    this.buttons = strip.tokens.map((token, index) => this.button(token, index));
    this.element.classList.toggle("many", this.buttons.length > 200);
    this.lay(strip);
    this.listen();
    this.showSpecials(board.specials);
  }

  lay(strip) {
    this.tokens.dir = direction(strip.tokens);
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
      if (index === null || this.dragged) {
        this.dragged = false;
        return;
      }
      this.reachable(index);
      if (this.pick) this.board.lock(index, event.shiftKey);
    });
    this.tokens.addEventListener("keydown", (event) => this.key(event, at(event)));
    if (this.pick) this.drag(at);
  }

  // A finger drags to scroll, so there a span is made by its two ends (see `heading`).
  drag(at) {
    this.tokens.addEventListener("pointerdown", (event) => {
      const index = at(event);
      this.dragged = false;
      if (!this.board.spans || index === null || event.button !== 0 || event.shiftKey) return;
      if (event.pointerType === "touch") return;
      this.board.begin(index);
      const done = () => {
        window.removeEventListener("pointerup", done);
        window.removeEventListener("pointercancel", done);
        this.dragged = this.board.finish();
        // The click that follows a drag comes before this; a later one is a click.
        setTimeout(() => { this.dragged = false; });
      };
      window.addEventListener("pointerup", done);
      window.addEventListener("pointercancel", done);
    });
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
      const goal = Number(seen[goals[event.key]].dataset.index);
      if (this.pick && this.board.spans && event.shiftKey) {
        this.board.drawn = [this.board.drawn?.[0] ?? index, goal];
        this.board.over = goal;
        this.board.paint();
      } else this.board.drawn = null;
      this.reachable(goal);
      seen[goals[event.key]].focus();
    } else if (this.pick && (event.key === "Enter" || event.key === " ") && this.board.drawn) {
      if (!this.board.finish()) this.board.lock(index);
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
    if (strip.by) parts.push(make("span", "by", strip.by));
    if (this.pick && this.board.spans) {
      this.extender = make("button", "specials extend");
      this.extender.type = "button";
      this.extender.addEventListener("click", () => this.board.extend());
    }
    if (strip.hint) parts.push(make("span", "hint", strip.hint));
    if (this.board.first === this && strip.tokens.length) {
      this.toggle = make("button", "specials");
      this.toggle.type = "button";
      this.toggle.addEventListener("click", () => this.board.showSpecials(!this.board.specials));
      parts.push(this.toggle);
      this.showSpecials(this.board.specials);
    }
    if (this.extender) {
      parts.push(this.extender);
      this.showExtending();
    }
    const movable = strip.role === "lit" && strip.column === 0;
    this.legend = strip.bar && strip.legend ? new Legend(strip.bar, movable ? this.board : null) : null;
    if (this.legend) parts.push(this.legend.element);
    return parts;
  }

  largest(step) {
    if (this.strip.role !== "lit" || !this.values) return 0;
    const row = this.values.subarray(step * this.buttons.length, (step + 1) * this.buttons.length);
    return row.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0);
  }

  showExtending() {
    if (!this.extender) return;
    this.extender.hidden = !this.board.locked;
    this.extender.textContent = this.board.extending ? "now tap the other end" : "up to another token";
    this.extender.setAttribute("aria-pressed", String(this.board.extending));
  }

  // In a text too long to show whole: scroll to what is locked, and to what counted most for it.
  reveal(step, locked) {
    const { clientHeight, scrollHeight, scrollTop } = this.tokens;
    if (scrollHeight <= clientHeight) return;
    let place = this.pick ? locked?.[0] : null;
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
    // A span that was just drawn has no row yet.
    return step === null ? null : this.values[step * this.buttons.length + index] ?? null;
  }

  paint(step, locked) {
    this.step = step;
    const bar = this.strip.bar;
    const limit = bar && this.strip.role === "lit" ? this.board.limit(bar, step, this.column) : bar?.limit;
    this.legend?.take(limit);
    this.showExtending();
    const lit = this.strip.role === "lit";
    // While pointing only colours change; what is read out follows when a token is locked.
    const passing = this.board.over !== null && this.painted === this.strip;
    // Of a strip whose numbers stay, only the marks change.
    if (!lit && this.painted === this.strip && !this.pick) return;
    this.buttons.forEach((button, index) => {
      if (this.pick) {
        const inside = locked !== null && index >= locked[0] && index < locked[1];
        if (button.getAttribute("aria-pressed") !== String(inside)) button.setAttribute("aria-pressed", String(inside));
        button.classList.toggle("from", inside && index === locked[0]);
        button.classList.toggle("to", inside && index === locked[1] - 1);
        if (this.painted === this.strip) return;
      }
      const value = this.value(index, step);
      const unable = value !== null && Number.isNaN(value);
      const colour = value === null || unable || !bar ? null : shade(value, bar, limit);
      const look = `${colour} ${unable}`;
      if (button.look !== look) {
        button.look = look;
        button.style.backgroundColor = colour ? colour[0] : "";
        button.style.color = colour ? colour[1] : "";
        button.classList.toggle("unable", unable && lit);
        if (unable && lit) button.setAttribute("aria-disabled", "true");
        else button.removeAttribute("aria-disabled");
        button.classList.toggle("outlined", this.pick && !bar);
      }
      if (!passing) button.setAttribute("aria-label", this.words(index, step).join(" "));
    });
    this.painted = this.strip;
    this.read();
  }

  words(index, step) {
    const token = this.strip.tokens[index];
    const parts = [];
    const value = this.value(index, step);
    if (this.strip.role === "lit" && value !== null && value !== undefined) {
      parts.push(Number.isNaN(value) ? "comes too late to have a part in it"
        : `${this.strip.bar.noun} ${spell(value, this.strip.bar)}`);
    }
    if (this.strip.notes[index]) parts.push(this.strip.notes[index]);
    if (token.f) parts.push("given, not chosen by the model");
    if (token.s) parts.push("special token");
    return [token.t, parts.join(" · ")];
  }

  read() {
    const { locked } = this.board;
    if (this.pick && (this.touched ?? null) === null && locked && locked[1] - locked[0] > 1) {
      this.readout.textContent = this.board.note || `${locked[1] - locked[0]} tokens as one`;
      return;
    }
    const index = this.touched ?? (this.pick && locked ? locked[0] : null);
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
    const ramp = scale(bar.background);
    [this.low, , this.high] = ramp.children;
    if (board) {
      this.switch = make("button", "specials");
      this.switch.type = "button";
      this.switch.addEventListener("click", () => board.stretch(!board.own));
      this.board = board;
      this.element.append(this.switch);
    }
    this.element.append(make("span", "", bar.title), ramp);
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
