/*
 * Strokes of a pen to the pixels that a network was trained on. It knows no network.
 *
 * The digits of MNIST were scaled to fit a box of 20 × 20 pixels, with grey levels at their edges,
 * and moved so that their centre of mass is the centre of 28 × 28 pixels (LeCun et al., 1998).
 * The same is done here with lines of a constant width, so that the size and the place of a
 * drawing do not matter.
 */

/** Return the distance of the point (x, y) from the segment between two points. */
function distance(x, y, [x0, y0], [x1, y1]) {
  const dx = x1 - x0, dy = y1 - y0, square = dx * dx + dy * dy;
  const along = square ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / square)) : 0;
  return Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
}

/** Return the ink (side · side,) from 0 to 1 of strokes in pixels; edges are anti-aliased. */
function inked(strokes, side, pen) {
  const pixels = new Float64Array(side * side);
  for (const stroke of strokes)
    for (let i = 0; i < stroke.length; i++) {
      const [from, to] = [stroke[Math.max(i - 1, 0)], stroke[i]];
      for (let at = 0; at < pixels.length; at++) {
        const away = distance((at % side) + 0.5, Math.floor(at / side) + 0.5, from, to);
        pixels[at] = Math.max(pixels[at], Math.min(1, Math.max(0, pen / 2 + 0.5 - away)));
      }
    }
  return pixels;
}

/** Return strokes with each point scaled about one point and moved to another. */
const placed = (strokes, scale, [x0, y0], [x1, y1]) =>
  strokes.map((stroke) => stroke.map(([x, y]) => [(x - x0) * scale + x1, (y - y0) * scale + y1]));

/**
 * Return the pixels (side · side,) of a drawing, whole 255ths from 0 to 1.
 *
 * strokes: lists of points [x, y] in any unit. image: {side, box: [width, height], pen, by_mass};
 * box and pen are in pixels, by_mass says whether the centre of mass is centred, or the box.
 */
export function rasterised(strokes, { side, box, pen, by_mass }) {
  const points = strokes.flat();
  if (!points.length) return new Float64Array(side * side);
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, top, bottom] = [xs, ys].flatMap((v) => [Math.min(...v), Math.max(...v)]);
  const fit = Math.min((box[0] - pen) / (right - left), (box[1] - pen) / (bottom - top));
  const scale = Number.isFinite(fit) ? fit : 1; // a dot
  const centre = [side / 2, side / 2];
  let moved = placed(strokes, scale, [(left + right) / 2, (top + bottom) / 2], centre);
  let pixels = inked(moved, side, pen);
  if (by_mass) {
    const mass = [0, 0, 0];
    pixels.forEach((ink, at) => {
      mass[0] += ink * ((at % side) + 0.5);
      mass[1] += ink * (Math.floor(at / side) + 0.5);
      mass[2] += ink;
    });
    // In MNIST it is pixel side / 2, counted from 0, whose middle lies half a pixel further.
    moved = placed(moved, 1, [mass[0] / mass[2], mass[1] / mass[2]], centre.map((c) => c + 0.5));
    pixels = inked(moved, side, pen);
  }
  return pixels.map((ink) => Math.round(255 * ink) / 255);
}
