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

/** y = W x + c for n points x (n, inputs); W is (outputs, inputs). Four points share each weight. */
export function affine({ weight, bias, inputs, outputs }, x, n) {
  const y = new Float32Array(n * outputs);
  const four = new Float64Array(4 * inputs);
  for (let start = 0; start < n; start += 4) {
    const count = Math.min(4, n - start);
    for (let s = 0; s < 4; s++) {
      const from = (start + Math.min(s, count - 1)) * inputs;
      for (let i = 0; i < inputs; i++) four[4 * i + s] = x[from + i];
    }
    for (let o = 0; o < outputs; o++) {
      const row = o * inputs;
      let a = bias[o];
      let b = a;
      let c = a;
      let d = a;
      for (let i = 0, j = 0; i < inputs; i++, j += 4) {
        const w = weight[row + i];
        a += w * four[j];
        b += w * four[j + 1];
        c += w * four[j + 2];
        d += w * four[j + 3];
      }
      y[start * outputs + o] = a;
      if (count > 1) y[(start + 1) * outputs + o] = b;
      if (count > 2) y[(start + 2) * outputs + o] = c;
      if (count > 3) y[(start + 3) * outputs + o] = d;
    }
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

/** Draws of N(0, 1), the same for a seed (mulberry32, Box and Muller). */
export function normals(count, seed = 1) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const found = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    found[i] = radius * Math.cos(angle);
    if (i + 1 < count) found[i + 1] = radius * Math.sin(angle);
  }
  return found;
}
