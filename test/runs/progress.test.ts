import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { throttledProgress } from "../../src/runs/progress.ts";

test("the first word is written at once, then the last one of each second", async () => {
  const written: [number, string | undefined][] = [];
  const progress = throttledProgress(async (done, text) => void written.push([done, text]));
  for (let n = 0; n <= 10; n += 1) progress.report(n / 10, `step ${n}`);
  expect(written).toEqual([[0, "step 0"]]);
  await sleep(1_100);
  expect(written).toEqual([
    [0, "step 0"],
    [1, "step 10"],
  ]);
  await sleep(1_100);
  progress.report(0.5);
  expect(written.at(-1)).toEqual([0.5, undefined]);
});

test("what is out of its range is brought into it, and what is no number is not written", () => {
  const written: number[] = [];
  for (const done of [-1, 7, Number.NaN, Number.POSITIVE_INFINITY]) {
    throttledProgress(async (each) => void written.push(each)).report(done);
  }
  expect(written).toEqual([0, 1, 1]);
});

test("a write that fails is no failure of the run, and nothing is written after the end", async () => {
  let written = 0;
  const progress = throttledProgress(async () => {
    written += 1;
    throw new Error("away");
  });
  progress.report(0.1);
  progress.report(0.2);
  progress.end();
  progress.report(0.3);
  await sleep(1_100);
  expect(written).toBe(1);
});
