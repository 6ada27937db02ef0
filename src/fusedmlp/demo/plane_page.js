/*
 * The page of a model with two inputs: its outputs over the plane, and its training, live.
 */
import { $, colour, mixed, onTheme, paint } from "./canvas.js";
import { forward, lossAndGradients, probabilities, trainStep } from "./network.js";

const SIDE = 480; // the plane's canvas, in pixels
const CELL_PRODUCTS = 2e7; // products of all cells of the plane together, which bound a frame's time
const LONGEST_CURVE = 1000; // losses that are kept; every other one is dropped beyond
const N_COLOURS = 6; // the style sheet has --class-0 to --class-5

/** Return a copy of a network with other parameters. */
const withParameters = (network, { weights, biases }) => ({
  ...network,
  weights: weights.map((W) => W.slice()),
  biases: biases.map((b) => b.slice()),
});

/** Show a model: see payload.py for its parts. */
export function showPlanePage({ network: saved, classes, plane }) {
  const { x, y, columns, start } = plane, K = saved.sizes.at(-1), N = x.length / 2;
  const cost = saved.weights.reduce((sum, W) => sum + W.length, 0);
  const cells = Math.round(Math.min(120, Math.max(24, Math.sqrt(CELL_PRODUCTS / cost))));
  const [across, up] = [0, 1].map((axis) => rangeOf(x.filter((_, i) => i % 2 === axis)));
  const grid = new Float64Array(2 * cells * cells).map((_, i) => {
    const at = i >> 1, share = i % 2 ? 1 - Math.floor(at / cells) / (cells - 1) : (at % cells) / (cells - 1);
    const [low, high] = i % 2 ? up : across;
    return low + share * (high - low);
  });
  let network = withParameters(saved, saved), step = 0, losses = [], stride = 1, playing = 0;

  /** Return the range of values, with a margin. */
  function rangeOf(values) {
    const low = Math.min(...values), high = Math.max(...values), margin = 0.12 * (high - low) || 1;
    return [low - margin, high + margin];
  }

  /** Return [number of the class, probability] of a row of outputs or targets. */
  function classOf(row) {
    const found = probabilities(network, row), best = Math.max(...found);
    return [found.indexOf(best), (best - 1 / found.length) / (1 - 1 / found.length)];
  }

  /** Return a function that colours a row of outputs; targets have the full colour. */
  function rowColours() {
    const [paper, positive, negative] = ["paper", "positive", "negative"].map(colour);
    if (!classes) {
      const low = Math.min(...y), high = Math.max(...y);
      const share = (v) => Math.min(1, Math.max(0, (v - low) / (high - low || 1)));
      return (row) => mixed(negative, positive, share(row[0]));
    }
    const palette = Array.from({ length: N_COLOURS }, (_, k) => colour(`class-${k}`));
    return (row, isTarget) => {
      const [k, certainty] = classOf(row);
      return mixed(paper, palette[k % N_COLOURS], isTarget ? 1 : 0.1 + 0.5 * certainty);
    };
  }

  /** Draw the outputs over the plane, and the points. */
  function drawPlane() {
    const context = $("plane").getContext("2d"), coloured = rowColours();
    const outputs = forward(network, grid).a.at(-1), cell = document.createElement("canvas");
    const rows = Array.from({ length: cells * cells }, (_, i) => outputs.subarray(i * K, i * K + K));
    paint(cell, rows, cells, (row) => coloured(row, false));
    context.drawImage(cell, 0, 0, SIDE, SIDE);
    context.strokeStyle = `rgb(${colour("paper")})`;
    for (let n = 0; n < N; n++) {
      const target = y.subarray(n * K, n * K + K);
      const shape = classes ? classOf(target)[0] : 0;
      context.fillStyle = `rgb(${coloured(target, true)})`;
      context.beginPath();
      marker(context, shape, ...[across, up].map(([low, high], axis) => {
        const share = (x[2 * n + axis] - low) / (high - low);
        return SIDE * (axis ? 1 - share : share);
      }));
      context.fill();
      context.stroke();
    }
  }

  /** Add the outline of a point: a circle, or a polygon for other classes than the first. */
  function marker(context, shape, px, py) {
    if (shape % 4 === 0) return context.arc(px, py, 6, 0, 7);
    const corners = [4, 3, 5][(shape % 4) - 1];
    for (let i = 0; i < corners; i++) {
      const angle = 2 * Math.PI * ((i + 0.5) / corners) + Math.PI / 2;
      context.lineTo(px + 7 * Math.cos(angle), py + 7 * Math.sin(angle));
    }
    context.closePath();
  }

  /** Draw the losses of this training, on a logarithmic scale. */
  function drawCurve() {
    const logs = losses.map(Math.log), low = Math.min(...logs), range = Math.max(...logs) - low || 1;
    const points = logs.map((v, i) => [(300 * i) / (logs.length - 1 || 1), 95 - (90 * (v - low)) / range]);
    $("curve").setAttribute("points", points.join(" "));
    $("curve-text").textContent = losses.length > 1
      ? `Loss from ${losses[0].toPrecision(3)} at step 0 to ${losses.at(-1).toPrecision(3)}, logarithmic scale`
      : "Loss over the steps";
  }

  /** Show everything for the present parameters. */
  function update() {
    const pass = forward(network, x), { loss } = lossAndGradients(network, pass, y);
    const outputs = pass.a.at(-1);
    let right = 0;
    for (let at = 0; classes && at < y.length; at += K) {
      const [row, target] = [outputs, y].map((values) => values.subarray(at, at + K));
      right += classOf(row)[0] === classOf(target)[0];
    }
    $("step").textContent = step.toLocaleString("en");
    $("loss").textContent = loss.toPrecision(6);
    $("accuracy").textContent = classes ? `${((100 * right) / N).toFixed(1)} %` : "–";
    drawPlane();
    drawCurve();
  }

  /** Train for some steps; stop where the loss is no longer a number. */
  function train(steps) {
    const rate = 10 ** Number($("rate").value);
    for (let i = 0; i < steps; i++, step++) {
      const loss = trainStep(network, x, y, rate);
      if (!Number.isFinite(loss)) {
        play(false);
        $("message").textContent = "The loss is no longer finite: choose a smaller learning rate and start again.";
        break;
      }
      if (step % stride === 0) losses.push(loss);
      if (losses.length > LONGEST_CURVE) {
        losses = losses.filter((_, at) => at % 2 === 0);
        stride *= 2;
      }
    }
    update();
  }

  /** Start or stop the steps of each frame. */
  function play(isOn) {
    cancelAnimationFrame(playing);
    playing = 0;
    $("play").textContent = isOn ? "Pause" : "Play";
    if (isOn) {
      playing = requestAnimationFrame(function frame() {
        playing = requestAnimationFrame(frame);
        train(2 ** Number($("per-frame").value));
      });
    }
  }

  /** Begin again with other parameters. */
  function reset(parameters) {
    play(false);
    network = withParameters(network, parameters);
    [step, losses, stride] = [0, [], 1];
    $("message").textContent = "";
    update();
  }

  /** Show the values of the sliders beside them. */
  function showSettings() {
    $("rate-value").textContent = (10 ** Number($("rate").value)).toPrecision(2);
    $("per-frame-value").textContent = 2 ** Number($("per-frame").value);
  }

  $("axes").textContent = [across, up]
    .map((range, axis) => {
      const { name, center, scale } = columns[axis];
      const [low, high] = range.map((v) => (v * scale + center).toPrecision(3));
      return `${axis ? "Upwards" : "To the right"}: ${name}, from ${low} to ${high}`;
    })
    .join(". ");
  $("legend").append(
    ...(classes ?? []).map((name, k) => {
      const item = document.createElement("li");
      item.textContent = name;
      item.style.setProperty("--swatch", `var(--class-${k % N_COLOURS})`);
      return item;
    }),
  );
  $("rate").value = Math.log10(plane.rate);
  for (const id of ["rate", "per-frame"]) $(id).addEventListener("input", showSettings);
  $("play").addEventListener("click", () => play(!playing));
  $("single").addEventListener("click", () => {
    play(false);
    train(1);
  });
  $("start").addEventListener("click", () => reset(start));
  $("saved").addEventListener("click", () => reset(saved));
  showSettings();
  onTheme(update);
}
