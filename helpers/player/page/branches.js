// The branches below the timeline: a bar for each, from where it left its parent, with its last frame at the end.

function makeBranches({ world, say, state }) {
  const tree = element("div", { class: "tw-branches", role: "group", "aria-label": "branches" });
  const last = new Map(); // by branch: a canvas of its last frame
  let shown = "";

  // A branch grew: its last frame is on this canvas.
  const see = (canvas, branch) => last.get(branch)?.getContext("2d").drawImage(canvas, 0, 0);
  // The last frames of all branches.
  const tips = (_content, buffers) => {
    last.clear();
    buffers.forEach((buffer, branch) => last.set(branch, pictureOf(buffer, world.size)));
    shown = "";
    update(state());
  };
  const update = (now) => {
    const content = JSON.stringify([now.branches, now.branch]);
    if (content === shown) return;
    shown = content;
    const longest = Math.max(1, ...now.branches.map((branch) => branch.generated));
    tree.replaceChildren(...now.branches.map((branch) => {
      const from = branch.parent === null ? "" : ` from ${branch.parent} at ${branch.at} ·`;
      const text = `branch ${branch.id} ·${from} ${branch.generated} frames`;
      const bar = element("i", {});
      bar.style.marginLeft = `${(80 * branch.at) / longest}%`;
      bar.style.width = `${(80 * (branch.generated - branch.at)) / longest}%`;
      return element("button", { type: "button", "data-branch": branch.id, title: `${text}: click to go to its end`,
        "aria-label": text, "aria-current": branch.id === now.branch ? "true" : null,
        onclick: () => say("select", { branch: branch.id }) },
      bar, last.get(branch.id) ?? "", element("span", {}, String(branch.generated)));
    }));
  };
  return { tree, see, tips, update };
}
