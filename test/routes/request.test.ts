import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { problemOf } from "../../src/problem.ts";
import { within } from "../../src/routes/request.ts";

test("work that is in time is answered, its error too", async () => {
  expect(await within(1_000, Promise.resolve(7))).toBe(7);
  await expect(within(1_000, Promise.reject(new Error("no")))).rejects.toThrow("no");
});

test("what takes too long is 503, while the work goes on, and its late error is nobody's", async () => {
  let done = false;
  const work = sleep(60).then(() => {
    done = true;
    throw new Error("late");
  });
  const error = await within(10, work).catch((error: unknown) => error);
  expect(problemOf(error, "r-1")).toMatchObject({ status: 503, code: "service_unavailable" });
  expect(done).toBe(false);
  await sleep(100);
  expect(done).toBe(true);
});
