// The branches below the timeline: a bar for each, from where it left its parent, with its last frame at the end.

function makeBranches({ world, say, state }) {
  const tree = element("div", { class: "tw-branches", role: "group", "aria-label": "branches" });
  const last = new Map(); // by branch: a canvas of its last frame

  const add = (branch) => {
    const go = () => say("select", { branch: branch.id });
    const button = element("button", { type: "button", "data-branch": branch.id, onclick: go },
      element("i", {}), last.get(branch.id) ?? "", element("span", {}));
    tree.append(button);
  };
  // Changes what is there and replaces nothing: a button may be pressed just now.
  const place = (branches, current) => {
    while (tree.children.length > branches.length) tree.lastChild.remove();
    branches.slice(tree.children.length).forEach(add);
    const longest = Math.max(1, ...branches.map((branch) => branch.generated));
    branches.forEach((branch, number) => {
      const button = tree.children[number];
      const from = branch.parent === null ? "" : ` from ${branch.parent} at ${branch.at} ·`;
      const text = `branch ${branch.id} ·${from} ${branch.generated} frames`;
      button.title = `${text}: click to go to its end`;
      button.setAttribute("aria-label", text);
      button.setAttribute("aria-current", branch.id === current);
      const [bar, count] = [button.firstChild, button.lastChild];
      bar.style.marginLeft = `${(80 * branch.at) / longest}%`;
      bar.style.width = `${(80 * (branch.generated - branch.at)) / longest}%`;
      tell(count, String(branch.generated));
    });
  };
  const update = (now) => place(now.branches, now.branch);
  // A branch grew to so many frames: the last one is on this canvas.
  const grow = (canvas, id, generated) => {
    last.get(id)?.getContext("2d").drawImage(canvas, 0, 0);
    place(state().branches.map((branch) => (branch.id === id ? { ...branch, generated } : branch)), id);
  };
  // The last frames of all branches.
  const tips = (_content, buffers) => {
    last.clear();
    buffers.forEach((buffer, id) => last.set(id, pictureOf(buffer, world.size)));
    tree.replaceChildren();
    update(state());
  };
  return { tree, grow, tips, update };
}
