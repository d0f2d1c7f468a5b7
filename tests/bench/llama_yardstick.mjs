// The yardstick: llama.cpp on the same file, through the prebuilt library of the npm package
// node-llama-cpp. Prints one JSON line with the keys of `ds4-eval bench --json`.
//
// usage: node llama_yardstick.mjs MODEL PROMPT GENERATE THREADS REPEAT   (compare_llama.sh installs it)
import {getLlama} from "node-llama-cpp";

const [modelPath, prompt, generate, threads, repeat] = process.argv.slice(2);
const [promptTokens, generateTokens, maxThreads, repeats] = [prompt, generate, threads, repeat].map(Number);

const llama = await getLlama({gpu: false, build: "never", maxThreads, logLevel: "error"});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({
  contextSize: promptTokens + generateTokens + 64, batchSize: 512, threads: maxThreads});
const sequence = context.getSequence();
const tokens = Array.from({length: promptTokens}, (_, i) => 10 + (i * 37) % 4000);
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

const prefill = [], decode = [];
for (let run = 0; run <= repeats; ++run) {  // the first run warms up and is not counted
  await sequence.clearHistory();
  const start = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(tokens);
  const prefillMs = performance.now() - start;

  let made = 0, firstAt = 0;
  for await (const _ of sequence.evaluate([11], {temperature: 0, yieldEogToken: true})) {
    if (made === 0) firstAt = performance.now();
    if (made++ === generateTokens) break;
  }
  if (run === 0) continue;
  prefill.push(promptTokens / prefillMs * 1e3);
  decode.push((made - 1) / (performance.now() - firstAt) * 1e3);
}
console.log(JSON.stringify({prefill_tps: median(prefill), decode_tps: median(decode)}));
process.exit(0);
