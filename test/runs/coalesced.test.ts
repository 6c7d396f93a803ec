import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import type { ClaimedRun } from "../../src/jobs.ts";
import { coalesced } from "../../src/runs/coalesced.ts";
import type { RunToken } from "../../src/runs.ts";

const token = (runId: string = randomUUID()): RunToken => ({ tenantId: randomUUID(), runId });

/** Claims that take 20 ms, and what was asked in each. */
function claims(claimAll = async (tokens: RunToken[]) => tokens as ClaimedRun[]) {
  const batches: string[][] = [];
  const seconds: number[] = [];
  let underWay = 0;
  const claim = coalesced(
    async (tokens: RunToken[]) => {
      underWay += 1;
      expect(underWay).toBe(1);
      batches.push(tokens.map((each) => each.runId));
      await sleep(20);
      underWay -= 1;
      return claimAll(tokens);
    },
    (each) => void seconds.push(each),
  );
  return { claim, batches, seconds };
}

test("a token goes at once, and those that come meanwhile go together", async () => {
  const { claim, batches, seconds } = claims();
  const tokens = Array.from({ length: 10 }, () => token());
  const first = claim(tokens[0]!);
  await sleep(5);
  expect(await Promise.all([first, ...tokens.slice(1).map(claim)])).toEqual(tokens);
  expect(batches).toEqual([[tokens[0]!.runId], tokens.slice(1).map((each) => each.runId)]);
  expect(seconds).toHaveLength(2);
});

test("fifty go in a batch at most", async () => {
  const { claim, batches } = claims();
  await Promise.all(Array.from({ length: 121 }, () => claim(token())));
  expect(batches.map((batch) => batch.length)).toEqual([50, 50, 21]);
});

test("a run is in a batch once: its second token finds what the first has left", async () => {
  let isTaken = false;
  const { claim, batches } = claims(async (tokens) => {
    const found = isTaken ? [] : tokens;
    isTaken = tokens.some((each) => each.runId === "twice");
    return found as ClaimedRun[];
  });
  const [, first, second] = await Promise.all([
    claim(token("before")),
    claim(token("twice")),
    claim(token("twice")),
  ]);
  expect(batches).toEqual([["before", "twice"], ["twice"]]);
  expect(first).toMatchObject({ runId: "twice" });
  expect(second).toBeUndefined();
});

test("a claim that fails fails its own tokens, and the next one goes on", async () => {
  let isFirst = true;
  const { claim } = claims(async (tokens) => {
    if (!isFirst) return tokens as ClaimedRun[];
    isFirst = false;
    throw new Error("away");
  });
  const failing = claim(token());
  await sleep(5);
  const [lost, next] = await Promise.allSettled([failing, claim(token())]);
  expect(lost).toMatchObject({ status: "rejected", reason: { message: "away" } });
  expect(next).toMatchObject({ status: "fulfilled" });
});

test("the next tokens of those that went together are waited for, and a token alone is not", async () => {
  const { claim, batches } = claims();
  await Promise.all(Array.from({ length: 6 }, () => claim(token())));
  // They come back one after another, as handlers end.
  const again = [claim(token())];
  await Promise.resolve();
  while (again.length < 6) again.push(claim(token()));
  await Promise.all(again);
  expect(batches.map((batch) => batch.length)).toEqual([6, 6]);

  await sleep(50);
  // What is long ago is not waited for, and after a token alone nothing is.
  await claim(token());
  await claim(token());
  expect(batches.map((batch) => batch.length)).toEqual([6, 6, 1, 1]);
});
