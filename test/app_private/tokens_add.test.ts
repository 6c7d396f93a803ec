// sql/app_private/tokens_add.sql: a token for each run, whatever workers do with those that are there.
import { expect, test } from "vitest";
import { claimsOf } from "../support/claims.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const queue = claimsOf(database);

test("the same token again replaces itself; one that a worker holds is another's, and the run has one more", async () => {
  const { tenantId } = await database.addTenant();
  const kind = await queue.kind();
  const run = await queue.add(tenantId, kind);
  const again = () =>
    queue.sql("select app_private.runs_token(array[$1::uuid], array[$2::uuid]) as n", [tenantId, run.runId]);
  expect(await again()).toEqual([{ n: 1 }]);
  expect(await queue.tokens(kind)).toHaveLength(1);

  await queue.sql("update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-1'");
  expect(await again()).toEqual([{ n: 1 }]);
  const held = await queue.sql("select key, locked_by from graphile_worker._private_jobs order by id");
  expect(held).toEqual([
    { key: null, locked_by: "pool-1" },
    { key: `run:${run.runId}:0`, locked_by: null },
  ]);
});

test("one that workers snatch while it is queued again fails nothing", { timeout: 30_000 }, async () => {
  const { tenantId } = await database.addTenant();
  const kind = await queue.kind();
  const runs = await queue.addMany(tenantId, kind, 40);
  let goOn = true;
  const snatching = (async () => {
    while (goOn) {
      const free = "(select id from graphile_worker._private_jobs order by id for update skip locked)";
      await queue.sql(
        `update graphile_worker._private_jobs set locked_at = now(), locked_by = 'pool-1' where id in ${free}`,
      );
      await queue.sql(`delete from graphile_worker._private_jobs where key is null and id in ${free}`);
      await queue.sql(
        `update graphile_worker._private_jobs set locked_at = null, locked_by = null where id in ${free}`,
      );
    }
  })();
  try {
    for (let n = 0; n < 60; n += 1) {
      await queue.sql("select app_private.runs_token($1::uuid[], $2::uuid[])", [
        runs.map((run) => run.tenantId),
        runs.map((run) => run.runId),
      ]);
    }
  } finally {
    goOn = false;
    await snatching;
  }
  expect((await queue.tokens(kind)).length).toBeGreaterThan(0);
});
