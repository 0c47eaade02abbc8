// Makes what is on the page: elements, and pictures of raw RGB.

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function draw(canvas, buffer, size) {
  const rgb = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, size * size * 3);
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0, j = 0; i < pixels.length; i += 1, j += 3) {
    pixels[i] = 0xff000000 | (rgb[j + 2] << 16) | (rgb[j + 1] << 8) | rgb[j]; // little-endian RGBA
  }
  context.putImageData(image, 0, 0);
}

function pictureOf(buffer, size) {
  const canvas = element("canvas", { width: size, height: size });
  draw(canvas, buffer, size);
  return canvas;
}

const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const keyName = (code) => KEY_NAMES[code] ?? code.replace(/^(Key|Digit)/, "").replace(/^Numpad/, "Num ");

// A chord as keycaps: "ArrowRight+Space" is two of them.
const keycaps = (chord) => element("span", { class: "tw-chord" },
  ...chord.split("+").map((code) => element("kbd", {}, keyName(code))));

// Shows a text or nothing, and says whether it is new: screen readers read what is set, even if it is the same.
function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
