// Numbers: layers on blocks of points, Gaussian noise, sums of exponentials.

export const LOG_2PI = Math.log(2 * Math.PI);

/** log(1 + e^x), without overflow. */
export function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

export function sigmoid(x) {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

export function logSumExp(values) {
  let peak = -Infinity;
  for (const value of values) peak = Math.max(peak, value);
  if (peak === -Infinity) return peak;
  let total = 0;
  for (const value of values) total += Math.exp(value - peak);
  return peak + Math.log(total);
}

// Abramowitz and Stegun 7.1.26 is too coarse for 1e-3 nats over hundreds of units, so erf is a
// series below 3 and a continued fraction above.
function erf(x) {
  const a = Math.abs(x);
  if (a < 3) {
    let term = a;
    let total = a;
    for (let n = 1; Math.abs(term) > 1e-17 * total && n < 100; n++) {
      term *= (-a * a) / n;
      total += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * total) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 30; n > 0; n--) fraction = (0.5 * n) / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + fraction) * Math.sqrt(Math.PI)));
}

const normalDensity = (x) => Math.exp(-0.5 * (x * x + LOG_2PI));
const normalMass = (x) => 0.5 * (1 + erf(x * Math.SQRT1_2));

/** Activations by their PyTorch names: the function, and its derivative at x. */
export const ACTIVATIONS = {
  relu: [(x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)],
  leaky_relu: [(x) => (x > 0 ? x : 0.01 * x), (x) => (x > 0 ? 1 : 0.01)],
  elu: [(x) => (x > 0 ? x : Math.expm1(x)), (x) => (x > 0 ? 1 : Math.exp(x))],
  tanh: [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  gelu: [(x) => x * normalMass(x), (x) => normalMass(x) + x * normalDensity(x)],
};

/** y = W x + c for n points x (n, inputs); W is (outputs, inputs). */
export function affine(layer, x, n) {
  if (n === 1) return onePoint(layer, x);
  const { inputs, outputs } = layer;
  const y = new Float32Array(n * outputs);
  const four = new Float64Array(4 * inputs);
  for (let start = 0; start < n; start += 4) {
    const count = Math.min(4, n - start);
    for (let s = 0; s < 4; s++) {
      const from = (start + Math.min(s, count - 1)) * inputs;
      for (let i = 0; i < inputs; i++) four[4 * i + s] = x[from + i];
    }
    fourPoints(layer, four, y.subarray(start * outputs, (start + count) * outputs));
  }
  return y;
}

// Eight sums at a time, of two outputs and four points: a processor adds to one sum only every few
// cycles, and each number that was read is used more than once.
function fourPoints({ weight, bias, inputs, outputs }, four, y) {
  const sums = new Float64Array(8);
  const count = y.length / outputs;
  for (let o = 0; o < outputs; o += 2) {
    const next = Math.min(o + 1, outputs - 1);
    let a = bias[o];
    let b = a;
    let c = a;
    let d = a;
    let e = bias[next];
    let f = e;
    let g = e;
    let h = e;
    for (let i = o * inputs, k = next * inputs, j = 0; j < 4 * inputs; i++, k++, j += 4) {
      const w = weight[i];
      const v = weight[k];
      a += w * four[j];
      b += w * four[j + 1];
      c += w * four[j + 2];
      d += w * four[j + 3];
      e += v * four[j];
      f += v * four[j + 1];
      g += v * four[j + 2];
      h += v * four[j + 3];
    }
    sums.set([a, b, c, d, e, f, g, h]);
    for (let s = 0; s < count; s++) {
      y[s * outputs + o] = sums[s];
      y[s * outputs + next] = sums[4 + s];
    }
  }
}

function onePoint({ weight, bias, inputs, outputs }, x) {
  const y = new Float32Array(outputs);
  const last = (outputs - 1) * inputs;
  for (let o = 0; o < outputs; o += 4) {
    const rows = [0, 1, 2, 3].map((r) => Math.min((o + r) * inputs, last));
    let [i, j, k, l] = rows;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let at = 0; at < inputs; at++) {
      a += weight[i++] * x[at];
      b += weight[j++] * x[at];
      c += weight[k++] * x[at];
      d += weight[l++] * x[at];
    }
    [a, b, c, d].forEach((sum, r) => {
      if (o + r < outputs) y[o + r] = sum + bias[o + r];
    });
  }
  return y;
}

/** Apply one layer to n points. */
export function applyLayer(layer, x, n) {
  if (layer.kind === "affine") return affine(layer, x, n);
  if (layer.kind === "glu") {
    const half = x.length / n / 2;
    const y = new Float32Array(n * half);
    for (let s = 0; s < n; s++) {
      for (let i = 0; i < half; i++) {
        y[s * half + i] = x[2 * s * half + i] * sigmoid(x[(2 * s + 1) * half + i]);
      }
    }
    return y;
  }
  return x.map(ACTIVATIONS[layer.kind][0]);
}

/** The gradient of a layer's input, given its input x and the gradient of its output. */
export function layerGradient(layer, x, gradient, n) {
  if (layer.kind === "affine") {
    const { weight, inputs, outputs } = layer;
    const found = new Float64Array(n * inputs);
    for (let s = 0; s < n; s++) {
      for (let o = 0; o < outputs; o++) {
        const g = gradient[s * outputs + o];
        if (g === 0) continue;
        for (let i = 0; i < inputs; i++) found[s * inputs + i] += g * weight[o * inputs + i];
      }
    }
    return found;
  }
  const found = new Float64Array(x.length);
  if (layer.kind === "glu") {
    const half = x.length / n / 2;
    for (let s = 0; s < n; s++) {
      for (let i = 0; i < half; i++) {
        const gate = sigmoid(x[(2 * s + 1) * half + i]);
        const g = gradient[s * half + i];
        found[2 * s * half + i] = g * gate;
        found[(2 * s + 1) * half + i] = g * x[2 * s * half + i] * gate * (1 - gate);
      }
    }
    return found;
  }
  const slope = ACTIVATIONS[layer.kind][1];
  for (let i = 0; i < x.length; i++) found[i] = gradient[i] * slope(x[i]);
  return found;
}

/** A source of draws of U(0, 1), the same for a seed (mulberry32). */
function uniformSource(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Draws of U(0, 1), the same for a seed. */
export function uniforms(count, seed) {
  return Float64Array.from({ length: count }, uniformSource(seed));
}

/** Draws of N(0, 1), the same for a seed (Box and Muller). */
export function normals(count, seed = 1) {
  const uniform = uniformSource(seed);
  const found = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    found[i] = radius * Math.cos(angle);
    if (i + 1 < count) found[i + 1] = radius * Math.sin(angle);
  }
  return found;
}
