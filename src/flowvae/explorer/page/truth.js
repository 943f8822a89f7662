// The true posterior p(z|x) and log p(x) by quadrature, and the ELBO, for D = 2.
// It runs in a worker and gives way to what is asked next between blocks of points.

import { LOG_2PI, affine, logSumExp } from "./numbers.js";

const COARSE = 128; // cells along an axis of the first look
const MOST_VALUES = 1.2e7; // of the coarse grid's hidden units that are kept
const BLOCK = 64; // points decoded between two looks at the clock
const FIRST_CUTOFF = 30; // nats below the peak that a coarse cell may lie
const CUTOFF = 18; // and a finer one
const RESOLVED = 100; // cells that the density fills at least
const MOST_CELLS = 60000;
const TOLERANCE = 5e-4; // nats between two levels
const REACH = 5.2; // of the noise, in deviations
const NOISE_CELLS = 20; // along an axis on the first level

export class Truth {
  /** box: [low, high], corners of where data and prior lie; pause: a promise between blocks. */
  constructor(model, box, pause) {
    Object.assign(this, { model, pause });
    [this.low, this.high] = box;
  }

  width(count) {
    return [0, 1].map((i) => (this.high[i] - this.low[i]) / count);
  }

  centre(cell, count) {
    const width = this.width(count);
    return [0, 1].map((i) => this.low[i] + width[i] * (cell[i] + 0.5));
  }

  /**
   * Decode the coarse grid once: hidden units and A(z) - log p(z) of every cell. It ends early, and
   * gives false, once stale() is true.
   */
  async build(progress, stale) {
    const { model } = this;
    const H = model.output.inputs;
    this.count = Math.max(32, Math.min(COARSE, Math.floor(Math.sqrt(MOST_VALUES / H))));
    const G = this.count ** 2;
    this.hidden = new Float32Array(G * H);
    this.rest = new Float64Array(G);
    for (let start = 0; start < G; start += BLOCK) {
      const n = Math.min(BLOCK, G - start);
      const z = new Float64Array(2 * n);
      for (let s = 0; s < n; s++) {
        const g = start + s;
        z.set(this.centre([Math.floor(g / this.count), g % this.count], this.count), 2 * s);
      }
      const hidden = model.hidden(z, n);
      this.hidden.set(hidden, start * H);
      const A = model.normalizer(affine(model.output, hidden, n), n);
      const prior = model.logPrior(z, n);
      for (let s = 0; s < n; s++) this.rest[start + s] = prior[s] - A[s];
      if ((start / BLOCK) % 8 === 0) {
        progress(start / G);
        await this.pause();
        if (stale()) return false;
      }
    }
    progress(1);
    return true;
  }

  /** log p(x, z) on the coarse grid: one matrix-vector product. */
  coarse(x) {
    const { weight, bias, inputs: H, outputs: P } = this.model.output;
    const { factor, constant } = this.model.ofData(x);
    const v = new Float64Array(H);
    let offset = constant;
    for (let i = 0; i < P; i++) {
      const value = factor * x[i];
      if (value === 0) continue;
      offset += value * bias[i];
      for (let j = 0; j < H; j++) v[j] += value * weight[i * H + j];
    }
    const { hidden, rest } = this;
    const found = new Float64Array(rest.length);
    for (let g = 0, at = 0; g < found.length; g++) {
      let a = 0;
      let b = 0;
      let j = 0;
      for (; j + 1 < H; j += 2) {
        a += hidden[at + j] * v[j];
        b += hidden[at + j + 1] * v[j + 1];
      }
      if (j < H) a += hidden[at + j] * v[j];
      at += H;
      found[g] = a + b + offset + rest[g];
    }
    return found;
  }

  /** log p(x, z) at points (n, 2), giving way between blocks; null once stale() is true. */
  async joint(x, z, stale) {
    const n = z.length / 2;
    const found = new Float64Array(n);
    for (let start = 0; start < n; start += BLOCK) {
      const some = z.subarray(2 * start, 2 * Math.min(n, start + BLOCK));
      found.set(this.model.logJoint(x, some, some.length / 2), start);
      await this.pause();
      if (stale()) return null;
    }
    return found;
  }

  /**
   * log p(x) = log ∫ p(x, z) dz: cells that matter are halved until two levels agree.
   * Gives each level to `level`, and at last {logProb, cells, count, logJoint, settled}.
   */
  async evidence(x, stale, level) {
    const seen = this.coarse(x);
    let { count } = this;
    const cellVolume = (c) => this.width(c).reduce((sum, w) => sum + Math.log(w), 0);
    let last = logSumExp(seen) + cellVolume(count);
    let cells = nearPeak(seen, count);
    level({ logProb: last, coarse: true, ...cellsOf(seen, count) });
    for (;;) {
      count *= 2;
      cells = cells.flatMap(([i, j]) => [
        [2 * i, 2 * j], [2 * i, 2 * j + 1], [2 * i + 1, 2 * j], [2 * i + 1, 2 * j + 1],
      ]);
      const z = new Float64Array(2 * cells.length);
      cells.forEach((cell, s) => z.set(this.centre(cell, count), 2 * s));
      const logJoint = await this.joint(x, z, stale);
      if (logJoint === null) return null;
      const total = logSumExp(logJoint);
      const logProb = total + cellVolume(count);
      const filled = Math.exp(2 * total - logSumExp(logJoint.map((v) => 2 * v)));
      const settled = Math.abs(logProb - last) < TOLERANCE && filled >= RESOLVED;
      const found = { logProb, cells, count, logJoint, settled };
      const peak = logJoint.reduce((a, b) => Math.max(a, b), -Infinity);
      const next = cells.filter((_, s) => logJoint[s] > peak - CUTOFF);
      if (settled || 4 * next.length > MOST_CELLS) return found;
      level(found);
      last = logProb;
      cells = next;
    }
  }

  /** ∫ N(ε) [log p(x, z(ε)) - log q(z(ε))] dε on ever finer grids of ε: {value, settled}. */
  async elbo(x, q, stale, level = () => {}, roughly = false) {
    let last = Infinity;
    for (let n = NOISE_CELLS; ; n *= 2) {
      const { eps, logWeight } = noiseGrid(n);
      const { z, logQ } = q.atNoise(eps);
      const joint = await this.joint(x, z, stale);
      if (joint === null) return null;
      let mass = 0;
      let sum = 0;
      for (let s = 0; s < logQ.length; s++) {
        const weight = Math.exp(logWeight[s]);
        mass += weight;
        sum += weight * (joint[s] - logQ[s]);
      }
      const value = sum / mass;
      const settled = Math.abs(value - last) < TOLERANCE;
      if (roughly || settled || n >= 8 * NOISE_CELLS) return { value, settled };
      level(value);
      last = value;
    }
  }
}

/** Midpoints of an n × n grid of ε in a disc, (S, 2), and the log of N(ε) there. */
export function noiseGrid(n) {
  const eps = [];
  const logWeight = [];
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const a = REACH * ((2 * i + 1) / n - 1);
      const b = REACH * ((2 * j + 1) / n - 1);
      const square = a * a + b * b;
      if (square > REACH * REACH) continue;
      eps.push(a, b);
      logWeight.push(-0.5 * square - LOG_2PI);
    }
  }
  return { eps: Float64Array.from(eps), logWeight };
}

/** Coarse cells near the peak, or beside such a cell. */
function nearPeak(seen, count) {
  const peak = seen.reduce((a, b) => Math.max(a, b), -Infinity);
  const found = new Set();
  seen.forEach((value, g) => {
    if (value <= peak - FIRST_CUTOFF) return;
    const i = Math.floor(g / count);
    const j = g % count;
    for (let a = Math.max(0, i - 1); a <= Math.min(count - 1, i + 1); a++) {
      for (let b = Math.max(0, j - 1); b <= Math.min(count - 1, j + 1); b++) {
        found.add(a * count + b);
      }
    }
  });
  return [...found].map((g) => [Math.floor(g / count), g % count]);
}

/** The coarse cells that can be seen in a picture. */
function cellsOf(seen, count) {
  const peak = seen.reduce((a, b) => Math.max(a, b), -Infinity);
  const chosen = [...seen.keys()].filter((g) => seen[g] > peak - CUTOFF);
  return {
    count,
    cells: chosen.map((g) => [Math.floor(g / count), g % count]),
    logJoint: Float64Array.from(chosen, (g) => seen[g]),
  };
}
