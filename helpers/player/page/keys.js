// The keyboard and the gamepad: whose a key is, and which action is held down.

// Keys that would leave the player stay the browser's.
const isBrowserKey = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || event.code === "Tab" || /^F\d+$/.test(event.code);
const isTyped = (node) => node.matches("textarea, input:not([type=range]):not([type=checkbox])");
const isSteered = (node) => node.matches("select, input[type=range], .tw-strip");
const PRESSES = ["Space", "Enter"];
const STEERS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown", ...PRESSES];

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
//
// Whose is a key? A field's while somebody types in it. A control that was reached with Tab has the few keys that
// it needs. All others play, whatever was clicked last: `data-live`, the lit border, says when.
function listenToKeys(player) {
  const { root } = player;
  const down = new Set();
  let held = null;
  let tabbed = false; // Tab was pressed, and the focus has not arrived yet
  let reached = null; // the control that has the focus by Tab
  let capture = null; // who takes the next chord, instead of the world
  const focus = () => root.focus({ preventScroll: true });

  const holdKeys = () => {
    const action = actionOfKeys(player.state().keys ?? {}, [...down]);
    if (action !== held) { held = action; player.hold(action); }
  };
  const release = () => { down.clear(); holdKeys(); };
  const showLive = () => {
    const node = document.activeElement;
    root.dataset.live = root.contains(node) && !isTyped(node) && !(node === reached && isSteered(node));
  };
  const isOwn = (node, code) => isTyped(node) || (code === "Enter" && node.matches("button, summary")) ||
    (node === reached && node !== root && (isSteered(node) ? STEERS : PRESSES).includes(code));
  const leave = () => {
    const around = root.parentElement.closest("[tabindex]");
    if (around) around.focus({ preventScroll: true });
    else root.blur();
  };
  const onKey = (event) => {
    event.stopPropagation(); // JupyterLab must not take it for a command
    if (capture) return capture(event);
    const { target, code, type } = event;
    if (isBrowserKey(event)) return;
    if (code === "Escape") {
      if (type === "keydown") (target === root ? leave : focus)();
      return;
    }
    if (isOwn(target, code)) {
      if (code === "Enter" && isTyped(target) && !target.matches(".tw-field")) focus(); // takes what was typed
      return;
    }
    event.preventDefault();
    if (event.repeat) return;
    if (type === "keydown") down.add(code);
    else down.delete(code);
    holdKeys();
  };
  root.addEventListener("keydown", onKey);
  root.addEventListener("keyup", onKey);
  root.addEventListener("focusin", (event) => {
    reached = tabbed ? event.target : null;
    tabbed = false;
    if (isTyped(event.target)) release();
    showLive();
  });
  root.addEventListener("focusout", (event) => {
    if (!root.contains(event.relatedTarget)) release();
    setTimeout(showLive);
  });
  // What was used with the pointer leaves the keys to the world.
  root.addEventListener("click", (event) => {
    if (event.detail > 0 && event.target.closest("button, summary, input[type=checkbox], canvas")) focus();
  });
  root.addEventListener("change", ({ target }) => {
    if (!tabbed && target !== reached && !target.matches(".tw-field")) focus(); // ids are typed one after the other
  });
  const onTab = (event) => { tabbed = event.code === "Tab"; };
  const onPointer = () => { tabbed = false; };
  document.addEventListener("keydown", onTab, true);
  document.addEventListener("pointerdown", onPointer, true);

  // The next chord goes to `done`, which is called with its codes, or with null if it was none.
  const captureChord = (done) => {
    const codes = [];
    const end = (chord) => {
      capture = null;
      root.removeEventListener("focusout", cancel);
      document.removeEventListener("pointerdown", cancel, true);
      done(chord);
    };
    const cancel = () => end(null);
    release();
    focus();
    root.addEventListener("focusout", cancel);
    document.addEventListener("pointerdown", cancel, true);
    capture = (event) => {
      event.preventDefault();
      if (event.code === "Escape" || event.code === "Tab") cancel();
      else if (event.type === "keydown" && !codes.includes(event.code)) codes.push(event.code);
      else if (event.type === "keyup" && codes.length) end(codes.join("+"));
    };
  };

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
    document.removeEventListener("keydown", onTab, true);
    document.removeEventListener("pointerdown", onPointer, true);
    window.removeEventListener("gamepadconnected", onGamepad);
    cancelAnimationFrame(polling);
  };
  return { release, captureChord, focus, stop };
}
