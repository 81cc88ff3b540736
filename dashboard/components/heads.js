// All heads as small maps on one canvas: click, or arrow keys and Enter, to choose one.
const LABEL_X = 58, LABEL_Y = 20, GAP = 7, SMALLEST = 44, LARGEST = 136;

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".heads");
  const grid = root.grid ?? (root.grid = new Grid(root));
  grid.send = (layer, head) => setTriggerValue("chosen", { layer, head, at: Date.now() });
  grid.update(data);
  return () => grid.stop();
}

class Grid {
  constructor(root) {
    this.root = root;
    this.bar = make("div", "bar");
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.readout = make("div", "readout");
    this.readout.setAttribute("aria-live", "polite");
    this.scroll = make("div", "scroll");
    this.scroll.append(this.canvas);
    root.replaceChildren(this.bar, this.scroll, this.readout);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.move(null));
    this.canvas.addEventListener("blur", () => this.move(null));
    this.canvas.addEventListener("click", (event) => { this.point(event); this.choose(); });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  update(data) {
    if (!this.watcher) {
      this.watcher = new ResizeObserver(() => this.draw());
      this.watcher.observe(this.root);
    }
    this.data = data;
    this.at = null;
    this.maps = Uint8Array.from(atob(data.maps), (char) => char.charCodeAt(0));
    this.palette = data.colours.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
    this.layers = data.heads.length;
    this.widest = Math.max(...data.heads);
    this.canvas.setAttribute("aria-label",
      `${this.layers} layers of ${this.widest} heads; arrow keys move, Enter chooses`);
    this.bar.replaceChildren(make("span", "label", "Heads"), make("span", "hint", "click one, or arrow keys and Enter"),
      legend(data));
    this.images = [];
    let place = 0;
    for (const count of data.heads) {
      const row = [];
      for (let head = 0; head < count; head += 1, place += 1) row.push(this.image(place));
      this.images.push(row);
    }
    this.draw();
  }

  stop() {
    this.watcher?.disconnect();
    this.watcher = null;
  }

  image(place) {
    const { rows, columns } = this.data;
    const canvas = new OffscreenCanvas(columns, rows);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    const start = place * rows * columns;
    const top = this.palette.length - 1;
    for (let cell = 0; cell < rows * columns; cell += 1) {
      const [red, green, blue] = this.palette[Math.round((this.maps[start + cell] / 255) * top)];
      pixels.data.set([red, green, blue, 255], cell * 4);
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  measure() {
    const room = this.root.clientWidth - LABEL_X;
    const width = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room / this.widest) - GAP));
    const ratio = this.data.rows / this.data.columns;
    return { width, height: Math.round(Math.max(22, Math.min(LARGEST, width * Math.max(0.3, Math.min(1.4, ratio))))) };
  }

  draw() {
    if (!this.data || !this.root.clientWidth) return;
    const { width, height } = (this.cell = this.measure());
    const dense = window.devicePixelRatio || 1;
    const full = [LABEL_X + this.widest * (width + GAP) + 2, LABEL_Y + this.layers * (height + GAP) + 2];
    [this.canvas.width, this.canvas.height] = full.map((size) => Math.round(size * dense));
    [this.canvas.style.width, this.canvas.style.height] = full.map((size) => `${size}px`);
    const context = this.canvas.getContext("2d");
    context.scale(dense, dense);
    context.imageSmoothingEnabled = false;
    const style = getComputedStyle(this.root);
    context.font = `12px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const line = style.getPropertyValue("--st-border-color") || "#8886";
    const strong = style.getPropertyValue("--st-primary-color") || style.color;
    this.images.forEach((row, layer) => {
      const y = LABEL_Y + layer * (height + GAP);
      context.fillStyle = style.color;
      context.textAlign = "left";
      context.fillText(`layer ${layer}`, 2, y + height / 2);
      row.forEach((image, head) => {
        const x = LABEL_X + head * (width + GAP);
        if (layer === 0) {
          context.textAlign = "center";
          context.fillText(width > 60 ? `head ${head}` : `${head}`, x + width / 2, LABEL_Y / 2 - 1);
        }
        context.drawImage(image, x, y, width, height);
        const chosen = this.marked(layer, head);
        const over = this.at && this.at[0] === layer && this.at[1] === head;
        context.lineWidth = chosen ? 3 : over ? 2 : 1;
        context.strokeStyle = chosen ? strong : over ? style.color : line;
        context.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
      });
    });
  }

  marked(layer, head) {
    const { layer: chosen, head: one } = this.data;
    return (chosen < 0 || chosen === layer) && (one < 0 || one === head) && (chosen >= 0 || one >= 0);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.cell;
    const head = Math.floor((event.clientX - box.left - LABEL_X) / (width + GAP));
    const layer = Math.floor((event.clientY - box.top - LABEL_Y) / (height + GAP));
    this.move(this.images[layer]?.[head] ? [layer, head] : null);
  }

  move(place) {
    if (String(place) === String(this.at)) return;
    this.at = place;
    this.readout.textContent = place ? `layer ${place[0]}, head ${place[1]}` : "";
    this.draw();
  }

  key(event) {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key in steps) {
      const [layer, head] = this.at ?? [Math.max(0, this.data.layer), Math.max(0, this.data.head)];
      const goal = this.at ? [layer + steps[event.key][0], head + steps[event.key][1]] : [layer, head];
      if (this.images[goal[0]]?.[goal[1]]) this.move(goal);
    } else if (event.key === "Enter" || event.key === " ") this.choose();
    else return;
    event.preventDefault();
  }

  choose() {
    if (this.at) this.send(...this.at);
  }
}

function legend(data) {
  const element = make("span", "legend");
  const ramp = make("span", "ramp");
  for (const colour of data.colours) {
    const part = make("span");
    part.style.backgroundColor = colour;
    ramp.append(part);
  }
  element.append(make("span", "title", "attention weight"), make("span", "", "0"), ramp, make("span", "", data.high));
  return element;
}

function make(tag, css = "", text = null) {
  const element = document.createElement(tag);
  if (css) element.className = css;
  if (text !== null) element.textContent = text;
  return element;
}
