// What keeps play from being lost: offers to go on and to undo, how far long work is, and the way to the player.

function makeKeep({ root, say }) {
  const goOn = element("button", { type: "button", "data-do": "go_on", hidden: true,
    title: "plays again what was kept, and goes on from there", onclick: () => say("go_on") });
  const undo = element("button", { type: "button", "data-do": "undo", hidden: true,
    title: "back to what was played before Reset or Clips", onclick: () => say("resume", { play: left }) }, "Undo");
  const bar = element("progress", { max: 1, value: 0 });
  const text = element("span", {});
  const work = element("div", { class: "tw-work", role: "status", hidden: true }, bar, text);
  const line = element("div", { class: "tw-tools" }, goOn, undo);
  let left = null;

  const update = (now) => {
    left = now.undo;
    undo.hidden = left === null;
    goOn.hidden = now.last === null;
    line.hidden = undo.hidden && goOn.hidden;
    if (now.last) goOn.textContent = `Go on where you stopped (${now.last.frames} frames, ${now.last.when})`;
  };
  const progress = (content) => {
    work.hidden = !content.text;
    bar.value = content.share;
    text.textContent = `${content.text} …`;
    root.dataset.work = content.text;
  };

  // JupyterLab goes to the last cell after it ran all, and takes a player out of the page that is far above it.
  let panel = null;
  let top = 0;
  const remember = () => {
    panel = root.closest(".jp-WindowedPanel-outer") ?? panel;
    if (panel && root.isConnected) {
      top = panel.scrollTop + root.getBoundingClientRect().top - panel.getBoundingClientRect().top;
    }
  };
  const look = () => {
    remember();
    const began = performance.now();
    let done = false;
    const stop = () => { done = true; };
    for (const name of ["wheel", "pointerdown", "keydown"]) window.addEventListener(name, stop, { once: true });
    const bring = () => {
      if (done || performance.now() - began > 2000) return;
      if (root.isConnected) root.scrollIntoView({ block: "nearest" });
      else if (panel) panel.scrollTop = top;
      setTimeout(bring, 100);
    };
    bring();
  };
  setTimeout(remember, 500);
  return { line, work, update, progress, look };
}
