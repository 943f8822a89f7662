// What is slow, beside the page: the truth, the ELBO and refinement. The latest question wins.

import { LiveModel, Posterior } from "./model.js";
import { logSumExp, normals } from "./numbers.js";
import { firstGaussian, refineStep } from "./refine.js";
import { Truth } from "./truth.js";

const DRAWS = 512; // of the bounds where D is not 2

/** Answer messages of a worker's scope; `spec` and `arrays` come in the first one. */
export function serve(scope) {
  let model;
  let truth = null;
  let latest = 0;
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
    if (model.D === 2) {
      const built = new Truth(model, spec.box, pause);
      await built.build((part) => scope.postMessage({ kind: "progress", part }));
      truth = built;
    }
    scope.postMessage({ kind: "ready" });
  }

  async function answer({ id, x, q }) {
    const stale = () => id !== latest;
    const send = (fields) => scope.postMessage({ kind: "answer", id, ...fields });
    const own = posterior(q);
    if (model.D !== 2) {
      const found = await bounds(x, own, stale);
      if (found !== null) send({ ...found, settled: true });
      return;
    }
    if (truth === null) return; // the page asks again when the grid is there
    const found = await truth.evidence(x, stale, (level) => send({ truth: level }));
    if (found === null) return;
    send({ truth: found });
    const elbo = await truth.elbo(x, own, stale, (value) => send({ elbo: value }));
    if (elbo === null) return;
    const settled = found.settled && elbo.settled;
    send({ elbo: elbo.value, kl: found.logProb - elbo.value, settled });
  }

  async function bounds(x, q, stale) {
    const weights = [];
    for (let start = 0; start < DRAWS; start += 64) {
      await pause();
      if (stale()) return null;
      const { z, logQ } = q.atNoise(normals(64 * model.D, 1 + start));
      const joint = model.logJoint(x, z, 64);
      weights.push(...joint.map((value, s) => value - logQ[s]));
    }
    const elbo = weights.reduce((a, b) => a + b) / DRAWS;
    return { elbo, bound: logSumExp(weights) - Math.log(DRAWS), draws: DRAWS };
  }

  async function refine({ id, x, q, steps, pace }) {
    const stale = () => id !== latest;
    let refined = firstGaussian(truth, x, posterior(q));
    for (let step = 0; step <= steps; step++) {
      if (step > 0) refined = refineStep(model, x, refined, step - 1, steps);
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
      if (data.kind === "ask") answer(data);
      else refine(data);
    }
  };
}
