// All heads as small maps on one canvas: click, or arrow keys and Enter, to choose one; Escape takes it back.
const LABEL_X = 58, LABEL_Y = 20, GAP = 7, TAG = 16, SMALLEST = 44, LARGEST = 168, TALLEST = 900, TAGGED = 62;

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
    const same = this.data && this.data.maps === data.maps && String(this.data.colours) === String(data.colours);
    this.data = data;
    this.layers = data.heads.length;
    this.widest = Math.max(...data.heads);
    this.canvas.setAttribute("aria-label", `Attention of ${this.layers} layers of ${this.widest} heads; `
      + "arrow keys move, Enter chooses, Escape goes back to the mean");
    this.bar.replaceChildren(make("span", "label", "Heads"),
      make("span", "hint", "click one, or arrow keys and Enter; Escape for all"), legend(data));
    if (!same) {
      this.at = null;
      this.paint();
    }
    this.tell();
    this.draw();
  }

  stop() {
    this.watcher?.disconnect();
    this.watcher = null;
  }

  paint() {
    const bytes = Uint8Array.from(atob(this.data.maps), (char) => char.charCodeAt(0));
    const top = this.data.colours.length - 1;
    const palette = new Uint32Array(256);
    for (let value = 0; value < 256; value += 1) {
      const colour = this.data.colours[Math.round((value / 255) * top)];
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      palette[value] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    const size = this.data.rows * this.data.columns;
    this.images = [];
    let place = 0;
    for (const count of this.data.heads) {
      const row = [];
      for (let head = 0; head < count; head += 1, place += 1) {
        row.push(this.image(bytes.subarray(place * size, (place + 1) * size), palette));
      }
      this.images.push(row);
    }
  }

  image(bytes, palette) {
    const canvas = new OffscreenCanvas(this.data.columns, this.data.rows);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(this.data.columns, this.data.rows);
    const cells = new Uint32Array(pixels.data.buffer);
    for (let cell = 0; cell < cells.length; cell += 1) cells[cell] = palette[bytes[cell]];
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  measure() {
    const room = this.root.clientWidth - LABEL_X;
    const width = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room / this.widest) - GAP));
    const ratio = Math.max(0.3, Math.min(1.4, this.data.rows / this.data.columns));
    const tag = this.data.tags.length && width >= TAGGED ? TAG : 0;
    const most = Math.min(LARGEST, Math.floor((TALLEST - LABEL_Y) / this.layers) - GAP - tag);
    return { width, height: Math.round(Math.max(28, Math.min(most, width * ratio))), tag };
  }

  draw() {
    if (!this.data || !this.root.clientWidth) return;
    const { width, height, tag } = (this.cell = this.measure());
    const dense = window.devicePixelRatio || 1;
    const full = [LABEL_X + this.widest * (width + GAP) + 2, LABEL_Y + this.layers * (height + tag + GAP) + 2];
    [this.canvas.width, this.canvas.height] = full.map((size) => Math.round(size * dense));
    [this.canvas.style.width, this.canvas.style.height] = full.map((size) => `${size}px`);
    const context = this.canvas.getContext("2d");
    context.scale(dense, dense);
    context.imageSmoothingEnabled = false;
    const style = getComputedStyle(this.root);
    context.textBaseline = "middle";
    const line = style.getPropertyValue("--st-border-color") || "#8886";
    const strong = style.getPropertyValue("--st-primary-color") || style.color;
    this.images.forEach((row, layer) => {
      const y = LABEL_Y + layer * (height + tag + GAP);
      context.font = `12px ${style.fontFamily}`;
      context.fillStyle = style.color;
      context.textAlign = "left";
      context.fillText(`layer ${layer}`, 2, y + height / 2);
      row.forEach((image, head) => {
        const x = LABEL_X + head * (width + GAP);
        const chosen = this.marked(layer, head);
        context.textAlign = "center";
        context.fillStyle = style.color;
        context.font = `12px ${style.fontFamily}`;
        if (layer === 0) context.fillText(width > 60 ? `head ${head}` : `${head}`, x + width / 2, LABEL_Y / 2 - 1);
        context.drawImage(image, x, y, width, height);
        if (tag) {
          context.font = `${chosen ? 600 : 400} 11px ${style.fontFamily}`;
          context.globalAlpha = chosen ? 1 : 0.72;
          context.fillText(this.data.tags[layer]?.[head] ?? "", x + width / 2, y + height + tag / 2 + 1, width);
          context.globalAlpha = 1;
        }
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
    const { width, height, tag } = this.cell;
    const across = event.clientX - box.left - LABEL_X;
    const layer = Math.floor((event.clientY - box.top - LABEL_Y) / (height + tag + GAP));
    const head = across < 0 ? -1 : Math.floor(across / (width + GAP));
    this.move(this.images[layer] && (head < 0 || this.images[layer][head]) ? [layer, head] : null);
  }

  move(place) {
    if (String(place) === String(this.at)) return;
    this.at = place;
    this.tell();
    this.draw();
  }

  // What the pointer or the keys are at; else what is chosen.
  tell() {
    const [layer, head] = this.at ?? [this.data.layer, this.data.head];
    if (layer < 0 && head < 0) this.readout.textContent = "";
    else if (layer < 0) this.readout.textContent = `head ${head}, mean over layers`;
    else if (head < 0) this.readout.textContent = `layer ${layer}, all heads`;
    else {
      const note = this.data.notes[layer]?.[head];
      this.readout.textContent = `layer ${layer}, head ${head}${note ? ` · ${note}` : ""}`;
    }
  }

  key(event) {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key in steps) {
      const [layer, head] = this.at ?? [Math.max(0, this.data.layer), Math.max(0, this.data.head)];
      const goal = this.at ? [layer + steps[event.key][0], head + steps[event.key][1]] : [layer, head];
      if (this.images[goal[0]]?.[goal[1]]) this.move(goal);
    } else if (event.key === "Enter" || event.key === " ") this.choose();
    else if (event.key === "Escape" && (this.data.layer >= 0 || this.data.head >= 0)) this.take(-1, -1);
    else return;
    event.preventDefault();
  }

  choose() {
    if (!this.at) return;
    const [layer, head] = this.at;
    if (layer === this.data.layer && head === this.data.head) this.take(-1, -1);
    else this.take(layer, head);
  }

  // The choice is drawn at once; the page follows.
  take(layer, head) {
    this.data = { ...this.data, layer, head };
    this.draw();
    this.send(layer, head);
  }
}

function legend(data) {
  const element = make("span", "legend");
  element.append(make("span", "", "attention weight"), scale(data.colours, "0", data.high));
  return element;
}
