// Plays the world, beside the page so that nothing blocks it. One message at a time is answered, in order.
//
//   open     world, runtime, wasm, model     -> ready, then proved: how the frames compare with the engine's
//   step     action, play                    -> frame: pictures, action, play, generated, close, milliseconds
//   restart  start, a place's number
//   set      temperature
//   save                                     -> session: the text of a session.json, close
//   Whatever goes wrong                      -> failed: why
//
// Two machines round differently, and choose differently where two tokens are as likely within rounding. So a
// sampled frame that came so close is drawn again with another seed, which the session records; what still is
// so close, and a greedy frame, is counted as `close`.

const CLOSE = 1e-5; // of a frame's margin; those of Crafter that two machines drew differently had 1e-7
const DRAWS = 8; // of one frame, at most

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

  // What an action leads to: the tokens of the new frames, each Int32Array, their pixels, each Float32Array, and
  // the margin.
  async next(action) {
    const { window, horizon, patches, size, draws, pixels } = this.world;
    const place = this.generated / horizon;
    const given = this.generated < window && !pixels ? this.start.tokens[place] : [];
    const between = [...(this.generated < window ? this.start.actions[place] : []), ...this.actions];
    const known = [...between.slice(between.length - (window - 1)), ...Array(horizon).fill(action)];
    const seen = [...given, ...this.seen].slice(-window).flatMap((frame) => [...frame]);
    const { tokens, frames, margin } = await this.graph({
      seen: pixels ? [Float32Array.from(seen), window, 3, size, size] : [Int32Array.from(seen), window, patches],
      actions: [Int32Array.from(known), window + horizon - 1],
      uniform: [uniform(this.seed, this.generated, draws * horizon * patches), draws, horizon * patches],
      temperature: [Float32Array.of(this.temperature)],
    });
    const parts = (data, length) => [...Array(horizon).keys()].map((h) => data.slice(h * length, (h + 1) * length));
    return {
      tokens: parts(tokens.data, patches), frames: parts(frames.data, 3 * size * size), margin: margin.data[0],
    };
  }

  // Takes an action that led to these frames.
  take(action, { tokens, frames }) {
    const { window, horizon, pixels } = this.world;
    this.seen = [...this.seen, ...(pixels ? frames : tokens)].slice(-window);
    this.actions = [...this.actions, ...Array(horizon).fill(action)].slice(-window);
    this.generated += horizon;
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
let close = 0; // frames
const events = [];

// Plays what the engine played when the file was made, and counts the frames with the same tokens. Behind a frame
// that came too close, and went another way, there is nothing to compare.
async function prove() {
  let equal = 0, of = 0, first = "", milliseconds = 0;
  for (const { temperature, actions, hashes } of world.proof) {
    const again = new Game(world, graph, world.starts[0], world.seed, temperature);
    let parted = false;
    for (const action of actions) {
      await inTurn(async () => {
        if (parted) return;
        const began = performance.now();
        const made = await again.next(action);
        milliseconds += performance.now() - began;
        made.tokens.forEach((frame, i) => {
          const number = again.generated + i;
          const same = tokenHash(frame) === hashes[number];
          parted ||= !same && made.margin < CLOSE;
          if (parted) return;
          of += 1;
          if (same) equal += 1;
          else first ||= `${temperature ? "sampled" : "greedy"} frame ${number + 1}`;
        });
        again.take(action, made);
      });
    }
  }
  postMessage({ type: "proved", equal, of, first, fps: (1000 * of) / milliseconds });
}

function begin(start) {
  game = new Game(world, graph, world.starts[start], game?.seed ?? world.seed, game?.temperature ?? world.temperature);
}

const doing = {
  async open(content) {
    world = content.world;
    graph = await openGraph(content);
    begin(0);
    postMessage({ type: "ready" });
    prove().catch(fail);
  },
  async step({ action, play }) {
    const began = performance.now();
    const frame = game.generated;
    let made = await game.next(action);
    const { seed } = game;
    for (let draw = 1; draw < DRAWS && made.margin < CLOSE && game.temperature > 0; draw += 1) {
      game.seed = String((BigInt(game.seed) & 0x7fffffffn) + 1n);
      made = await game.next(action);
    }
    if (game.seed !== seed) events.push({ event: "set", frame, seed: Number(game.seed) });
    close += made.margin < CLOSE;
    game.take(action, made);
    events.push({ event: "step", frame, action, tokens: made.tokens });
    const pictures = made.frames.map(picture);
    const milliseconds = performance.now() - began;
    postMessage({ type: "frame", pictures, action, play, generated: game.generated, close, milliseconds });
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
    postMessage({ type: "session", text, close });
  },
};

const fail = (error) => postMessage({ type: "failed", text: String(error?.message ?? error) });
let turn = Promise.resolve();
const inTurn = (job) => { turn = turn.catch(() => {}).then(job); return turn; };
onmessage = ({ data }) => { inTurn(() => doing[data.type](data)).catch(fail); };
