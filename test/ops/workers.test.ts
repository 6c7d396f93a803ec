// sql/ops/workers.sql: who works, and whether it was heard of.
import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { queueOf, WIDEST, widthInPsql } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);

test("a worker is there with its first beat, late after two lost ones, gone when it is reaped", async () => {
  expect(await queue.seen("select * from ops.workers")).toEqual([]);
  await queue.beat("worker-0:123456:pool-1a2b3c4d5e6f7a8b9c");
  expect(await queue.seen("select * from ops.workers")).toEqual([
    {
      worker: "6f7a8b9c",
      host: "worker-0",
      pid: 123456,
      version: "0.1.0",
      kinds: "analysis,cost_import,detection",
      running: "0/4",
      seen: "0s",
      verdict: "alive",
    },
  ]);
  await queue.sql("update app.job_workers set seen_at = now() - interval '12 s'");
  expect(await queue.seen("select verdict, seen from ops.workers")).toEqual([
    { verdict: "late", seen: "12s" },
  ]);
  await queue.beat("worker-0:123456:pool-1a2b3c4d5e6f7a8b9c");
  expect(await queue.seen("select verdict from ops.workers")).toEqual([{ verdict: "alive" }]);
  await queue.sql("update app.job_workers set seen_at = now() - interval '25 s'");
  await queue.seen("select * from app.workers_reap()");
  expect(await queue.seen("select * from ops.workers")).toEqual([]);
});

test(`is at most ${WIDEST} columns wide`, async () => {
  const kinds = ["analysis", "cost_import", "detection", "a_kind_with_a_name_that_goes_on"];
  await queue.beat("a-host-with-a-name-that-goes-on-and-on.internal:4194303:pool-1a2b3c4d5e6f7a8b9c", kinds);
  await queue.sql("update app.job_workers set version = '10.10.10-rc.1', running = 64, concurrency = 64");
  expect(widthInPsql(await queue.seen("select * from ops.workers"))).toBeLessThanOrEqual(WIDEST);
});
