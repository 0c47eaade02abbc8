// The engine's random numbers and hashes, bit for bit: helpers/worldmodel/session.py and helpers/play/game.py.

const MASK = (1n << 64n) - 1n;

// SplitMix64's output for a state.
function mix(value) {
  value = (value + 0x9e3779b97f4a7c15n) & MASK;
  value = ((value ^ (value >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  value = ((value ^ (value >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return value ^ (value >> 31n);
}

// The first 32-bit numbers of a Mersenne Twister, MT19937: what torch's generators on a CPU are.
// Source: Matsumoto and Nishimura, "Mersenne Twister" (1998).
function twister(seed, count) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i += 1) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  const numbers = new Uint32Array(count);
  for (let n = 0; n < count; n += 1) {
    if (n % 624 === 0) {
      for (let i = 0; i < 624; i += 1) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
    }
    let y = state[n % 624];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    numbers[n] = y ^ (y >>> 18);
  }
  return numbers;
}

// The numbers in [0, 1) of the step that generates frame number `frame`; the seed is a text, as it may have 63 bits.
function uniform(seed, frame, count) {
  const mixed = mix(mix(BigInt(seed)) + BigInt(frame));
  const numbers = twister(Number((mixed >> 1n) & 0xffffffffn), count);
  return Float32Array.from(numbers, (number) => (number & 0xffffff) / 0x1000000);
}

// The first 32 bits of the fractional parts of the square or cube roots of the first primes.
function rootBits(count, power) {
  const bits = [];
  for (let n = 2; bits.length < count; n += 1) {
    let prime = true;
    for (let d = 2; d * d <= n; d += 1) if (n % d === 0) prime = false;
    if (prime) bits.push(((n ** power % 1) * 2 ** 32) | 0);
  }
  return bits;
}

const ROUNDS = rootBits(64, 1 / 3);
const INITIAL = rootBits(8, 1 / 2);

// SHA-256 in hexadecimal digits; the browser's own is not there for every page that comes from a disk.
function sha256(bytes) {
  const padded = new Uint8Array(((bytes.length + 8) >> 6 << 6) + 64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, bytes.length * 8);
  const hash = Int32Array.from(INITIAL);
  const w = new Int32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 64; i += 1) {
      if (i < 16) { w[i] = view.getInt32(block + 4 * i); continue; }
      const [a, b] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + w[i - 7] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i += 1) {
      const one = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i] + w[i];
      const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => { hash[i] += value; });
  }
  return [...hash].map((value) => (value >>> 0).toString(16).padStart(8, "0")).join("");
}

// A frame's tokens as session files have them: their hash, and they themselves in 2 or 4 bytes each.
const littleEndian = (tokens, width) => {
  const view = new DataView(new ArrayBuffer(width * tokens.length));
  tokens.forEach((token, i) => (width === 2 ? view.setUint16(2 * i, token, true) : view.setUint32(4 * i, token, true)));
  return new Uint8Array(view.buffer);
};
const tokenHash = (tokens) => sha256(littleEndian(tokens, 4)).slice(0, 16);
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = characters.charCodeAt(i);
  return bytes;
}
