// Two planes side by side, D = 2: q after each flow, and the true posterior.

import { FullGaussian } from "./model.js";
import { normals } from "./numbers.js";
import { Plane, css, squareAround, union } from "./plane.js";

const MESH = 45;
const MESH_REACH = 4;
const MESH_LINES = 4; // patches between lines of the grid
const OUTLINES = [0.1, 0.6];
const SEEN = -Math.log(100); // a density's part of its peak that the window holds
const PICTURE_CELLS = 400; // along a side, at most

export class PosteriorView {
  constructor(page) {
    this.page = page;
    const element = (id) => document.getElementById(id);
    const redraw = () => page.redraw();
    this.left = new Plane(element("plane-q"), page.scale, redraw);
    this.right = new Plane(element("plane-truth"), page.scale, redraw);
    this.layer = element("layer");
    this.samples = element("samples");
    this.grid = element("grid");
    this.outline = element("outline");
    this.whole = element("whole");
    this.layers = page.live ? null : page.model.layers;
    const K = page.live ? page.model.head.K : this.layers.length - 1;
    this.layer.max = K;
    this.layer.value = K;
    this.layer.parentElement.hidden = K === 0;
    for (const input of [this.layer, this.samples, this.grid, this.outline, this.whole]) {
      input.addEventListener("input", redraw);
    }
    const axis = Array.from({ length: MESH }, (_, i) => MESH_REACH * ((2 * i) / (MESH - 1) - 1));
    this.eps = Float64Array.from(axis.flatMap((a) => axis.flatMap((b) => [a, b])));
    this.noise = normals(2 * Number(this.samples.max));
  }

  /** z and log q on the mesh, after the flows that are switched on. */
  meshNow(place = Number(this.layer.value)) {
    const { page } = this;
    if (page.live) return { ...page.q.atNoise(this.eps, place), side: MESH };
    if (!page.model.has("mesh_z")) return null;
    return { ...page.model.mesh(page.index, place), side: page.spec.stored.mesh_side };
  }

  draw() {
    const { page, left, right } = this;
    const mesh = this.meshNow();
    const all = this.layer.value === this.layer.max;
    const last = all ? mesh : this.meshNow(Number(this.layer.max));
    const truth = page.truthPicture();
    const boxes = [mesh, last].filter(Boolean).map(({ z, logQ }) => {
      const peak = logQ.reduce((a, b) => Math.max(a, b), -Infinity);
      return squareAround(z, (s) => logQ[s] > peak + SEEN);
    });
    if (truth) boxes.push([truth.low, truth.high]);
    if (!boxes.length) boxes.push(squareAround(page.model.draws(page.index), () => true));
    const window = this.whole.checked ? page.spec.box : union(boxes);
    const ground = css(page.scale(0));
    for (const plane of [left, right]) {
      plane.look(...window);
      plane.clear(ground);
    }
    if (mesh) {
      left.mesh(mesh.z, mesh.logQ, mesh.side);
      if (this.grid.checked) left.lines(mesh.z, mesh.side, MESH_LINES, "rgba(255,255,255,.45)");
    }
    this.drawSamples(mesh);
    if (truth) {
      right.picture(truth);
      if (this.outline.checked) {
        for (const part of OUTLINES) left.outline(truth, part, "white");
      }
    }
    this.drawRefined();
    for (const plane of [left, right]) plane.axes("white", ["z₁", "z₂"]);
    const k = page.live ? Number(this.layer.value) : this.layers[Number(this.layer.value)];
    const K = page.live ? page.model.head.K : page.spec.stored.num_flows;
    document.getElementById("layer-value").textContent = `${k} of ${K}`;
    document.getElementById("samples-value").textContent = this.samples.value;
    document.getElementById("q-name").textContent = k === 0 ? "q₀(z|x)" : `q after ${k} of ${K}`;
  }

  drawSamples(mesh) {
    const { page } = this;
    const count = Number(this.samples.value);
    if (page.live) {
      const { z } = page.q.atNoise(this.noise.subarray(0, 2 * count), Number(this.layer.value));
      this.left.points(z, "#ff9d5c", 2.5);
    } else if (!mesh || this.layer.value === this.layer.max) {
      this.left.points(page.model.draws(page.index).subarray(0, 2 * count), "#ff9d5c", 2.5);
    }
  }

  /** Ellipses of one and two deviations in the page; outlines where it was stored. */
  drawRefined() {
    const { page, right } = this;
    if (page.refined?.picture) {
      for (const part of OUTLINES) right.outline(page.refined.picture, part, "#ff9d5c");
    } else if (page.refined) {
      const q = new FullGaussian(page.refined.loc, page.refined.lower);
      for (const radius of [1, 2]) {
        const circle = Array.from({ length: 64 }, (_, i) => (Math.PI * i) / 32);
        const eps = circle.flatMap((t) => [radius * Math.cos(t), radius * Math.sin(t)]);
        const { z } = q.atNoise(Float64Array.from(eps));
        right.path(circle.map((_, s) => [z[2 * s], z[2 * s + 1]]), "#ff9d5c", 1.5, true);
      }
    }
  }
}

/** The cells of one level of the quadrature as a picture over their box, by part of the peak. */
export function pictureOf({ cells, count, logJoint }, box) {
  const peak = logJoint.reduce((a, b) => Math.max(a, b), -Infinity);
  const seen = [...cells.keys()].filter((s) => logJoint[s] > peak + 2 * SEEN);
  const first = [0, 1].map((i) => seen.reduce((a, s) => Math.min(a, cells[s][i]), Infinity) - 1);
  const last = [0, 1].map((i) => seen.reduce((a, s) => Math.max(a, cells[s][i]), -1) + 1);
  // Modes far apart, finely resolved: fewer and larger cells.
  const size = [0, 1].map((i) => last[i] - first[i] + 1);
  const coarser = Math.max(1, Math.ceil(Math.max(...size) / PICTURE_CELLS));
  const shape = size.map((n) => Math.ceil(n / coarser));
  const values = new Float64Array(shape[0] * shape[1]).fill(-Infinity);
  for (const s of cells.keys()) {
    const [i, j] = cells[s].map((c, axis) => Math.floor((c - first[axis]) / coarser));
    if (i < 0 || j < 0 || i >= shape[0] || j >= shape[1]) continue;
    const at = i * shape[1] + j;
    values[at] = Math.max(values[at], logJoint[s] - peak);
  }
  const width = [0, 1].map((i) => (box[1][i] - box[0][i]) / count);
  const low = [0, 1].map((i) => box[0][i] + width[i] * first[i]);
  const high = [0, 1].map((i) => low[i] + width[i] * coarser * shape[i]);
  return { low, high, shape, values };
}
