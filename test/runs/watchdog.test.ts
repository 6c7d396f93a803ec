import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";

const WATCHDOG = new URL("../../src/runs/watchdog.ts", import.meta.url).href;

/** A process with a watchdog of 300 ms that does this; gives how it ended, and what it said. */
async function watched(body: string, meanwhile?: (child: ChildProcess) => Promise<void>) {
  const text = `import { startWatchdog } from "${WATCHDOG}";
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const spin = (ms) => { for (const end = Date.now() + ms; Date.now() < end; ); };
    const watchdog = startWatchdog(300, 50);
    await sleep(400);
    ${body}`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", text]);
  let stderr = "";
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const began = performance.now();
  const exit = once(child, "exit");
  await meanwhile?.(child);
  const [code, signal] = await exit;
  return { code, signal, stderr, tookMs: performance.now() - began };
}

test("a main thread that hears nothing any more is killed, and a line says why", async () => {
  const { signal, stderr, tookMs } = await watched("spin(20_000)");
  expect(signal).toBe("SIGKILL");
  expect(JSON.parse(stderr)).toMatchObject({ level: 60, msg: "main_thread_stuck", seconds: 0.3 });
  expect(tookMs).toBeLessThan(10_000);
});

test("one that is only busy now and then is not, and the watchdog keeps no process", async () => {
  const { code, signal, stderr } = await watched(
    "for (let n = 0; n < 8; n += 1) { spin(100); await sleep(60); }",
  );
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: "" });
});

test("a watchdog that was stopped kills nobody", async () => {
  const { code, signal } = await watched("await watchdog.stop(); spin(1_000)");
  expect({ code, signal }).toEqual({ code: 0, signal: null });
});

test("a process that stood still as a whole is not stuck", async () => {
  const stop = "process.kill(process.pid, 'SIGSTOP'); await sleep(200);";
  const ended = watched(stop, async (child) => {
    await sleep(2_500);
    child.kill("SIGCONT");
  });
  expect(await ended).toMatchObject({ code: 0, signal: null });
});
