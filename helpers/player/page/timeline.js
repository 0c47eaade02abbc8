// Where play stands: the slider and the strip of the last frames. Both go back, by pointer and by arrow keys.

const STRIP = 12;

function makeTimeline({ world, root, say }) {
  const slider = element("input", {
    class: "tw-timeline", type: "range", min: 0, max: 0, step: world.horizon, value: 0, "aria-label": "timeline",
    title: "drag back, then play on from there: that opens a branch",
  });
  const count = element("span", { class: "tw-count" });
  const strip = element("div", {
    class: "tw-strip", role: "slider", tabindex: 0, "aria-label": "last frames", "aria-valuemin": 0,
    "aria-valuemax": 0, "aria-valuenow": 0, title: "click a frame to go back to it, and play on from there",
  });
  let generated = 0;

  let rewindAt = 0;
  let rewindTimer = 0;
  const rewind = (to) => {
    // A dragged finger moves faster than the kernel can follow; where it stops is always sent.
    clearTimeout(rewindTimer);
    const wait = Math.max(0, rewindAt + 60 - performance.now());
    rewindTimer = setTimeout(() => { rewindAt = performance.now(); say("rewind", { to }); }, wait);
  };
  slider.addEventListener("input", () => rewind(Number(slider.value)));
  const figureAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest("figure");
  let dragged = null;
  const drag = (event) => {
    const figure = figureAt(event);
    if (!figure || !strip.contains(figure) || figure === dragged) return;
    dragged = figure;
    if (Number(figure.dataset.frame) >= 0) rewind(Number(figure.dataset.frame));
  };
  strip.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    root.focus({ preventScroll: true });
    dragged = null;
    drag(event);
  });
  strip.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  strip.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -STRIP, PageUp: STRIP };
    const to = { Home: 0, End: Number(slider.max) }[event.code] ?? generated + (by[event.code] ?? 0) * world.horizon;
    // Only for who came with Tab are these keys the strip's: keys.js asks the same.
    if (to !== generated && root.dataset.live !== "true") rewind(Math.max(0, Math.min(to, Number(slider.max))));
  });

  const thumb = (buffer, action, frame) => {
    const text = frame <= 0 && action == null ? "given" : action == null ? "–" : String(action);
    return element("figure", { "data-frame": frame, title: `frame ${frame}` },
      pictureOf(buffer, world.size), element("figcaption", {}, text));
  };
  const stand = (frame) => {
    generated = frame;
    root.dataset.generated = frame;
    tell(count, `frame ${frame}`);
    if (!slider.matches(":active")) {
      slider.max = Math.max(Number(slider.max), frame);
      slider.value = frame;
    }
    strip.setAttribute("aria-valuemax", slider.max);
    strip.setAttribute("aria-valuenow", frame);
  };

  // The frames of a step that was taken.
  const add = (buffers, action, frame) => {
    buffers.forEach((buffer, i) => strip.append(thumb(buffer, action, frame - buffers.length + 1 + i)));
    while (strip.children.length > STRIP) strip.firstChild.remove();
    stand(frame);
  };
  // The last frames, after a jump.
  const show = (buffers, actions, frame) => {
    const first = frame - buffers.length + 1;
    strip.replaceChildren(...buffers.map((buffer, i) => thumb(buffer, actions[i], first + i)));
    stand(frame);
  };
  const update = (now) => { slider.max = now.tip; };
  const stop = () => clearTimeout(rewindTimer);
  return { line: element("div", { class: "tw-time" }, slider, count), strip, add, show, update, stop };
}
