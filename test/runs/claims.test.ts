import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import type { ClaimedRun } from "../../src/jobs.ts";
import { coalescedClaims, type RunToken } from "../../src/runs/claims.ts";

const token = (runId: string = randomUUID()): RunToken => ({ tenantId: randomUUID(), runId });

/** Claims that take 20 ms, and what was asked in each. */
function claims(claimAll = async (tokens: RunToken[]) => tokens as ClaimedRun[]) {
  const batches: string[][] = [];
  const seconds: number[] = [];
  let underWay = 0;
  const claim = coalescedClaims(
    async (tokens) => {
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

test("the first token goes at once, those that come meanwhile go together", async () => {
  const { claim, batches, seconds } = claims();
  const tokens = Array.from({ length: 10 }, () => token());
  const claimed = await Promise.all(tokens.map(claim));
  expect(claimed).toEqual(tokens);
  expect(batches).toEqual([[tokens[0]!.runId], tokens.slice(1).map((each) => each.runId)]);
  expect(seconds).toHaveLength(2);
  const late = token();
  expect(await claim(late)).toEqual(late);
  expect(batches).toHaveLength(3);
});

test("fifty go in a batch at most", async () => {
  const { claim, batches } = claims();
  await Promise.all(Array.from({ length: 121 }, () => claim(token())));
  expect(batches.map((batch) => batch.length)).toEqual([1, 50, 50, 20]);
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
  expect(batches).toEqual([["before"], ["twice"], ["twice"]]);
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
  const [lost, next] = await Promise.allSettled([claim(token()), claim(token())]);
  expect(lost).toMatchObject({ status: "rejected", reason: { message: "away" } });
  expect(next).toMatchObject({ status: "fulfilled" });
});

test("the next tokens of those that went together are waited for, and a token alone is not", async () => {
  const { claim, batches } = claims();
  const turn = () => Promise.all(Array.from({ length: 6 }, () => claim(token())));
  await turn();
  expect(batches.map((batch) => batch.length)).toEqual([1, 5]);
  await turn();
  // Five were together before: the first one waits for the rest of them.
  expect(batches.slice(2).map((batch) => batch.length)).toEqual([5, 1]);

  await claim(token());
  const began = performance.now();
  await claim(token());
  expect(performance.now() - began).toBeLessThan(40);
  await turn();
  await sleep(50);
  // What is long ago is not waited for.
  await turn();
  expect(batches.slice(-2).map((batch) => batch.length)).toEqual([1, 5]);
});
