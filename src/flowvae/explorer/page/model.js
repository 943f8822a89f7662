// The model in the page: encoder, posterior and its flows, decoder, likelihood, prior.
// Letters are those of the documentation: z, w, u, b, û as uHat; S points are (S, D) in one array.

import { LOG_2PI, applyLayer, layerGradient, logSumExp, sigmoid, softplus } from "./numbers.js";

const ZERO_OF_M = Math.log(Math.E - 1); // where softplus(v) = 1

/** The arrays of the page by number: one block of bytes, little-endian. */
export function readArrays(about, bytes) {
  return about.map(({ type, offset, length }) => {
    const from = bytes.byteOffset + offset;
    if (type === "u1") return new Uint8Array(bytes.buffer, from, length);
    if (type === "i4") return new Int32Array(bytes.buffer, from, length);
    return new Float32Array(bytes.buffer, from, length);
  });
}

/** A datum: bytes stand for k/255. */
export function datum(array, index, P) {
  const row = array.subarray(index * P, (index + 1) * P);
  return array instanceof Uint8Array ? Float32Array.from(row, (v) => v / 255) : row;
}

/** û with w·û = m(w·u), m, and s = 1 + m, of one planar layer. */
export function constrained(w, u, paper) {
  const dot = (a, c) => a.reduce((sum, v, i) => sum + v * c[i], 0);
  const wu = dot(w, u);
  const ww = dot(w, w);
  if (ww < 1.2e-38) return { uHat: u, m: wu, s: 1 + wu };
  const d = wu - (paper ? ZERO_OF_M : 0);
  const m = d < 1 ? Math.log1p((1 - 1 / Math.E) * Math.expm1(d)) : softplus(d + ZERO_OF_M) - 1;
  const r = (m - wu) / ww;
  return { uHat: u.map((v, i) => v + r * w[i]), m, s: softplus(d + ZERO_OF_M) };
}

/** q(z|x): a diagonal Gaussian through K planar flows; K = 0 is the Gaussian. */
export class Posterior {
  constructor(loc, logVar, flows, standardized) {
    Object.assign(this, { loc, logVar, flows, standardized });
    this.scale = logVar.map((v) => Math.exp(0.5 * v));
    this.D = loc.length;
  }

  get K() {
    return this.flows.length;
  }

  /** z_k and log q_k at noise ε (S, D), through the first k flows. */
  atNoise(eps, k = this.K) {
    const { D, loc, scale, standardized } = this;
    const S = eps.length / D;
    const z = new Float64Array(S * D);
    const logQ = new Float64Array(S);
    const constant = -0.5 * (D * LOG_2PI + this.logVar.reduce((sum, v) => sum + v, 0));
    const point = new Float64Array(D);
    for (let s = 0; s < S; s++) {
      let square = 0;
      for (let i = 0; i < D; i++) {
        const e = eps[s * D + i];
        square += e * e;
        point[i] = standardized ? e : loc[i] + scale[i] * e;
      }
      let ladj = 0;
      for (let layer = 0; layer < k; layer++) ladj += throughLayer(this.flows[layer], point);
      for (let i = 0; i < D; i++) {
        z[s * D + i] = standardized ? loc[i] + scale[i] * point[i] : point[i];
      }
      logQ[s] = constant - 0.5 * square - ladj;
    }
    return { z, logQ };
  }
}

/** Move a point through a planar layer in place; its log-determinant. */
function throughLayer({ w, b, uHat, m, s }, point) {
  let a = b;
  for (let i = 0; i < point.length; i++) a += w[i] * point[i];
  const t = Math.tanh(a);
  const sech2 = 1 / Math.cosh(Math.min(Math.abs(a), 300)) ** 2;
  for (let i = 0; i < point.length; i++) point[i] += uHat[i] * t;
  // tanh² + sech² s is a sum of positive terms: nothing cancels as m nears -1.
  return sech2 * m > -0.5 ? Math.log1p(sech2 * m) : Math.log(t * t + sech2 * s);
}

/** A Gaussian with a lower triangular root L (D, D): the refined posterior. */
export class FullGaussian {
  constructor(loc, lower) {
    Object.assign(this, { loc, lower, D: loc.length });
  }

  atNoise(eps) {
    const { D, loc, lower } = this;
    const S = eps.length / D;
    const z = new Float64Array(S * D);
    const logQ = new Float64Array(S);
    let constant = -0.5 * D * LOG_2PI;
    for (let i = 0; i < D; i++) constant -= Math.log(Math.abs(lower[i * D + i]));
    for (let s = 0; s < S; s++) {
      let square = 0;
      for (let i = 0; i < D; i++) {
        square += eps[s * D + i] ** 2;
        z[s * D + i] = loc[i];
        for (let j = 0; j <= i; j++) z[s * D + i] += lower[i * D + j] * eps[s * D + j];
      }
      logQ[s] = constant - 0.5 * square;
    }
    return { z, logQ };
  }
}

/** values + y·slopes, for y (C,) and slopes (C, values): what the condition adds. */
function shifted(values, slopes, y) {
  if (slopes === undefined) return values;
  const n = values.length;
  return Float64Array.from(values, (v, i) => y.reduce((sum, c, j) => sum + c * slopes[j * n + i], v));
}

/** Layers under a condition y: what it adds to a layer that sees it is part of that layer's bias. */
function layersGiven(layers, y) {
  const C = y.length;
  return layers.map((layer) => {
    if (!layer.given) return layer;
    const bias = Float32Array.from(layer.bias, (b, h) =>
      y.reduce((sum, c, j) => sum + c * layer.given[h * C + j], b),
    );
    return { ...layer, bias };
  });
}

/** The whole model, computed in the page. */
export class LiveModel {
  constructor(spec, arrays) {
    const layers = (list) =>
      list.map((layer) =>
        layer.kind === "affine"
          ? {
              ...layer,
              weight: arrays[layer.weight],
              bias: arrays[layer.bias],
              given: arrays[layer.given],
            }
          : layer,
      );
    this.D = spec.latent_dim;
    this.P = spec.data_dim;
    this.encoder = layers(spec.model.encoder);
    this.head = spec.model.head;
    this.shared = this.head.shared === null ? null : arrays[this.head.shared];
    this.decoder = layers(spec.model.decoder);
    this.output = this.decoder[this.decoder.length - 1];
    this.likelihood = spec.model.likelihood;
    const { log_weights, loc, log_var, slopes } = spec.model.prior;
    this.prior = {
      logWeights: arrays[log_weights], loc: arrays[loc], logVar: arrays[log_var],
    };
    this.slopes = {
      logWeights: arrays[slopes.log_weights],
      loc: arrays[slopes.loc],
      logVar: arrays[slopes.log_var],
    };
  }

  /** The model under a condition y (C,), which is an unconditional one; y is null where there is none. */
  given(y) {
    if (y === null) return this;
    const found = Object.create(this);
    found.encoder = layersGiven(this.encoder, y);
    found.decoder = layersGiven(this.decoder, y);
    found.output = found.decoder[found.decoder.length - 1];
    const logits = shifted(this.prior.logWeights, this.slopes.logWeights, y);
    const norm = logits.length > 1 ? logSumExp(logits) : logits[0];
    found.prior = {
      logWeights: logits.map((v) => v - norm),
      loc: shifted(this.prior.loc, this.slopes.loc, y),
      logVar: shifted(this.prior.logVar, this.slopes.logVar, y),
    };
    return found;
  }

  /** q(z|x) of one datum. */
  posterior(x) {
    const { D } = this;
    const { K, standardized, paper, bound } = this.head;
    let h = Float32Array.from(x);
    for (const layer of this.encoder) h = applyLayer(layer, h, 1);
    const take = (from, count) => Array.from(h.subarray(from, from + count));
    const flat = this.shared ?? h.subarray(2 * D);
    const flows = [];
    for (let k = 0; k < K; k++) {
      const w = Array.from(flat.subarray(k * D, (k + 1) * D));
      let u = Array.from(flat.subarray((K + k) * D, (K + k + 1) * D));
      if (bound !== null) {
        const wu = w.reduce((sum, v, i) => sum + v * u[i], 0);
        u = u.map((v) => v / Math.sqrt(1 + (wu / bound) ** 2));
      }
      flows.push({ w, u, b: flat[2 * K * D + k], ...constrained(w, u, paper) });
    }
    return new Posterior(take(0, D), take(D, D), flows, standardized);
  }

  /** Of n points z (n, D): what enters the last layer, (n, H). */
  hidden(z, n) {
    let h = Float32Array.from(z);
    for (const layer of this.decoder.slice(0, -1)) h = applyLayer(layer, h, n);
    return h;
  }

  /** The decoder's outputs at n points, (n, P). */
  outputs(z, n) {
    return applyLayer(this.output, this.hidden(z, n), n);
  }

  /** E[x|z] at n points, (n, P). */
  decode(z, n = z.length / this.D) {
    const found = this.outputs(z, n);
    return this.likelihood.kind === "bernoulli" ? found.map(sigmoid) : found;
  }

  /** What log p(x|z) = x·(outputs) c - A(z) + B(x) has beside the outputs: c, A and B. */
  normalizer(outputs, n) {
    const { P } = this;
    const found = new Float64Array(n);
    const bernoulli = this.likelihood.kind === "bernoulli";
    const precision = bernoulli ? 1 : Math.exp(-2 * this.likelihood.log_sigma);
    for (let s = 0; s < n; s++) {
      let sum = 0;
      for (let i = s * P; i < (s + 1) * P; i++) {
        sum += bernoulli ? softplus(outputs[i]) : 0.5 * precision * outputs[i] * outputs[i];
      }
      found[s] = sum;
    }
    return found;
  }

  ofData(x) {
    if (this.likelihood.kind === "bernoulli") return { factor: 1, constant: 0 };
    const { log_sigma } = this.likelihood;
    const factor = Math.exp(-2 * log_sigma);
    const square = x.reduce((sum, v) => sum + v * v, 0);
    return { factor, constant: -0.5 * factor * square - this.P * (log_sigma + 0.5 * LOG_2PI) };
  }

  /** log p(x|z) at n points z. */
  logLikelihood(x, z, n) {
    const outputs = this.outputs(z, n);
    const { factor, constant } = this.ofData(x);
    const normalizer = this.normalizer(outputs, n);
    return Float64Array.from(normalizer, (A, s) => {
      let dot = 0;
      for (let i = 0; i < this.P; i++) dot += x[i] * outputs[s * this.P + i];
      return factor * dot - A + constant;
    });
  }

  logPrior(z, n) {
    const { D } = this;
    const { logWeights, loc, logVar } = this.prior;
    const M = logWeights.length;
    const terms = new Float64Array(M);
    const found = new Float64Array(n);
    for (let s = 0; s < n; s++) {
      for (let m = 0; m < M; m++) {
        terms[m] = logWeights[m] - 0.5 * D * LOG_2PI;
        for (let i = 0; i < D; i++) {
          const v = logVar[m * D + i];
          terms[m] -= 0.5 * (v + (z[s * D + i] - loc[m * D + i]) ** 2 * Math.exp(-v));
        }
      }
      found[s] = M === 1 ? terms[0] : logSumExp(terms);
    }
    return found;
  }

  logJoint(x, z, n) {
    const prior = this.logPrior(z, n);
    return this.logLikelihood(x, z, n).map((value, s) => value + prior[s]);
  }

  /** ∇_z log p(x, z) at n points, (n, D). */
  jointGradient(x, z, n) {
    const inputs = [Float32Array.from(z)];
    for (const layer of this.decoder) inputs.push(applyLayer(layer, inputs.at(-1), n));
    const outputs = inputs.pop();
    const bernoulli = this.likelihood.kind === "bernoulli";
    const { factor } = this.ofData(x);
    let gradient = Float64Array.from(outputs, (o, i) =>
      factor * (x[i % this.P] - (bernoulli ? sigmoid(o) : o)),
    );
    for (let l = this.decoder.length - 1; l >= 0; l--) {
      gradient = layerGradient(this.decoder[l], inputs[l], gradient, n);
    }
    const step = 1e-4; // of the prior, whose form is smooth and cheap: central differences
    for (let i = 0; i < this.D; i++) {
      const moved = (by) => Float64Array.from(z, (v, j) => (j % this.D === i ? v + by : v));
      const above = this.logPrior(moved(step), n);
      const below = this.logPrior(moved(-step), n);
      for (let s = 0; s < n; s++) {
        gradient[s * this.D + i] += (above[s] - below[s]) / (2 * step);
      }
    }
    return gradient;
  }

  /** Draws z ~ p(z) made of noise (n, D), and of uniform numbers (n,) that choose components. */
  priorDraws(noise, uniform) {
    const { D } = this;
    const { logWeights, loc, logVar } = this.prior;
    return Float64Array.from(noise, (e, j) => {
      let left = uniform[Math.floor(j / D)];
      let m = 0;
      while (m < logWeights.length - 1 && (left -= Math.exp(logWeights[m])) > 0) m++;
      const i = m * D + (j % D);
      return loc[i] + Math.exp(0.5 * logVar[i]) * e;
    });
  }
}
