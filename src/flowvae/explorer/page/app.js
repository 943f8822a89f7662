// The page: what is chosen, what is computed of it, what is shown.

import { ConditionView } from "./condition.js";
import { LiveModel, datum, readArrays } from "./model.js";
import { MapView, TraversalView } from "./map.js";
import { Pad, drawDatum, thumbnail } from "./data.js";
import { PosteriorView, pictureOf } from "./posterior.js";
import { StoredModel } from "./stored.js";
import { colorScale } from "./plane.js";

const REFINE_STEPS = 6;
const TALLEST = 320; // pixels of x on the screen
const PACE = 350; // milliseconds that a step of refinement is seen
const element = (id) => document.getElementById(id);
const nats = (value) => value.toFixed(2);

export class Page {
  constructor(spec, bytes) {
    this.spec = spec;
    this.arrays = readArrays(spec.arrays, bytes);
    this.live = spec.model !== null;
    this.model = this.live ? new LiveModel(spec, this.arrays) : new StoredModel(spec, this.arrays);
    this.decodes = this.live || this.model.has("decoded"); // any z there is
    this.condition = new ConditionView(spec.condition, element("condition"), () => this.decodeAnew());
    this.scale = colorScale(spec.colors.density);
    this.index = 0;
    this.asked = 0;
    this.numbers = {};
    this.refined = null;
    this.level = null;
    this.changed = false;
    this.describe();
    this.showParts();
    if (this.live) this.startWorker();
    this.input();
    this.choose(0);
    this.map = new MapView(this);
    this.posterior = spec.latent_dim === 2 ? new PosteriorView(this) : null;
    this.traversal = spec.latent_dim === 2 ? null : new TraversalView(this);
    this.traversal?.show();
    this.redraw();
    document.body.dataset.ready = "true";
  }

  describe() {
    const { spec } = this;
    document.title = spec.title;
    const image = spec.shape.kind === "image";
    document.body.classList.toggle("bars", !image);
    element("beside").hidden = !image;
    if (image) {
      const { width, height } = spec.shape; // tall images stay on the screen
      document.body.style.setProperty("--widest", `${(TALLEST * width) / height}px`);
    }
    if (!image) element("pad-name").textContent = "x above, E[x|z] where ε = 0 below";
    element("decoded").hidden = !this.decodes;
    const settable = this.condition.columns.length > 0;
    element("condition-note").hidden = !settable;
    element("condition-note").textContent = this.live
      ? "What is decoded is under this condition. A test datum is encoded under its own" +
        (spec.pad ? "; what you draw, under this one." : ".")
      : "The reconstruction, the plane under the pointer and draws of the prior are under this " +
        "condition. All else is under the datum's own.";
    element("title").textContent = spec.title;
    element("about").textContent = spec.about;
    element("note").textContent = spec.note;
    element("note").hidden = spec.note === "";
    element("measure").textContent = spec.measure;
    element("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      const now = root.dataset.theme ?? (dark ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      this.recolor();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolor());
  }

  /** Bars and planes have the theme's colours. */
  recolor() {
    this.show();
    this.traversal?.show();
    this.map.showStrip();
    this.redraw();
  }

  showParts() {
    const plane = this.spec.latent_dim === 2;
    for (const part of document.querySelectorAll(".plane")) part.hidden = !plane;
    for (const part of document.querySelectorAll(".many")) part.hidden = plane;
    element("refine").addEventListener("click", () => this.refine());
  }

  startWorker() {
    const source = `${element("core").textContent}\nserve(self);`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address);
    URL.revokeObjectURL(address);
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = ({ message }) => {
      element("status").textContent = `what is computed beside the page has failed: ${message}`;
    };
    this.worker.postMessage({ kind: "start", spec: this.spec, arrays: this.arrays });
    element("status").textContent = "decoding the plane…";
  }

  hear(message) {
    if (message.kind === "progress") {
      element("status").textContent = `decoding the plane: ${Math.round(100 * message.part)}%`;
    } else if (message.kind === "ready") {
      element("status").textContent = "";
      this.ready = true;
      this.ask();
    } else if (message.id === this.asked) {
      if (message.kind === "answer") this.answered(message);
      else this.refinedTo(message);
      this.show();
      this.redraw();
    }
  }

  answered({ truth, elbo, bound, draws, kl, settled }) {
    if (truth) {
      this.level = pictureOf(truth, this.spec.box);
      this.numbers.logProb = truth.logProb;
    }
    if (elbo !== undefined) this.numbers.elbo = elbo;
    if (kl !== undefined) this.numbers.kl = kl;
    if (bound !== undefined) Object.assign(this.numbers, { bound, draws });
    if (settled === undefined) return;
    this.settled = settled;
    this.done();
  }

  refinedTo({ step, loc, lower, elbo, settled }) {
    this.refined = { step, loc, lower, elbo };
    this.settled = settled;
    if (step === REFINE_STEPS) this.done();
  }

  /** Nothing is being computed: what has no ≈ before it is as exact as asked. */
  done() {
    this.working = false;
    element("status").textContent = "";
  }

  /** Pick one of the test data. */
  choose(index) {
    this.index = index;
    this.condition.set(this.conditionOf(index));
    const x = datum(this.arrays[this.spec.examples.x], index, this.model.P);
    this.pad?.set(x);
    this.map?.leave();
    this.take(x, index);
  }

  /** Another x: one of the test data, or what was drawn, whose index is null. */
  take(x, index) {
    this.index = index;
    this.x = x;
    this.numbers = {};
    this.level = this.refined = null;
    this.settled = false;
    this.own = index === null ? this.condition.y : this.conditionOf(index);
    if (this.live) {
      this.q = this.model.given(this.own).posterior(x);
      this.under = this.model.given(this.condition.y);
    } else {
      this.numbers = { ...this.model.numbers(index) };
      this.settled = true;
    }
    for (const button of element("examples").children) {
      const chosen = Number(button.dataset.index) === index;
      button.setAttribute("aria-pressed", String(chosen));
      button.tabIndex = chosen || (index === null && button.dataset.index === "0") ? 0 : -1;
    }
    this.reconstruct();
    this.ask();
    this.show();
    if (!this.pad?.drawing) this.traversal?.show();
    this.redraw();
  }

  reconstruct() {
    this.reconstructed = this.live
      ? this.decode(this.mean())
      : this.model.reconstruction(this.index, this.condition.code);
  }

  /** The condition y of a test datum, which it is encoded under; null of an unconditional model. */
  conditionOf(index) {
    const { examples, condition } = this.spec;
    if (condition === null) return null;
    const all = this.arrays[examples.condition];
    // A copy: a part of the page's block of bytes goes to the worker with all of the block.
    return all.slice(index * condition.dim, (index + 1) * condition.dim);
  }

  /** Another condition: what was drawn is encoded anew; of a test datum z stays. */
  decodeAnew() {
    if (this.index === null) this.take(this.x, null);
    else {
      if (this.live) this.under = this.model.given(this.condition.y);
      this.reconstruct();
      this.show();
      this.traversal?.show();
      this.redraw();
    }
    this.map.again?.();
  }

  ask() {
    this.asked += 1;
    if (!this.live || !this.ready) return;
    this.working = true;
    element("status").textContent = "integrating…";
    this.worker.postMessage({ kind: "ask", id: this.asked, x: this.x, y: this.own, q: this.q });
  }

  refine() {
    if (!this.live) {
      this.refined = { picture: this.model.picture("refined", this.index) };
      this.show();
      this.redraw();
      return;
    }
    if (!this.ready || this.working) return;
    this.working = true;
    element("status").textContent = "refining…";
    this.settled = false;
    this.asked += 1;
    const question = { id: this.asked, x: this.x, y: this.own, q: this.q };
    this.worker.postMessage({ kind: "refine", ...question, steps: REFINE_STEPS, pace: PACE });
    this.show();
  }

  /** z where ε = 0: the place of the datum on the map, and what its reconstruction is made of. */
  mean() {
    if (this.live) return Float64Array.from(this.q.atNoise(new Float64Array(this.model.D)).z);
    const { D } = this.model;
    return this.arrays[this.spec.examples.mean].subarray(this.index * D, (this.index + 1) * D);
  }

  /** E[x|z] at points z (n, D), under the condition that is set; null where it was not stored. */
  decode(z) {
    if (this.live) return this.under.decode(z);
    return this.decodes ? this.model.decode(z, this.condition.code) : null;
  }

  truthPicture() {
    if (this.live) return this.level;
    return this.model.has("truth") ? this.model.picture("truth", this.index) : null;
  }

  exampleName(index) {
    const { examples, classes } = this.spec;
    const label = examples.label === null ? -1 : this.arrays[examples.label][index];
    return `test datum ${index}${label >= 0 ? `, class ${classes[label]}` : ""}`;
  }

  input() {
    const { spec } = this;
    const list = element("examples");
    const x = this.arrays[spec.examples.x];
    for (let n = 0; n < spec.examples.count; n++) {
      const button = document.createElement("button");
      button.dataset.index = n;
      button.title = this.exampleName(n);
      if (spec.shape.kind === "image") {
        button.append(thumbnail(spec.shape, datum(x, n, this.model.P), button.title));
      } else {
        button.textContent = String(n);
      }
      button.addEventListener("click", () => this.choose(n));
      list.append(button);
    }
    list.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
      const next = list.children[Number(event.target.dataset.index) + moves[event.key]];
      if (next === undefined) return;
      event.preventDefault();
      next.focus();
      next.click();
    });
    const drawable = this.live && spec.pad;
    element("pad").classList.toggle("drawable", drawable);
    element("pad-buttons").hidden = !drawable;
    if (!drawable) return;
    element("pad").tabIndex = 0;
    const rest = () => this.traversal?.show();
    this.pad = new Pad(element("pad"), spec, (x) => this.take(x, null), rest);
    element("clear").addEventListener("click", () => this.pad.clear());
  }

  /** What is not a plane: x, its reconstruction, the numbers. */
  show() {
    const { shape } = this.spec;
    if (!this.pad) {
      drawDatum(element("pad"), shape, this.x, shape.kind === "image" ? null : this.reconstructed);
    }
    if (shape.kind === "image") drawDatum(element("reconstruction"), shape, this.reconstructed);
    const { elbo, logProb, kl, bound, draws } = this.numbers;
    const refined = this.live
      ? this.refined && logProb - this.refined.elbo
      : this.refined && this.numbers.refinedKl;
    const conditional = this.own !== null;
    const rows = [
      ["ELBO", elbo],
      [conditional ? "log p(x|y)" : "log p(x)", logProb],
      [conditional ? "KL(q ‖ p(z|x, y))" : "KL(q ‖ p(z|x))", kl],
      [`bound of ${draws} draws`, bound], ["KL, refined", refined],
    ];
    element("numbers").replaceChildren(
      ...rows
        .filter(([, value]) => value !== undefined && value !== null)
        .map(([name, value]) => {
          const row = document.createElement("tr");
          const head = document.createElement("th");
          head.textContent = name;
          const cell = document.createElement("td");
          cell.textContent = `${this.settled ? "" : "≈ "}${nats(value)} nats`;
          row.append(head, cell);
          return row;
        }),
    );
    element("refine").disabled = this.live && (this.working || this.numbers.kl === undefined);
    const step = this.refined?.step;
    element("refine-step").textContent =
      step === undefined ? "" : `step ${step} of ${REFINE_STEPS}`;
    document.body.dataset.settled = String(this.settled);
    document.body.dataset.working = String(Boolean(this.working));
  }

  /** Draw the planes with the next frame. */
  redraw() {
    if (this.changed) return;
    this.changed = true;
    requestAnimationFrame(() => {
      this.changed = false;
      this.posterior?.draw();
      this.map?.draw();
    });
  }
}

function start() {
  const text = (id) => element(id).textContent;
  const bytes = Uint8Array.from(atob(text("bytes")), (c) => c.charCodeAt(0));
  window.flowvaeExplorer = new Page(JSON.parse(text("spec")), bytes);
}

start();
