/*
 * The page of a model of images: a canvas to draw on, and what the network makes of the drawing.
 */
import { $, colour, mixed, onTheme, paint, signColours } from "./canvas.js";
import { contributions, forward, probabilities } from "./network.js";
import { SAMPLES } from "./samples.js";
import { rasterised } from "./strokes.js";

const SHOWN_UNITS = 8; // pictures of first-layer weights
const FIELD = 280; // the canvas's own coordinates
const KEY_STEP = 10; // how far an arrow key moves the pen, in these coordinates
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Show a model: see payload.py for its parts. */
export function showImagePage({ network, classes: names, image }) {
  const { side } = image, field = $("field");
  let strokes = [], isDown = false, keyPen = null; // keyPen: place of the keyboard's pen

  /** Draw the strokes as they are, and the keyboard's pen. */
  function drawField() {
    const context = field.getContext("2d");
    context.clearRect(0, 0, FIELD, FIELD);
    Object.assign(context, { lineWidth: 20, lineCap: "round", lineJoin: "round" });
    context.strokeStyle = `rgb(${colour("ink")})`;
    for (const stroke of strokes) {
      context.beginPath();
      for (const [x, y] of [...stroke, stroke.at(-1)]) context.lineTo(x, y);
      context.stroke();
    }
    if (keyPen) {
      context.fillStyle = `rgb(${colour("negative")})`;
      context.fillRect(keyPen[0] - 4, keyPen[1] - 4, 8, 8);
    }
  }

  /** Compute and show everything for the strokes. */
  function update() {
    drawField();
    const x = rasterised(strokes, image), pass = forward(network, x);
    const found = probabilities(network, pass.a.at(-1)), winner = found.indexOf(Math.max(...found));
    const [paper, ink] = [colour("paper"), colour("ink")];
    paint($("input"), x, side, (value) => mixed(paper, ink, value));
    $("results").hidden = !strokes.length;
    $("answer").textContent = strokes.length
      ? `${names[winner]}, with ${(100 * found[winner]).toFixed(1)} %`
      : "Draw on the field.";
    showBars(found, winner);
    if (strokes.length) showInside(pass, winner);
  }

  /** Show a bar for each class. */
  function showBars(found, winner) {
    $("bars").replaceChildren(
      ...found.map((p, k) => {
        const row = $("bar").content.cloneNode(true).firstElementChild;
        const value = strokes.length ? p : 0, meter = row.querySelector("[role=meter]");
        row.classList.toggle("winner", strokes.length > 0 && k === winner);
        row.firstElementChild.textContent = names[k];
        row.lastElementChild.textContent = `${(100 * value).toFixed(1)} %`;
        meter.ariaLabel = `Probability of ${names[k]}`;
        meter.ariaValueNow = value;
        meter.firstElementChild.style.width = `${100 * value}%`;
        return row;
      }),
    );
  }

  /** Show the hidden units, and the weights that decided for a class. */
  function showInside(pass, winner) {
    const hidden = pass.a.slice(1, -1);
    $("hidden").replaceChildren(
      ...hidden.map((units, layer) => {
        const active = units.filter((a) => a > (network.hidden === "sigmoid" ? 0.5 : 0)).length;
        const text = `Layer ${layer + 1}: ${active} of ${units.length} units are active`;
        const width = Math.ceil(Math.sqrt(2 * units.length));
        return picture(units, width, signColours(units), text, "units");
      }),
    );
    $("layers").hidden = $("strongest").hidden = !hidden.length;
    const [pixels, units] = contributions(network, pass, winner);
    paint($("pixels"), pixels, side, signColours(pixels));
    document.querySelectorAll(".winning").forEach((each) => (each.textContent = names[winner]));
    if (hidden.length) showUnits(units, hidden[0]);
  }

  /** Show the first-layer weights of the units that contributed most. */
  function showUnits(units, activations) {
    const W = network.weights[0], H = units.length;
    const order = [...units.keys()].sort((i, j) => Math.abs(units[j]) - Math.abs(units[i]));
    $("units").replaceChildren(
      ...order.slice(0, SHOWN_UNITS).map((h) => {
        const weights = Float64Array.from({ length: side * side }, (_, d) => W[d * H + h]);
        const signed = `${units[h] < 0 ? "−" : "+"}${Math.abs(units[h]).toFixed(2)}`;
        const text = `Unit ${h}, active at ${activations[h].toFixed(2)}: ${signed}`;
        return picture(weights, side, signColours(weights), text, "weights");
      }),
    );
  }

  /** Return a figure with a painted canvas and its caption. */
  function picture(values, width, coloured, text, kind) {
    const figure = $("picture").content.cloneNode(true).firstElementChild;
    const canvas = figure.querySelector("canvas");
    paint(canvas, values, width, coloured);
    canvas.className = kind;
    canvas.ariaLabel = figure.querySelector("figcaption").textContent = text;
    return figure;
  }

  /** Return the place of a pointer in the field's coordinates. */
  function placeOf({ clientX, clientY }) {
    const { left, top, width } = field.getBoundingClientRect();
    return [clientX - left, clientY - top].map((pixels) => (pixels * FIELD) / width);
  }

  field.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    field.setPointerCapture(event.pointerId);
    [keyPen, isDown] = [null, true];
    strokes.push([placeOf(event)]);
    update();
  });
  field.addEventListener("pointermove", (event) => {
    if (!isDown || keyPen) return;
    strokes.at(-1).push(placeOf(event));
    update();
  });
  field.onpointerup = field.onpointercancel = () => (isDown = false);
  field.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== " ") return;
    event.preventDefault();
    keyPen ??= [FIELD / 2, FIELD / 4];
    if (arrow) keyPen = keyPen.map((c, i) => Math.min(FIELD, Math.max(0, c + KEY_STEP * arrow[i])));
    else if ((isDown = !isDown)) strokes.push([]);
    if (isDown) strokes.at(-1).push(keyPen);
    update();
  });
  $("clear").addEventListener("click", () => {
    [strokes, isDown, keyPen] = [[], false, null];
    update();
  });
  const isOfDigits = SAMPLES.every((_, digit) => names[digit] === String(digit));
  $("samples").append(
    ...(isOfDigits ? SAMPLES : []).map((sample, digit) => {
      const button = document.createElement("button");
      button.textContent = digit;
      button.ariaLabel = `Sample: the digit ${digit}`;
      button.addEventListener("click", () => {
        strokes = sample.map((stroke) => stroke.map((point) => point.map((c) => 40 + 10 * c)));
        isDown = false;
        update();
      });
      return button;
    }),
  );
  onTheme(update);
}
