/*
 * Colours of the page's theme, numbers as pixels of a canvas, and handles on the page's elements.
 */

/** Return the element with an id. */
export const $ = (id) => document.getElementById(id);

/** Return a colour variable of the style sheet, such as "ink", as [red, green, blue]. */
export function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

/** Return the colour at a share t, from 0 to 1, of the way between two colours. */
export const mixed = (from, to, t) => from.map((value, i) => value + (to[i] - value) * t);

/** Return a function that colours the values: 0 as the paper, the largest as its sign. */
export function signColours(values) {
  const [paper, positive, negative] = ["paper", "positive", "negative"].map(colour);
  const largest = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0) || 1;
  return (v) => mixed(paper, v > 0 ? positive : negative, Math.abs(v) / largest);
}

/** Paint values in rows of the given width, a pixel for each; the style sheet sets the size. */
export function paint(canvas, values, width, coloured) {
  canvas.width = width;
  canvas.height = Math.ceil(values.length / width);
  const image = new ImageData(canvas.width, canvas.height);
  values.forEach((value, i) => image.data.set([...coloured(value, i), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Call a function now, and again whenever the reader's theme changes. */
export function onTheme(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
