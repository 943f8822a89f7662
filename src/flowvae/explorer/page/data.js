// Data as a person sees it: images, or values as bars; the pad to draw on; the test data to pick.

/** Draw a datum (P,) of the page's shape into a canvas, beside another one if given. */
export function drawDatum(canvas, shape, x, other = null) {
  if (shape.kind === "image") drawImage(canvas, shape, x);
  else drawBars(canvas, shape, x, other);
}

const MISSING = [96, 125, 160]; // the colour of a value that is missing, which is no grey

function drawImage(canvas, { height, width, channels, channels_last, low, high }, x) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++) {
      const channel = channels === 3 ? c : 0;
      const at = channels_last ? p * channels + channel : channel * width * height + p;
      const part = (x[at] - low) / (high - low);
      image.data[4 * p + c] = Number.isNaN(part)
        ? MISSING[c]
        : Math.round(255 * Math.max(0, Math.min(1, part)));
    }
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const MOST_BARS = 40;

function drawBars(canvas, { names, low, high }, x, other) {
  const style = getComputedStyle(document.documentElement);
  const [ink, first, second] = ["--ink", "--accent", "--second"].map((v) => style.getPropertyValue(v));
  const line = 15;
  const few = x.length <= MOST_BARS;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = 300 * ratio;
  canvas.height = (few ? line * x.length + 4 : 150) * ratio;
  canvas.title = few ? names.join("\n") : "";
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const part = (v, i) => Math.max(0, Math.min(1, (v - low[i]) / (high[i] - low[i] || 1)));
  if (few) {
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (let i = 0; i < x.length; i++) {
      const y = line * i + 2;
      context.fillStyle = ink;
      context.fillText(shortened(names[i], 126, context), 2, y + line / 2);
      context.fillStyle = first;
      if (Number.isNaN(x[i])) context.fillText("missing", 132, y + (other ? 5 : 7));
      else context.fillRect(132, y + 2, Math.max(1, 164 * part(x[i], i)), other ? 5 : 10);
      if (other === null) continue;
      context.fillStyle = second;
      context.fillRect(132, y + 8, Math.max(1, 164 * part(other[i], i)), 5);
    }
    return;
  }
  for (const [values, color] of [[x, first], [other, second]]) {
    if (values === null) continue;
    context.strokeStyle = color;
    context.beginPath();
    for (let i = 0; i < values.length; i++) {
      context.lineTo((300 * i) / (values.length - 1), 148 - 146 * part(values[i], i));
    }
    context.stroke();
  }
}

function shortened(text, width, context) {
  if (context.measureText(text).width <= width) return text;
  let kept = text.length;
  while (kept > 1 && context.measureText(`${text.slice(0, kept)}…`).width > width) kept--;
  return `${text.slice(0, kept)}…`;
}

/** A small canvas with a datum, and a name for those who do not see it. */
export function thumbnail(shape, x, label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  drawDatum(canvas, shape, x);
  return canvas;
}

/** A pad to draw an image on with mouse, pen or finger; keys move a cursor, space paints. */
export class Pad {
  constructor(canvas, { shape, binary }, onChange, onRest) {
    Object.assign(this, { canvas, shape, binary, onChange });
    this.ink = new Float32Array(shape.height * shape.width);
    this.cursor = [Math.floor(shape.width / 2), Math.floor(shape.height / 2)];
    this.last = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.stroke(this.last, this.last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.last === null) return;
      const here = this.place(event);
      this.stroke(this.last, here);
      this.last = here;
    });
    const stop = () => {
      if (!this.drawing) return;
      this.last = null;
      onRest();
    };
    canvas.addEventListener("pointerup", stop);
    canvas.addEventListener("pointercancel", stop);
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.show());
  }

  get drawing() {
    return this.last !== null;
  }

  place(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - left) / width) * this.shape.width,
      ((event.clientY - top) / height) * this.shape.height,
    ];
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move === undefined && event.key !== " ") return;
    event.preventDefault();
    const from = this.cursor;
    if (move) {
      const most = [this.shape.width - 1, this.shape.height - 1];
      this.cursor = from.map((v, i) => Math.max(0, Math.min(most[i], v + move[i])));
    }
    const centre = (cell) => cell.map((v) => v + 0.5);
    if (!move || event.shiftKey) this.stroke(centre(from), centre(this.cursor));
    else this.show();
  }

  /** A soft line, about a fourteenth of the image wide. */
  stroke(from, to) {
    const { width, height } = this.shape;
    const radius = Math.max(0.7, Math.min(width, height) / 22);
    const span = [to[0] - from[0], to[1] - from[1]];
    const square = span[0] ** 2 + span[1] ** 2;
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const [a, b] = [column + 0.5 - from[0], row + 0.5 - from[1]];
        const along = square ? Math.max(0, Math.min(1, (a * span[0] + b * span[1]) / square)) : 0;
        const distance = Math.hypot(a - along * span[0], b - along * span[1]);
        const value = Math.max(0, Math.min(1, radius + 0.5 - distance));
        const at = row * width + column;
        this.ink[at] = Math.max(this.ink[at], value);
      }
    }
    this.show();
    this.onChange(this.values());
  }

  values() {
    // Bytes, as images are: what is drawn is then a datum like any other.
    return this.ink.map((v) => (this.binary ? Math.round(v) : Math.round(255 * v) / 255));
  }

  set(x) {
    this.ink = Float32Array.from(x);
    this.show();
  }

  clear() {
    this.ink.fill(0);
    this.show();
    this.onChange(this.values());
  }

  show() {
    drawImage(this.canvas, this.shape, this.values());
    if (document.activeElement !== this.canvas) return;
    const context = this.canvas.getContext("2d");
    context.strokeStyle = "#d55e00";
    context.lineWidth = 0.3;
    context.strokeRect(this.cursor[0], this.cursor[1], 1, 1);
  }
}
