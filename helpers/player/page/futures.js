// What if?: a moving preview of what each action leads to; a click goes on from it.

const FUTURE_MS = 250; // between two frames of a preview

function makeFutures({ world, say, state, root }) {
  const grid = element("div", { class: "tw-futures", hidden: true });
  let futures = [];
  let length = 0;
  let shown = 0;

  const begin = (content) => {
    futures = [];
    length = content.length;
    grid.replaceChildren(...[...Array(content.actions).keys()].map((action) =>
      element("button", { type: "button", "data-future": action, disabled: true,
        title: "go on from here", onclick: () => { hide(); say("live", { action, frames: length }); root.focus(); } },
        element("canvas", { width: world.size, height: world.size }),
        element("span", {}, `${action} ${state().labels[action].name}`))));
    grid.hidden = false;
  };
  const add = ({ action }, buffers) => {
    futures[action] = buffers;
    const button = grid.children[action];
    if (button) button.disabled = false;
    move();
  };
  const move = () => {
    futures.forEach((buffers, action) => {
      draw(grid.children[action].querySelector("canvas"), buffers[shown % length], world.size);
    });
  };
  const hide = () => { grid.hidden = true; futures = []; };
  const timer = setInterval(() => { shown += 1; if (!grid.hidden) move(); }, FUTURE_MS);
  return { grid, begin, add, hide, stop: () => clearInterval(timer) };
}
