// The picture: as large as leaves Play and the pads on the screen, in whole screen pixels.

const SIDE = 174; // CSS pixels: the least width of what stands beside the picture
const AROUND = 54; // of the player's and the picture's own borders, and the gap between the columns

function makeScreen({ world, root }) {
  const { size } = world;
  const canvas = element("canvas", { class: "tw-screen", width: size, height: size, role: "img" });
  const curtain = element("div", { class: "tw-curtain", role: "status" });
  const zoom = element("input", { class: "tw-size", type: "range", min: 2, max: 12, value: 6 });

  const fit = () => {
    const full = document.fullscreenElement === root;
    const wide = root.clientWidth - AROUND - SIDE;
    const high = full ? window.innerHeight - 240
      : getComputedStyle(root).getPropertyValue("--tw-high") * window.innerHeight;
    const wished = full ? Infinity : 64 * zoom.value;
    // Whole screen pixels for every pixel of the frame: otherwise some rows come out wider than others.
    const pixels = Math.floor((Math.min(wide, high, wished + 8) * devicePixelRatio) / size);
    canvas.style.width = `${(size * Math.max(1, pixels)) / devicePixelRatio}px`;
  };
  const fullScreen = () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen());
  zoom.addEventListener("input", fit);
  window.addEventListener("resize", fit);
  document.addEventListener("fullscreenchange", fit);
  const observer = new ResizeObserver(fit);
  observer.observe(root);

  const show = (buffer, generated, action) => {
    draw(canvas, buffer, size);
    const after = action == null ? "" : `, after ${action}`;
    canvas.setAttribute("aria-label", `${world.title}: frame ${generated}${after}`);
  };
  const stop = () => {
    window.removeEventListener("resize", fit);
    document.removeEventListener("fullscreenchange", fit);
    observer.disconnect();
  };
  return { bezel: element("div", { class: "tw-bezel" }, canvas, curtain), canvas, curtain, zoom, fullScreen, show, stop };
}
