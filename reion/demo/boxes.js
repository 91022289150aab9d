// Boxes from .npz files, as reion and numpy write them, read in the browser.

/** One snapshot: {redshift, boxSize: [x, y, z] in Mpc, shape: [x, y, z], fields: {name: Float32Array}}. */
export async function readSnapshot(buffer, name) {
  const arrays = await readNpz(buffer, name);
  const fields = {};
  let shape = null;
  for (const [key, array] of Object.entries(arrays)) {
    if (array.shape.length !== 3) continue;
    if (shape && shape.join() !== array.shape.join()) {
      throw new Error(`${name}: expected fields of one shape; ${key} has ${array.shape.join(" x ")}`);
    }
    shape = array.shape;
    fields[key] = Float32Array.from(array.data);
  }
  if (!shape) throw new Error(`${name}: expected fields of shape (x, y, z); found ${Object.keys(arrays).join(", ")}`);
  if (!arrays.redshift) throw new Error(`${name}: expected an array named redshift`);
  if (!arrays.box_size) throw new Error(`${name}: expected an array named box_size, in comoving Mpc`);
  const lengths = Array.from(arrays.box_size.data);
  const boxSize = lengths.length === 3 ? lengths : [lengths[0], lengths[0], lengths[0]];
  return { redshift: Number(arrays.redshift.data[0]), boxSize, shape, fields };
}

/** n_ion of every snapshot of a series: the sources listed at one redshift shine until the next. */
export function addHistory(snapshots, cosmology) {
  snapshots.sort((a, b) => b.redshift - a.redshift);
  let total = new Float64Array(snapshots[0].fields.n_src.length);
  snapshots.forEach((snapshot, index) => {
    snapshot.fields.n_ion = Float32Array.from(total);
    const next = snapshots[index + 1];
    if (!next) return;
    const time = (age(next.redshift, cosmology) - age(snapshot.redshift, cosmology)) / 1e18;
    const rate = snapshot.fields.n_src;
    for (let cell = 0; cell < total.length; cell++) total[cell] += rate[cell] * time;
  });
}

/** Cosmic age in seconds, flat LCDM without radiation. */
function age(redshift, { H0, Om0 }) {
  const hubbleTime = 3.0856775814913673e19 / H0;
  const vacuum = 1 - Om0;
  return (2 * hubbleTime * Math.asinh(Math.sqrt(vacuum / Om0) * (1 + redshift) ** -1.5)) / (3 * Math.sqrt(vacuum));
}

/** Arrays of an .npz file: {name: {shape, data}}. */
async function readNpz(buffer, name) {
  const view = new DataView(buffer);
  const end = findEnd(view, name);
  const count = view.getUint16(end + 10, true);
  let position = view.getUint32(end + 16, true);
  const arrays = {};
  for (let index = 0; index < count; index++) {
    if (view.getUint32(position, true) !== 0x02014b50) throw new Error(`${name}: the .npz file is damaged`);
    const method = view.getUint16(position + 10, true);
    const packed = view.getUint32(position + 20, true);
    const nameLength = view.getUint16(position + 28, true);
    const skip = view.getUint16(position + 30, true) + view.getUint16(position + 32, true);
    const local = view.getUint32(position + 42, true);
    const entry = new TextDecoder().decode(new Uint8Array(buffer, position + 46, nameLength));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const bytes = new Uint8Array(buffer, start, packed);
    const plain = method === 0 ? bytes : await inflate(bytes);
    arrays[entry.replace(/\.npy$/, "")] = readNpy(plain, `${name}: ${entry}`);
    position += 46 + nameLength + skip;
  }
  return arrays;
}

function findEnd(view, name) {
  for (let position = view.byteLength - 22; position >= 0 && position > view.byteLength - 66000; position--) {
    if (view.getUint32(position, true) === 0x06054b50) return position;
  }
  throw new Error(`${name}: expected an .npz file, as numpy.savez writes it`);
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const KINDS = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i2": Int16Array };

function readNpy(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== 0x934e554d) throw new Error(`${name}: expected an array in numpy's format`);
  const wide = bytes[6] > 1;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + length;
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  const kind = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((n) => n.trim()).map(Number);
  if (!KINDS[kind]) throw new Error(`${name}: expected little-endian numbers; received ${kind}`);
  const size = shape.reduce((product, n) => product * n, 1);
  const data = new KINDS[kind](bytes.slice(start).buffer, 0, size);
  return { shape, data: /'fortran_order':\s*True/.test(header) ? transpose(data, shape) : data };
}

function transpose(data, shape) {
  if (shape.length < 2) return data;
  const [nx, ny, nz] = shape;
  const turned = new data.constructor(data.length);
  for (let x = 0, cell = 0; x < nx; x++) {
    for (let y = 0; y < ny; y++) for (let z = 0; z < nz; z++) turned[cell++] = data[x + nx * (y + ny * z)];
  }
  return turned;
}
