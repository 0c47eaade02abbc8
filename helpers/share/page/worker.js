// Plays the world, beside the page so that nothing blocks it. One message at a time is answered, in order.
//
//   open     world, runtime, wasm, model     -> ready, then proved: how the frames compare with the engine's
//   step     action                          -> frame: pictures, action, generated, milliseconds
//   restart  start, a place's number
//   set      temperature
//   save                                     -> session: the text of a session.json
//   Whatever goes wrong                      -> failed: why

async function unpacked(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The world's graph, run by ONNX Runtime. Without isolation from other pages, which a file has not, there are no
// threads; this one is a worker's anyway.
async function openGraph({ runtime, wasm, model }) {
  const address = URL.createObjectURL(new Blob([await unpacked(runtime)], { type: "text/javascript" }));
  const ort = await import(address);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpacked(wasm)).buffer;
  const graph = await ort.InferenceSession.create(await unpacked(model), { executionProviders: ["wasm"] });
  return (inputs) => {
    const tensors = Object.entries(inputs).map(([name, [data, ...shape]]) =>
      [name, new ort.Tensor(data instanceof Int32Array ? "int32" : "float32", data, shape)]);
    return graph.run(Object.fromEntries(tensors));
  };
}

// One play of the world from a start: what the models see, and the next step.
class Game {
  constructor(world, graph, start, seed, temperature) {
    Object.assign(this, { world, graph, start, seed, temperature, generated: 0, actions: [], seen: [] });
    if (world.pixels) {
      const given = bytesOf(start.frames);
      const { size, window } = world;
      this.seen = [...Array(window).keys()].map((t) => Float32Array.from({ length: 3 * size * size }, (_, i) => {
        const [channel, pixel] = [Math.floor(i / size ** 2), i % size ** 2];
        return Math.fround(Math.fround(given[3 * (t * size ** 2 + pixel) + channel] / 255) * 2 - 1);
      }));
    }
  }

  // Takes an action; the tokens of the new frames, each Int32Array, and their pixels, each Float32Array.
  async step(action) {
    const { window, horizon, patches, size, draws, pixels } = this.world;
    const place = this.generated / horizon;
    const given = this.generated < window && !pixels ? this.start.tokens[place] : [];
    const between = [...(this.generated < window ? this.start.actions[place] : []), ...this.actions];
    const known = [...between.slice(between.length - (window - 1)), ...Array(horizon).fill(action)];
    const seen = [...given, ...this.seen].slice(-window).flatMap((frame) => [...frame]);
    const { tokens, frames } = await this.graph({
      seen: pixels ? [Float32Array.from(seen), window, 3, size, size] : [Int32Array.from(seen), window, patches],
      actions: [Int32Array.from(known), window + horizon - 1],
      uniform: [uniform(this.seed, this.generated, draws * horizon * patches), draws, horizon * patches],
      temperature: [Float32Array.of(this.temperature)],
    });
    const parts = (data, length) => [...Array(horizon).keys()].map((h) => data.slice(h * length, (h + 1) * length));
    const made = { tokens: parts(tokens.data, patches), frames: parts(frames.data, 3 * size * size) };
    this.seen = [...this.seen, ...(pixels ? made.frames : made.tokens)].slice(-window);
    this.actions = [...this.actions, ...Array(horizon).fill(action)].slice(-window);
    this.generated += horizon;
    return made;
  }
}

// Pixels in [-1, 1], channel by channel, as RGB; a clamped array rounds as the engine does.
function picture(frame) {
  const area = frame.length / 3;
  const rgb = new Uint8ClampedArray(frame.length);
  for (let i = 0; i < frame.length; i += 1) rgb[3 * (i % area) + Math.floor(i / area)] = (frame[i] + 1) * 127.5;
  return rgb;
}

let world, graph, game;
const events = [];

// Plays what the engine played when the file was made, and counts the frames with the same tokens.
async function prove() {
  let equal = 0, of = 0, first = "", milliseconds = 0;
  for (const { temperature, actions, hashes } of world.proof) {
    const again = new Game(world, graph, world.starts[0], world.seed, temperature);
    for (const action of actions) {
      await inTurn(async () => {
        const began = performance.now();
        const { tokens } = await again.step(action);
        milliseconds += performance.now() - began;
        tokens.forEach((frame, i) => {
          const number = again.generated - world.horizon + i;
          of += 1;
          if (tokenHash(frame) === hashes[number]) equal += 1;
          else first ||= `${temperature ? "sampled" : "greedy"} frame ${number + 1}`;
        });
      });
    }
  }
  postMessage({ type: "proved", equal, of, first, fps: (1000 * of) / milliseconds });
}

function begin(start) {
  game = new Game(world, graph, world.starts[start], world.seed, game?.temperature ?? world.temperature);
}

const doing = {
  async open(content) {
    world = content.world;
    graph = await openGraph(content);
    begin(0);
    postMessage({ type: "ready" });
    prove().catch(fail);
  },
  async step({ action }) {
    const began = performance.now();
    const frame = game.generated;
    const { tokens, frames } = await game.step(action);
    events.push({ event: "step", frame, action, tokens });
    const pictures = frames.map(picture);
    const milliseconds = performance.now() - began;
    postMessage({ type: "frame", pictures, action, generated: game.generated, milliseconds });
  },
  restart({ start }) {
    events.push({ event: "restart", frame: game.generated, start: world.starts[start].row });
    begin(start);
  },
  set({ temperature }) {
    if (temperature === game.temperature) return;
    events.push({ event: "set", frame: game.generated, temperature });
    game.temperature = temperature;
  },
  save() {
    const width = world.codebook <= 65536 ? 2 : 4;
    const lines = events.map(({ tokens, ...event }) => `    ${JSON.stringify(tokens
      ? { ...event, hashes: tokens.map(tokenHash), tokens: tokens.map((frame) => base64(littleEndian(frame, width))) }
      : event)}`);
    const madeOn = { device: "cpu", torch: world.runtime, threads: 1, platform: navigator.userAgent };
    const text = `${world.session},\n  "made_on": ${JSON.stringify(madeOn)},\n  "events": [\n${lines.join(",\n")}\n  ]\n}\n`;
    postMessage({ type: "session", text });
  },
};

const fail = (error) => postMessage({ type: "failed", text: String(error?.message ?? error) });
let turn = Promise.resolve();
const inTurn = (job) => { turn = turn.catch(() => {}).then(job); return turn; };
onmessage = ({ data }) => { inTurn(() => doing[data.type](data)).catch(fail); };
