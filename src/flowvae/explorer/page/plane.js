// Drawing on a plane of latent space: densities, meshes, points and axes on one canvas.

/** The colours of a scale, as [r, g, b]. */
export function colorScale(hex) {
  const stops = hex.map((color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)));
  return (value) => {
    const place = Math.max(0, Math.min(1, value)) * (stops.length - 1);
    return stops[Math.round(place)];
  };
}

export const css = ([r, g, b], alpha = 1) => `rgba(${r},${g},${b},${alpha})`;

export class Plane {
  constructor(canvas, scale, onResize) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.scale = scale;
    this.low = [-1, -1];
    this.high = [1, 1];
    new ResizeObserver(() => {
      this.fit();
      onResize();
    }).observe(canvas);
    this.fit();
  }

  /** As many pixels as the screen has. */
  fit() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.ratio = ratio;
  }

  /** Show at least the box [low, high], its centre in the middle, both axes alike. */
  look(low, high) {
    const { width, height } = this.canvas;
    const unit = Math.max((high[0] - low[0]) / width, (high[1] - low[1]) / height) || 1e-6;
    const middle = [0, 1].map((i) => (low[i] + high[i]) / 2);
    this.low = [middle[0] - (unit * width) / 2, middle[1] - (unit * height) / 2];
    this.high = [middle[0] + (unit * width) / 2, middle[1] + (unit * height) / 2];
  }

  x(z1) {
    return ((z1 - this.low[0]) / (this.high[0] - this.low[0])) * this.canvas.width;
  }

  y(z2) {
    return (1 - (z2 - this.low[1]) / (this.high[1] - this.low[1])) * this.canvas.height;
  }

  /** z at a pointer's place. */
  at(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [
      this.low[0] + ((event.clientX - left) / width) * (this.high[0] - this.low[0]),
      this.high[1] - ((event.clientY - top) / height) * (this.high[1] - this.low[1]),
    ];
  }

  clear(color) {
    this.context.fillStyle = color;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** A log-density on a grid (n₁, n₂), the first axis slowest, coloured by its part of the peak. */
  picture({ low, high, shape, values }) {
    const [n1, n2] = shape;
    const image = new ImageData(n1, n2);
    for (let i = 0; i < n1; i++) {
      for (let j = 0; j < n2; j++) {
        const at = 4 * ((n2 - 1 - j) * n1 + i);
        const [r, g, b] = this.scale(Math.exp(values[i * n2 + j]));
        image.data.set([r, g, b, 255], at);
      }
    }
    const small = new OffscreenCanvas(n1, n2);
    small.getContext("2d").putImageData(image, 0, 0);
    const { context } = this;
    context.imageSmoothingEnabled = true;
    const [left, top] = [this.x(low[0]), this.y(high[1])];
    context.drawImage(small, left, top, this.x(high[0]) - left, this.y(low[1]) - top);
  }

  /** A mesh of M × M points z, each patch coloured by its density's part of the peak. */
  mesh(z, logQ, M) {
    const { context } = this;
    const peak = logQ.reduce((a, b) => Math.max(a, b), -Infinity);
    const density = Float64Array.from(logQ, (v) => Math.exp(v - peak));
    const x = Float64Array.from(logQ, (_, g) => this.x(z[2 * g]));
    const y = Float64Array.from(logQ, (_, g) => this.y(z[2 * g + 1]));
    context.lineWidth = 1;
    for (let i = 0; i + 1 < M; i++) {
      for (let g = i * M; g + 1 < (i + 1) * M; g++) {
        const value = (density[g] + density[g + 1] + density[g + M] + density[g + M + 1]) / 4;
        if (value < 0.004) continue;
        context.beginPath();
        context.moveTo(x[g], y[g]);
        context.lineTo(x[g + 1], y[g + 1]);
        context.lineTo(x[g + M + 1], y[g + M + 1]);
        context.lineTo(x[g + M], y[g + M]);
        context.closePath();
        // The same colour around it closes the seams between patches.
        context.fillStyle = context.strokeStyle = css(this.scale(value));
        context.fill();
        context.stroke();
      }
    }
  }

  /** Every few lines of a mesh: how the plane was folded. */
  lines(z, M, every, color) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 0.7 * this.ratio;
    for (let i = 0; i < M; i += every) {
      for (const index of [(j) => i * M + j, (j) => j * M + i]) {
        context.beginPath();
        for (let j = 0; j < M; j++) {
          const g = index(j);
          context.lineTo(this.x(z[2 * g]), this.y(z[2 * g + 1]));
        }
        context.stroke();
      }
    }
  }

  points(z, color, radius) {
    const { context } = this;
    context.fillStyle = color;
    const size = radius * this.ratio;
    for (let s = 0; 2 * s < z.length; s++) {
      context.fillRect(this.x(z[2 * s]) - size / 2, this.y(z[2 * s + 1]) - size / 2, size, size);
    }
  }

  path(points, color, width = 1.5, closed = false) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = width * this.ratio;
    context.beginPath();
    for (const [a, b] of points) context.lineTo(this.x(a), this.y(b));
    if (closed) context.closePath();
    context.stroke();
  }

  cross([a, b], color) {
    const size = 6 * this.ratio;
    const [x, y] = [this.x(a), this.y(b)];
    const { context } = this;
    for (const [style, width] of [["white", 4], [color, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width * this.ratio;
      context.beginPath();
      context.moveTo(x - size, y);
      context.lineTo(x + size, y);
      context.moveTo(x, y - size);
      context.lineTo(x, y + size);
      context.stroke();
    }
  }

  ring([a, b], color) {
    const { context } = this;
    for (const [style, width] of [["white", 4], [color, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width * this.ratio;
      context.beginPath();
      context.arc(this.x(a), this.y(b), 6 * this.ratio, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  /** Where a picture passes a part of its peak: segments by marching squares. */
  outline({ low, high, shape, values }, part, color) {
    const [n1, n2] = shape;
    const level = Math.log(part);
    const step = [(high[0] - low[0]) / n1, (high[1] - low[1]) / n2];
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 1.2 * this.ratio;
    context.beginPath();
    const place = (i, j) => [low[0] + step[0] * (i + 0.5), low[1] + step[1] * (j + 0.5)];
    for (let i = 0; i + 1 < n1; i++) {
      for (let j = 0; j + 1 < n2; j++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
        const crossed = [];
        corners.forEach(([a, b], c) => {
          const [a2, b2] = corners[(c + 1) % 4];
          const [from, to] = [values[a * n2 + b], values[a2 * n2 + b2]].map((v) => Math.max(v, -50));
          if (from > level === to > level) return;
          const t = (level - from) / (to - from);
          const [p, q] = [place(a, b), place(a2, b2)];
          crossed.push([p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]);
        });
        for (let c = 0; c + 1 < crossed.length; c += 2) {
          context.moveTo(this.x(crossed[c][0]), this.y(crossed[c][1]));
          context.lineTo(this.x(crossed[c + 1][0]), this.y(crossed[c + 1][1]));
        }
      }
    }
    context.stroke();
  }

  axes(color, names) {
    const { context, canvas } = this;
    context.fillStyle = color;
    context.font = `${11 * this.ratio}px system-ui, sans-serif`;
    const apart = Math.min(90 * this.ratio, canvas.width / 4); // pixels between ticks, at most
    const step = niceStep(((this.high[0] - this.low[0]) * apart) / canvas.width);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const pad = 4 * this.ratio;
    context.textBaseline = "bottom";
    context.textAlign = "center";
    for (let v = Math.ceil(this.low[0] / step) * step; v < this.high[0]; v += step) {
      const x = this.x(v);
      if (x < 20 * this.ratio || x > canvas.width - 24 * this.ratio) continue;
      context.fillRect(x, canvas.height - pad, 1, pad);
      context.fillText(v.toFixed(digits), x, canvas.height - pad);
    }
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (let v = Math.ceil(this.low[1] / step) * step; v < this.high[1]; v += step) {
      const y = this.y(v);
      if (y < 20 * this.ratio || y > canvas.height - 20 * this.ratio) continue;
      context.fillRect(0, y, pad, 1);
      context.fillText(v.toFixed(digits), 1.5 * pad, y);
    }
    context.textBaseline = "bottom";
    context.textAlign = "right";
    context.fillText(names[0], canvas.width - pad, canvas.height - pad);
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText(names[1], pad, pad);
  }
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [5, 2, 1].map((m) => m * power).find((s) => s <= rough);
}

/** A square around points (S, 2) that matter, a little larger. */
export function squareAround(z, matters) {
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (let s = 0; 2 * s < z.length; s++) {
    if (!matters(s)) continue;
    for (const i of [0, 1]) {
      low[i] = Math.min(low[i], z[2 * s + i]);
      high[i] = Math.max(high[i], z[2 * s + i]);
    }
  }
  return [low, high];
}

export function union(boxes) {
  const low = [0, 1].map((i) => Math.min(...boxes.map((box) => box[0][i])));
  const high = [0, 1].map((i) => Math.max(...boxes.map((box) => box[1][i])));
  const half = 0.55 * Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
  const middle = [0, 1].map((i) => (low[i] + high[i]) / 2);
  return [middle.map((m) => m - half), middle.map((m) => m + half)];
}
