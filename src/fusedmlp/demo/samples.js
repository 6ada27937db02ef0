/*
 * The ten digits as strokes, drawn for this page: points of a square of 0 to 20, y downwards.
 * They come from no data set.
 */

/** Return an arc about (x, y) from one angle to another, in turns; 0 is right, 0.25 is below. */
function arc(x, y, width, height, from, to) {
  return Array.from({ length: 25 }, (_, i) => {
    const angle = 2 * Math.PI * (from + ((to - from) * i) / 24);
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });
}

/** Strokes of each digit. */
export const SAMPLES = [
  [arc(10, 10, 6, 9, -0.25, 0.75)],
  [[[11, 1], [9, 19]]],
  [[...arc(9, 6, 6, 5, 0.5, 1.1), [4, 19], [16, 18]]],
  [[...arc(9, 6, 5, 5, 0.55, 1.2), ...arc(9, 14, 6, 5, -0.2, 0.45)]],
  [[[6, 1], [4, 10], [15, 9]], [[14, 2], [13, 19]]],
  [[[15, 2], [7, 2], [6, 9], ...arc(9, 13.5, 6, 5.5, -0.3, 0.42)]],
  [[[13, 1], [7, 7], ...arc(9.5, 13.5, 5, 5.5, -0.5, -1.5)]],
  [[[4, 3], [15, 2], [8, 19]]],
  [[...arc(10, 5.5, 4.5, 4.5, 0.25, 1.25), ...arc(10, 14.5, 5, 4.5, -0.25, 0.75)]],
  [[...arc(10, 6.5, 5, 5, 0, -1), [14, 19]]],
];
