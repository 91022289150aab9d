// Predict one box with onnxruntime's web build, in Node or in a browser; needs: npm install onnxruntime-web
//
//   node predict.mjs MODEL.onnx NX NY NZ REDSHIFT XI.raw NAME=FIELD.raw ...
//
// A field is raw little-endian float32, z fastest, in the units the model's card names.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, nx, ny, nz, redshift, out, ...fields] = process.argv.slice(2);
const dims = [1, Number(nx), Number(ny), Number(nz)];

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)), {
  executionProviders: ["wasm"],
  logSeverityLevel: 3,
});
const feeds = { redshift: new ort.Tensor("float32", [Number(redshift)], [1]) };
for (const field of fields) {
  const [name, file] = field.split("=");
  feeds[name] = new ort.Tensor("float32", new Float32Array(new Uint8Array(readFileSync(file)).buffer), dims);
}
const { xi } = await session.run(feeds);
writeFileSync(out, new Uint8Array(xi.data.buffer));
