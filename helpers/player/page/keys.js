// The keyboard and the gamepad: which action is held down.

// Keys that would leave the player stay the browser's.
const isBrowserKey = (event) => event.ctrlKey || event.metaKey || event.altKey || event.code === "Tab";
const isField = (target) => ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName);

const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "␣" };
const keyName = (chord) =>
  chord.split("+").map((code) => KEY_NAMES[code] ?? code.replace(/^(Key|Digit|Numpad)/, "")).join("+");

// A gamepad's buttons, numbered as browsers do, and the keys that they stand for; axes 0 and 1 are the left stick.
const PAD_KEYS = { 0: "Space", 1: "KeyE", 2: "KeyC", 12: "ArrowUp", 13: "ArrowDown", 14: "ArrowLeft", 15: "ArrowRight" };
const STICK_KEYS = [["ArrowLeft", "ArrowRight"], ["ArrowUp", "ArrowDown"]];

function gamepads() {
  try {
    return [...navigator.getGamepads()].filter(Boolean);
  } catch {
    return []; // not on a page without https or localhost, nor in every frame
  }
}

function padKeys(pad) {
  const keys = Object.entries(PAD_KEYS).filter(([number]) => pad.buttons[number]?.pressed).map(([, key]) => key);
  STICK_KEYS.forEach((ways, axis) => { if (Math.abs(pad.axes[axis]) > 0.5) keys.push(ways[Number(pad.axes[axis] > 0)]); });
  return keys;
}

// The action that the pressed codes mean, in the order in which they were pressed; null for none. The longest
// chord counts, and of those that are equally long the latest.
function actionOfKeys(keys, order) {
  let best = null;
  let length = 0;
  let latest = -1;
  for (const [action, chords] of Object.entries(keys)) {
    for (const chord of chords) {
      const codes = chord.split("+");
      const pressed = codes.map((code) => order.indexOf(code));
      const newest = Math.max(...pressed);
      if (pressed.includes(-1) || codes.length < length || (codes.length === length && newest < latest)) continue;
      [best, length, latest] = [Number(action), codes.length, newest];
    }
  }
  return best;
}

// Calls player.hold with the action of the keys that are down whenever it changes.
function listenToKeys(player) {
  const { root } = player;
  const down = new Set();
  let held = null;
  const holdKeys = () => {
    const action = actionOfKeys(player.state().keys ?? {}, [...down]);
    if (action !== held) { held = action; player.hold(action); }
  };
  const release = () => { down.clear(); holdKeys(); };
  const onKey = (event) => {
    event.stopPropagation(); // JupyterLab must not take it for a command
    if (isField(event.target) || isBrowserKey(event)) return;
    if (event.code === "Enter" && event.target.closest("button, summary")) return; // presses it
    event.preventDefault();
    if (event.repeat) return;
    if (event.type === "keydown") down.add(event.code);
    else down.delete(event.code);
    holdKeys();
  };
  root.addEventListener("keydown", onKey);
  root.addEventListener("keyup", onKey);
  root.addEventListener("focusout", (event) => { if (!root.contains(event.relatedTarget)) release(); });

  let padDown = new Set();
  let polling = 0;
  const poll = () => {
    const found = gamepads();
    // Like the keyboard it is that of the player which was clicked.
    const now = new Set(root.matches(":focus-within") ? found.flatMap(padKeys) : []);
    for (const code of padDown) if (!now.has(code)) down.delete(code);
    for (const code of now) if (!padDown.has(code)) down.add(code);
    padDown = now;
    holdKeys();
    polling = found.length ? requestAnimationFrame(poll) : 0;
  };
  const onGamepad = () => { if (!polling) poll(); };
  window.addEventListener("gamepadconnected", onGamepad);
  onGamepad(); // one that the page knows already

  const stop = () => {
    window.removeEventListener("gamepadconnected", onGamepad);
    cancelAnimationFrame(polling);
  };
  return { release, stop };
}
