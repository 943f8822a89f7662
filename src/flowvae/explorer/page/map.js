// Where the test data lies in latent space: decode under the pointer, paths, draws of the prior.

import { datum } from "./model.js";
import { normals, uniforms } from "./numbers.js";
import { Plane, squareAround } from "./plane.js";
import { drawDatum, thumbnail } from "./data.js";

const STEPS = 9;
const DRAWS = 10;

export class MapView {
  constructor(page) {
    this.page = page;
    const { spec } = page;
    const element = (id) => document.getElementById(id);
    this.plane = new Plane(element("map"), page.scale, () => page.redraw());
    this.preview = element("preview");
    this.place = element("place");
    this.z = page.arrays[spec.scatter.z];
    this.label = spec.scatter.label === null ? null : page.arrays[spec.scatter.label];
    this.cursor = null;
    this.ends = [];
    this.prior = null;
    this.draws = 1;
    this.chooseDirections();
    this.legend();
    const canvas = this.plane.canvas;
    canvas.addEventListener("pointermove", (event) => this.point(this.plane.at(event)));
    canvas.addEventListener("pointerdown", (event) => this.point(this.plane.at(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const gone of ["pointerleave", "blur"]) canvas.addEventListener(gone, () => this.leave());
    element("from").addEventListener("click", () => this.end(0));
    element("to").addEventListener("click", () => this.end(1));
    element("prior").addEventListener("click", () => this.samplePrior());
    element("path-buttons").hidden = !page.decodes;
  }

  /** The directions (D,) of the two axes, and the origin they start from. */
  chooseDirections() {
    const { page } = this;
    const { D } = page.model;
    const { directions } = page.spec;
    const selects = [document.getElementById("first"), document.getElementById("second")];
    document.getElementById("directions").hidden = D <= 2;
    directions.names.forEach((name, i) => {
      for (const select of selects) select.add(new Option(name, i));
    });
    selects[1].value = Math.min(1, directions.names.length - 1);
    const vectors = page.arrays[directions.array];
    this.origin = page.arrays[directions.origin];
    const update = () => {
      this.cursor = null; // a place on another plane
      selects.forEach((select, i) => {
        for (const option of select.options) {
          option.disabled = selects.length > 1 && option.value === selects[1 - i].value;
        }
      });
      this.centred = selects.map((s) => Number(s.value) < directions.components);
      this.axes = selects.map((s) => vectors.subarray(D * s.value, D * (Number(s.value) + 1)));
      this.names = selects.map((s) => directions.names[s.value]);
      if (D === 1) this.names[1] = "spread at random";
      this.flat = this.onPlane(this.z, true);
      const box = squareAround(this.flat, () => true);
      this.box = box.map((corner, side) => {
        return corner.map((v, i) => v + (side ? 0.06 : -0.06) * (box[1][i] - box[0][i] || 1));
      });
      page.redraw();
    };
    for (const select of selects) select.addEventListener("change", update);
    update();
  }

  /** Points (S, D) on the plane of the two directions, (S, 2). */
  onPlane(z, spread = false) {
    const { D } = this.page.model;
    if (D === 2) return z;
    const jitter = spread ? normals(z.length / D, 7) : null;
    const flat = new Float64Array((2 * z.length) / D);
    for (let s = 0; s * D < z.length; s++) {
      for (const i of [0, 1]) {
        if (D === 1 && i === 1) {
          flat[2 * s + 1] = jitter ? jitter[s] : 0;
          continue;
        }
        for (let d = 0; d < D; d++) {
          const from = this.centred[i] ? this.origin[d] : 0;
          flat[2 * s + i] += (z[s * D + d] - from) * this.axes[i][d];
        }
      }
    }
    return flat;
  }

  /** The point of latent space under a place on the map: what is off the plane stays x's own. */
  under(place) {
    const { D } = this.page.model;
    if (D === 2) return Float64Array.from(place);
    const own = this.page.mean();
    const now = this.onPlane(own);
    const z = Float64Array.from(own);
    const moved = [0, 1].map((i) => place[i] - now[i]);
    const along = D === 1 ? [moved[0], 0] : this.solve(moved);
    for (const i of D === 1 ? [0] : [0, 1]) {
      for (let d = 0; d < D; d++) z[d] += along[i] * this.axes[i][d];
    }
    return z;
  }

  /** How far to go along each of the two directions, which may be oblique, to move so on the map. */
  solve([first, second]) {
    const dot = (a, b) => a.reduce((sum, v, d) => sum + v * b[d], 0);
    const [a, b] = this.axes;
    const [aa, ab, bb] = [dot(a, a), dot(a, b), dot(b, b)];
    const determinant = aa * bb - ab * ab;
    return [(bb * first - ab * second) / determinant, (aa * second - ab * first) / determinant];
  }

  leave() {
    if (this.cursor === null) return;
    this.cursor = null;
    this.page.redraw();
  }

  point(place) {
    this.cursor = place;
    this.page.redraw();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const { low, high } = this.plane;
    const from = this.cursor ?? Array.from(this.onPlane(this.page.mean()));
    this.point(from.map((v, i) => v + (move[i] * (high[i] - low[i])) / 60));
  }

  draw() {
    const { page, plane } = this;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--map-ink"); // classes have one colour in both themes
    plane.look(...this.box);
    this.drawData(style.getPropertyValue("--map"));
    if (this.prior) plane.points(this.onPlane(this.prior), style.getPropertyValue("--second"), 6);
    if (this.ends.filter(Boolean).length === 2) {
      const flat = this.onPlane(this.pathPoints());
      plane.path(Array.from({ length: STEPS }, (_, s) => [flat[2 * s], flat[2 * s + 1]]), ink, 2);
    }
    const mean = this.onPlane(page.mean());
    plane.cross([mean[0], mean[1]], ink);
    if (this.cursor !== null) plane.ring(this.cursor, ink);
    plane.axes(ink, this.names);
    this.drawPreview();
  }

  /** The points stay as they are while one draws, so their picture is kept. */
  drawData(ground) {
    const { plane, page } = this;
    const { width, height } = plane.canvas;
    const key = [width, height, ground, ...this.names].join();
    if (key !== this.kept?.key) {
      plane.clear(ground);
      const { colors } = page.spec;
      for (let s = 0; 2 * s < this.flat.length; s++) {
        const named = this.label !== null && this.label[s] >= 0;
        const color = named ? colors.classes[this.label[s]] : colors.plain;
        plane.points(this.flat.subarray(2 * s, 2 * s + 2), color, 3);
      }
      const picture = new OffscreenCanvas(width, height);
      picture.getContext("2d").drawImage(plane.canvas, 0, 0);
      this.kept = { key, picture };
    }
    plane.context.drawImage(this.kept.picture, 0, 0);
  }

  drawPreview() {
    const { page } = this;
    const z = this.cursor === null ? page.mean() : this.under(this.cursor);
    const values = page.decode(z);
    if (values) drawDatum(this.preview, page.spec.shape, values);
    const shown = Array.from(z.subarray(0, 4), (v) => v.toFixed(2)).join(", ");
    this.place.textContent = `E[x|z] at z = (${shown}${z.length > 4 ? ", …" : ""})`;
  }

  end(which) {
    this.ends[which] = Float64Array.from(this.page.mean());
    this.page.redraw();
    if (this.ends.filter(Boolean).length < 2) {
      const other = which === 0 ? "“Path to here”" : "“Path from here”";
      document.getElementById("strip-name").textContent = `Choose another datum, then ${other}.`;
      return;
    }
    this.again = () => this.strip("E[x|z] along the path", this.pathPoints());
    this.again();
  }

  pathPoints() {
    const [from, to] = this.ends;
    return Float64Array.from({ length: STEPS * from.length }, (_, j) => {
      const [s, d] = [Math.floor(j / from.length), j % from.length];
      return from[d] + (s / (STEPS - 1)) * (to[d] - from[d]);
    });
  }

  samplePrior() {
    this.draws += 1;
    this.again = () => this.showPrior();
    this.again();
  }

  showPrior() {
    const { page } = this;
    const name = "Draws of the prior, decoded";
    if (!page.live) {
      const own = page.own !== null && !page.condition.columns.length;
      const each = own ? ", each under the condition of a test datum" : "";
      this.show(name + each, page.model.priorSamples(page.condition.code));
      return;
    }
    const { D } = page.model;
    const noise = normals(DRAWS * D, this.draws);
    this.prior = page.under.priorDraws(noise, uniforms(DRAWS, 1000 + this.draws));
    this.strip(name, this.prior);
    page.redraw();
  }

  strip(name, z) {
    const { page } = this;
    const values = page.decode(z);
    const { P, D } = page.model;
    const rows = Array.from({ length: z.length / D }, (_, s) => values.subarray(s * P, (s + 1) * P));
    this.show(name, rows);
  }

  show(name, rows) {
    this.shown = { name, rows };
    document.getElementById("strip-name").textContent = name;
    this.showStrip();
  }

  showStrip() {
    if (!this.shown) return;
    const { name, rows } = this.shown;
    document.getElementById("strip").replaceChildren(
      ...rows.map((x, s) => thumbnail(this.page.spec.shape, x, `${name}, ${s + 1}`)),
    );
  }

  legend() {
    const { spec } = this.page;
    const list = document.getElementById("legend");
    spec.classes.forEach((name, i) => {
      const item = document.createElement("li");
      const mark = document.createElement("span");
      mark.style.background = spec.colors.classes[i];
      item.append(mark, name);
      list.append(item);
    });
  }
}

/** For D other than 2: images along single directions, and the nearest test data. */
export class TraversalView {
  constructor(page) {
    this.page = page;
    this.rows = document.getElementById("traversals");
    this.near = document.getElementById("neighbours");
  }

  show() {
    const { page } = this;
    const { shape } = page.spec;
    const { names, steps, values } = page.live
      ? this.computed()
      : page.model.traversals(page.index);
    this.rows.replaceChildren(
      ...names.map((name, i) => {
        const row = document.createElement("div");
        row.className = "row";
        const title = document.createElement("span");
        title.textContent = name;
        const drawn = steps.map((step, j) =>
          thumbnail(shape, values[i * steps.length + j], `${name}, ${step.toFixed(1)}`),
        );
        row.append(title, ...drawn);
        return row;
      }),
    );
    this.showNeighbours();
  }

  computed() {
    const { page } = this;
    const { model, spec } = page;
    const { D, P } = model;
    const vectors = page.arrays[spec.directions.array];
    const { steps } = spec.directions;
    const names = spec.directions.names.slice(0, 8);
    const mean = page.mean();
    const z = names.flatMap((_, i) =>
      steps.flatMap((step) =>
        Array.from(mean, (v, d) => v + step * spec.directions.scales[i] * vectors[i * D + d]),
      ),
    );
    const decoded = page.decode(Float64Array.from(z));
    const count = names.length * steps.length;
    const values = Array.from({ length: count }, (_, i) => decoded.subarray(i * P, (i + 1) * P));
    return { names, steps, values };
  }

  showNeighbours() {
    const { page } = this;
    const means = page.arrays[page.spec.examples.mean];
    const own = page.mean();
    const { D, P } = page.model;
    const distances = Array.from({ length: page.spec.examples.count }, (_, n) => {
      let square = 0;
      for (let d = 0; d < D; d++) square += (means[n * D + d] - own[d]) ** 2;
      return [n === page.index ? Infinity : square, n];
    });
    distances.sort((a, b) => a[0] - b[0]);
    const x = page.arrays[page.spec.examples.x];
    this.near.replaceChildren(
      ...distances.slice(0, 8).map(([, n]) =>
        thumbnail(page.spec.shape, datum(x, n, P), page.exampleName(n)),
      ),
    );
  }
}
