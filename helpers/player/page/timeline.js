// Where play stands: the slider, the branches and the strip of the last frames.

const STRIP = 12;

function makeTimeline({ world, root, say }) {
  const slider = element("input", {
    class: "tw-timeline", type: "range", min: 0, max: 0, step: world.horizon, value: 0,
    title: "drag back, then play on from there: that opens a branch",
  });
  const count = element("span", { class: "tw-count" });
  const branches = element("select", { class: "tw-branches", title: "branches of this play" });
  const strip = element("div", { class: "tw-strip" });

  let rewindAt = 0;
  let rewindTimer = 0;
  const rewind = (to) => {
    // A dragged finger moves faster than the kernel can follow; where it stops is always sent.
    clearTimeout(rewindTimer);
    const wait = Math.max(0, rewindAt + 60 - performance.now());
    rewindTimer = setTimeout(() => { rewindAt = performance.now(); say("rewind", { to }); }, wait);
  };
  slider.addEventListener("input", () => rewind(Number(slider.value)));
  branches.addEventListener("change", () => say("select", { branch: Number(branches.value) }));
  const figureAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest("figure");
  let dragged = null;
  const drag = (event) => {
    const figure = figureAt(event);
    if (!figure || !strip.contains(figure) || figure === dragged) return;
    dragged = figure;
    if (Number(figure.dataset.frame) >= 0) rewind(Number(figure.dataset.frame));
  };
  strip.addEventListener("pointerdown", (event) => { event.preventDefault(); dragged = null; drag(event); });
  strip.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });

  const thumb = (buffer, action, frame) => {
    const text = frame <= 0 && action == null ? "given" : action == null ? "–" : String(action);
    return element("figure", { "data-frame": frame, title: `frame ${frame}` },
      pictureOf(buffer, world.size), element("figcaption", {}, text));
  };
  const stand = (generated) => {
    root.dataset.generated = generated;
    count.textContent = `frame ${generated}`;
    if (document.activeElement !== slider) {
      slider.max = Math.max(Number(slider.max), generated);
      slider.value = generated;
    }
  };

  // The frames of a step that was taken.
  const add = (buffers, action, generated) => {
    buffers.forEach((buffer, i) => strip.append(thumb(buffer, action, generated - buffers.length + 1 + i)));
    while (strip.children.length > STRIP) strip.firstChild.remove();
    stand(generated);
  };
  // The last frames, after a jump.
  const show = (buffers, actions, generated) => {
    const first = generated - buffers.length + 1;
    strip.replaceChildren(...buffers.map((buffer, i) => thumb(buffer, actions[i], first + i)));
    stand(generated);
  };
  const update = (now) => {
    slider.max = now.tip;
    branches.replaceChildren(...now.branches.map((branch) =>
      element("option", { value: branch.id, selected: branch.id === now.branch },
        branch.parent === null ? `branch 0 · ${branch.generated} frames`
          : `branch ${branch.id} · from ${branch.parent} at ${branch.at} · ${branch.generated} frames`)));
    branches.hidden = now.branches.length < 2;
  };
  const stop = () => clearTimeout(rewindTimer);
  return { line: element("div", { class: "tw-time" }, slider, count, branches), strip, add, show, update, stop };
}
