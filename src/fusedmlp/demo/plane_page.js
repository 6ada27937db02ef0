/*
 * The page of a model with two inputs: its outputs over the plane, and its training, live.
 */
import { $, colour, mixed, onTheme, paint } from "./canvas.js";
import { forward, lossAndGradients, probabilities, trainStep } from "./network.js";

const SIDE = 480; // the plane's canvas, in pixels
const CELL_PRODUCTS = 2e7; // products for all cells of the plane, which bound the time of a frame
const LONGEST_CURVE = 600; // points of the curve of losses
const MARKS = "●■▲◆"; // of the classes, which differ in colour too
const N_COLOURS = 6; // the style sheet has --class-0 to --class-5

/** Show a model: see payload.py for its parts. */
export function showPlanePage({ network: saved, classes, plane }) {
  const { x, y, columns, start } = plane, K = saved.sizes.at(-1), N = x.length / 2;
  const cost = saved.weights.reduce((sum, W) => sum + W.length, 0);
  const cells = Math.round(Math.min(80, Math.max(24, Math.sqrt(CELL_PRODUCTS / cost))));
  const [across, up] = [0, 1].map((axis) => rangeOf(x.filter((_, i) => i % 2 === axis)));
  const grid = new Float64Array(2 * cells * cells).map((_, i) => {
    const [column, row] = [(i >> 1) % cells, Math.floor((i >> 1) / cells)];
    const [low, high] = i % 2 ? up : across;
    const share = ((i % 2 ? cells - 1 - row : column) + 0.5) / cells;
    return low + share * (high - low);
  });
  let network = structuredClone(saved), losses = [], playing = 0; // one loss for each step

  /** Return row n of outputs or targets (N, K). */
  const rowOf = (values, n) => values.subarray(n * K, n * K + K);

  /** Return the range of values, with a margin. */
  function rangeOf(values) {
    const low = Math.min(...values), high = Math.max(...values), margin = 0.12 * (high - low) || 1;
    return [low - margin, high + margin];
  }

  /** Return the class of a row of outputs or targets, and how certain it is, from 0 to 1. */
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
    const outputs = forward(network, grid).a.at(-1), small = document.createElement("canvas");
    const rows = Array.from({ length: cells * cells }, (_, i) => rowOf(outputs, i));
    paint(small, rows, cells, (row) => coloured(row, false));
    context.drawImage(small, 0, 0, SIDE, SIDE);
    const style = { font: "18px sans-serif", textAlign: "center", textBaseline: "middle" };
    Object.assign(context, style, { lineWidth: 3 });
    context.strokeStyle = `rgb(${colour("paper")})`;
    for (let n = 0; n < N; n++) {
      const target = rowOf(y, n), mark = MARKS[(classes ? classOf(target)[0] : 0) % MARKS.length];
      const [right, above] = [across, up].map(
        ([low, high], axis) => (x[2 * n + axis] - low) / (high - low),
      );
      context.fillStyle = `rgb(${coloured(target, true)})`;
      context.strokeText(mark, SIDE * right, SIDE * (1 - above));
      context.fillText(mark, SIDE * right, SIDE * (1 - above));
    }
  }

  /** Draw the losses of this training, on a logarithmic scale. */
  function drawCurve() {
    const every = Math.ceil(losses.length / LONGEST_CURVE);
    const logs = losses.filter((_, i) => i % every === 0).map(Math.log);
    const low = Math.min(...logs), range = Math.max(...logs) - low || 1, last = logs.length - 1 || 1;
    const points = logs.map((v, i) => [(300 * i) / last, 95 - (90 * (v - low)) / range]);
    const [from, to] = [losses[0], losses.at(-1)].map((loss) => loss?.toPrecision(3));
    $("curve").setAttribute("points", points.join(" "));
    $("curve-text").textContent = losses.length
      ? `Loss from ${from} to ${to}, on a logarithmic scale`
      : "Loss over the steps";
  }

  /** Show everything for the present parameters. */
  function update() {
    const pass = forward(network, x), { loss } = lossAndGradients(network, pass, y);
    let right = 0;
    for (let n = 0; classes && n < N; n++)
      right += classOf(rowOf(pass.a.at(-1), n))[0] === classOf(rowOf(y, n))[0];
    $("step").textContent = losses.length.toLocaleString("en");
    $("loss").textContent = loss.toPrecision(6);
    $("accuracy").textContent = classes ? `${((100 * right) / N).toFixed(1)} %` : "–";
    drawPlane();
    drawCurve();
  }

  /** Train for some steps; stop where the loss is no longer a number. */
  function train(steps) {
    const rate = 10 ** Number($("rate").value);
    for (let i = 0; i < steps; i++) {
      const loss = trainStep(network, x, y, rate);
      if (!Number.isFinite(loss)) {
        play(false);
        $("message").textContent = "The loss is not finite: lower the rate and start again.";
        break;
      }
      losses.push(loss);
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
    network = { ...saved, ...structuredClone(parameters) };
    losses = [];
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
      item.dataset.mark = MARKS[k % MARKS.length];
      item.style.setProperty("--swatch", `var(--class-${k % N_COLOURS})`);
      return item;
    }),
  );
  $("rows").textContent = N.toLocaleString("en");
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
