// Returns the texts of a page whose contrast with what lies behind them is too low: [ratio, colour, background, text].
function parse(colour) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
const known = new Map();
function rgba(colour) {
  if (!known.has(colour)) known.set(colour, parse(colour));
  return known.get(colour);
}
function over(top, bottom) {
  return [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
}
function behind(element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
}
function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function opacity(element) {
  let product = 1;
  for (let at = element; at; at = at.parentElement) product *= Number(getComputedStyle(at).opacity);
  return product;
}
const low = [];
let looked = 0;
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join(" ").trim();
  if (!text || !element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
  if (element.closest("svg, script, style, .visually-hidden, .skip-link, #pst-skip-link, .headerlink, option, .copybtn")) continue;
  const style = getComputedStyle(element);
  const ground = behind(element);
  const ink = rgba(style.color);
  const seen = over([...ink.slice(0, 3), ink[3] * opacity(element)], ground);
  const [light, dark] = [luminance(seen), luminance(ground)].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  looked += 1;
  if (ratio < (large ? 3 : 4.5)) low.push([ratio.toFixed(2), style.color, ground.join(","), element.className + ": " + text.slice(0, 60)]);
}
return [looked, low];
