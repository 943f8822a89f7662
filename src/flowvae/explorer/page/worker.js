// What is slow, beside the page: the truth, the ELBO and refinement. The latest question wins.

import { LiveModel, Posterior } from "./model.js";
import { logSumExp, normals } from "./numbers.js";
import { firstGaussian, refineStep } from "./refine.js";
import { Truth } from "./truth.js";

const DRAWS = 512; // of the bounds where D is not 2
const MOST_PLANES = 4; // that are kept, each up to 48 MB

/** Answer messages of a worker's scope; `spec` and `arrays` come in the first one. */
export function serve(scope) {
  let model;
  let box;
  let latest = 0;
  let wanted = ""; // the condition of the latest question
  const planes = new Map(); // by condition, what was decoded of the plane: the latest ones
  const channel = new MessageChannel();
  const waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  // A turn of the event loop without the four milliseconds of a timer: messages come in.
  const pause = () =>
    new Promise((resume) => {
      waiting.push(resume);
      channel.port2.postMessage(0);
    });
  const posterior = (q) => new Posterior(q.loc, q.logVar, q.flows, q.standardized);

  async function start({ spec, arrays }) {
    model = new LiveModel(spec, arrays);
    box = spec.box;
    if (model.D === 2 && spec.condition === null) await truthUnder(null);
    scope.postMessage({ kind: "ready" });
  }

  const keyOf = (y) => (y === null ? "" : y.join());

  /** The decoded plane under a condition; null where the latest question is of another one. */
  function truthUnder(y) {
    const key = keyOf(y);
    const kept = planes.get(key);
    planes.delete(key); // to be put in as the latest one
    planes.set(key, kept ?? decodePlane(y, key));
    for (const old of planes.keys()) {
      if (planes.size <= MOST_PLANES) break;
      planes.delete(old);
    }
    return planes.get(key);
  }

  async function decodePlane(y, key) {
    const built = new Truth(model.given(y), box, pause);
    const stale = () => key !== wanted;
    const done = await built.build((part) => {
      if (!stale()) scope.postMessage({ kind: "progress", part });
    }, stale);
    if (!done) planes.delete(key);
    return done ? built : null;
  }

  async function answer({ id, x, y, q }) {
    const stale = () => id !== latest;
    const send = (fields) => scope.postMessage({ kind: "answer", id, ...fields });
    const own = posterior(q);
    if (model.D !== 2) {
      const found = await bounds(model.given(y), x, own, stale);
      if (found !== null) send({ ...found, settled: true });
      return;
    }
    const truth = await truthUnder(y);
    if (truth === null || stale()) return;
    const found = await truth.evidence(x, stale, (level) => send({ truth: level }));
    if (found === null) return;
    send({ truth: found });
    const elbo = await truth.elbo(x, own, stale, (value) => send({ elbo: value }));
    if (elbo === null) return;
    const settled = found.settled && elbo.settled;
    send({ elbo: elbo.value, kl: found.logProb - elbo.value, settled });
  }

  async function bounds(under, x, q, stale) {
    const weights = [];
    for (let start = 0; start < DRAWS; start += 64) {
      await pause();
      if (stale()) return null;
      const { z, logQ } = q.atNoise(normals(64 * model.D, 1 + start));
      const joint = under.logJoint(x, z, 64);
      weights.push(...joint.map((value, s) => value - logQ[s]));
    }
    const elbo = weights.reduce((a, b) => a + b) / DRAWS;
    return { elbo, bound: logSumExp(weights) - Math.log(DRAWS), draws: DRAWS };
  }

  async function refine({ id, x, y, q, steps, pace }) {
    const stale = () => id !== latest;
    const truth = await truthUnder(y);
    if (truth === null || stale()) return;
    let refined = firstGaussian(truth, x, posterior(q));
    for (let step = 0; step <= steps; step++) {
      if (step > 0) refined = refineStep(truth.model, x, refined, step - 1, steps);
      const begun = Date.now();
      const elbo = await truth.elbo(x, refined, stale, undefined, step < steps);
      if (elbo === null) return;
      const { loc, lower } = refined;
      const settled = step === steps && elbo.settled;
      scope.postMessage({ kind: "refined", id, step, loc, lower, elbo: elbo.value, settled });
      // Each step is to be seen.
      while (step < steps && Date.now() - begun < pace) {
        await new Promise((resume) => setTimeout(resume, 20));
        if (stale()) return;
      }
    }
  }

  scope.onmessage = ({ data }) => {
    if (data.kind === "start") start(data);
    if (data.kind === "ask" || data.kind === "refine") {
      latest = data.id;
      wanted = keyOf(data.y);
      if (data.kind === "ask") answer(data);
      else refine(data);
    }
  };
}
