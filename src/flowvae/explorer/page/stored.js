// A model that is not computed in the page: what it says of some test data was stored.

import { datum } from "./model.js";

/** What is only looked at: bytes of an image stand for its range of values. */
function shown(array, index, P, { low, high }) {
  const values = datum(array, index, P);
  return array instanceof Uint8Array ? values.map((v) => low + (high - low) * v) : values;
}

export class StoredModel {
  constructor(spec, arrays) {
    const { stored } = spec;
    this.D = spec.latent_dim;
    this.P = spec.data_dim;
    this.stored = stored;
    this.directions = spec.directions;
    this.shown = (array, index) => shown(arrays[array], index, this.P, spec.shape);
    this.arrays = arrays;
    this.layers = stored.layers;
    this.part = (name, index) => {
      const { array, shape } = stored[name];
      const size = shape.reduce((a, b) => a * b, 1);
      return arrays[array].subarray(index * size, (index + 1) * size);
    };
  }

  has(name) {
    return this.stored[name] !== undefined;
  }

  numbers(index) {
    return this.stored.numbers[index];
  }

  /** z (M, M, 2) and log q of the mesh after the layer of that place in `layers`. */
  mesh(index, place) {
    const M2 = this.stored.mesh_side ** 2;
    const z = this.part("mesh_z", index);
    const logQ = this.part("mesh_log_q", index);
    return {
      z: z.subarray(place * M2 * 2, (place + 1) * M2 * 2),
      logQ: logQ.subarray(place * M2, (place + 1) * M2),
    };
  }

  /** Draws of q (S, D). */
  draws(index) {
    return this.part("draws", index);
  }

  /** log p(z|x) or log q refined, relative to its peak, on the window of the truth. */
  picture(name, index) {
    const [left, bottom, right, top] = this.part("window", index);
    const side = this.stored.truth_side;
    return {
      low: [left, bottom], high: [right, top], shape: [side, side],
      values: this.part(name, index),
    };
  }

  /** E[x|z] at a datum's mean; of classes under the one of that number. */
  reconstruction(index, code) {
    return this.shown(this.stored.reconstructions.array, index * this.stored.classes + code);
  }

  /** E[x|z] of n points where D = 2: that of the nearest point of a grid, under a class. */
  decode(z, code) {
    const { array, side, low, high } = this.stored.decoded;
    const n = z.length / 2;
    const found = new Float32Array(n * this.P);
    for (let s = 0; s < n; s++) {
      const cell = [0, 1].map((i) => {
        const place = Math.floor(((z[2 * s + i] - low[i]) / (high[i] - low[i])) * side);
        return Math.max(0, Math.min(side - 1, place));
      });
      found.set(this.shown(array, (code * side + cell[0]) * side + cell[1]), s * this.P);
    }
    return found;
  }

  /** Images along stored directions from a datum's mean: {names, steps, values}. */
  traversals(index) {
    const { array, names } = this.stored.traversals;
    const { steps } = this.directions;
    const each = names.length * steps.length;
    const values = [];
    for (let i = 0; i < each; i++) values.push(this.shown(array, index * each + i));
    return { names, steps, values };
  }

  priorSamples(code) {
    const { array, count } = this.stored.prior;
    return Array.from({ length: count }, (_, i) => this.shown(array, code * count + i));
  }
}
