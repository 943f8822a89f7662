// The posterior refined for one datum: natural-gradient steps of a full Gaussian, as in
// flowvae.refinement, for D = 2. Means are over the points ±√2 e of a turned basis.

import { FullGaussian } from "./model.js";
import { noiseGrid } from "./truth.js";

const LAST_RATE = 0.2;
const LONGEST = 1.8 * Math.SQRT2;
const CURVATURE = [0.1, 16];
const STEEPEST = 1e6;
const NARROW = 0.05; // deviation at a start that the coarse look found, in deviations of the prior
const HIGHER = 3; // nats by which that start must lie higher

/** The Gaussian with the mean and deviations of q, or narrow at the coarse grid's peak. */
export function firstGaussian(truth, x, q) {
  const { eps, logWeight } = noiseGrid(16);
  const { z } = q.atNoise(eps);
  const weights = logWeight.map(Math.exp);
  const mass = weights.reduce((a, b) => a + b);
  const mean = (f) => weights.reduce((sum, weight, s) => sum + weight * f(s), 0) / mass;
  let loc = [0, 1].map((i) => mean((s) => z[2 * s + i]));
  let deviation = [0, 1].map((i) => Math.sqrt(mean((s) => (z[2 * s + i] - loc[i]) ** 2)));
  const seen = truth.coarse(x);
  let best = 0;
  seen.forEach((value, g) => (best = value > seen[best] ? g : best));
  const [here] = truth.model.logJoint(x, Float64Array.from(loc), 1);
  if (seen[best] > here + HIGHER) {
    const { count } = truth;
    loc = truth.centre([Math.floor(best / count), best % count], count);
    deviation = [0, 1].map((i) => (NARROW * (truth.high[i] - truth.low[i])) / 8);
  }
  return new FullGaussian(loc, [deviation[0], 0, 0, deviation[1]]);
}

/** One step of `steps`: q = N(loc, L Lᵀ) -> the next. */
export function refineStep(model, x, q, step, steps) {
  const rate = Math.max(1 - step / steps, LAST_RATE);
  const angle = 0.7 + 1.1 * step; // another basis in each step
  const axes = [[Math.cos(angle), Math.sin(angle)], [-Math.sin(angle), Math.cos(angle)]];
  const noise = [...axes, ...axes.map((a) => a.map((v) => -v))].flat().map((v) => v * Math.SQRT2);
  const { z } = q.atNoise(Float64Array.from(noise));
  const raw = model.jointGradient(x, z, 4);
  const L = q.lower;
  const gradient = [0, 1, 2, 3].map((s) =>
    [L[0] * raw[2 * s] + L[2] * raw[2 * s + 1], L[3] * raw[2 * s + 1]].map((g) =>
      Number.isFinite(g) ? Math.max(-STEEPEST, Math.min(STEEPEST, g)) : 0,
    ),
  );
  // Λ = -E[g ξᵀ], symmetric
  const moment = (i, j) => -gradient.reduce((sum, g, s) => sum + g[i] * noise[2 * s + j], 0) / 4;
  const off = 0.5 * (moment(0, 1) + moment(1, 0));
  const { values, vectors } = eigen(moment(0, 0), off, moment(1, 1));
  const precision = values.map((v) => {
    return 1 - rate + rate * Math.max(CURVATURE[0], Math.min(CURVATURE[1], v));
  });
  const mean = [0, 1].map((i) => gradient.reduce((sum, g) => sum + g[i], 0) / 4);
  const along = vectors.map((v, k) => (rate * (v[0] * mean[0] + v[1] * mean[1])) / precision[k]);
  let move = [0, 1].map((i) => along[0] * vectors[0][i] + along[1] * vectors[1][i]);
  const length = Math.hypot(...move);
  if (length > LONGEST) move = move.map((v) => (v * LONGEST) / length);
  const loc = [q.loc[0] + L[0] * move[0], q.loc[1] + L[2] * move[0] + L[3] * move[1]];
  // C = L Λ⁻¹ Lᵀ and its Cholesky root
  const inverse = (i, j) =>
    vectors.reduce((sum, v, k) => sum + (v[i] * v[j]) / precision[k], 0);
  const [a, b, c] = [inverse(0, 0), inverse(0, 1), inverse(1, 1)];
  const c00 = L[0] * L[0] * a;
  const c10 = L[0] * (L[2] * a + L[3] * b);
  const c11 = L[2] * (L[2] * a + L[3] * b) + L[3] * (L[2] * b + L[3] * c);
  const l00 = Math.sqrt(c00);
  const l10 = c10 / l00;
  return new FullGaussian(loc, [l00, 0, l10, Math.sqrt(Math.max(c11 - l10 * l10, 1e-300))]);
}

/** Eigenvalues and unit vectors of [[a, b], [b, c]]. */
function eigen(a, b, c) {
  const angle = 0.5 * Math.atan2(2 * b, a - c);
  const vectors = [[Math.cos(angle), Math.sin(angle)], [-Math.sin(angle), Math.cos(angle)]];
  const values = vectors.map(([x, y]) => a * x * x + 2 * b * x * y + c * y * y);
  return { values, vectors };
}
