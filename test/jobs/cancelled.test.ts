// A run that was cancelled while its worker was being lost: the reaper must not bring it back.
import { expect, test } from "vitest";
import { jobsScene } from "./scene.ts";

const scene = jobsScene();

test("a cancelled run whose lease ends while the reaper is at work does not run again", async () => {
  const { database } = scene;
  const tenant = await database.addTenant();
  const [first, second] = await scene.enqueue(tenant, "chaos_quick", [{ n: 1 }, { n: 2 }]);
  await scene.rows(
    "select count(*) from app.job_claim('gone', array[$1, $1]::uuid[], array[$2, $3]::uuid[])",
    [tenant.tenantId, first, second],
  );
  for (const run of [first, second])
    await database.ops.query("select * from ops.job_cancel($1, 'alice', 'not needed')", [run]);

  // The end of the first takes a second, in the middle of which the lease of the other one ends.
  await scene.rows(`create function chaos.slowly() returns trigger language plpgsql as $$
    begin perform pg_catalog.pg_sleep(1); return new; end $$`);
  await scene.rows(`create trigger chaos_slowly after update on app.job_runs for each row
    when (new.id = '${first}' and new.state = 'DEAD_LETTER') execute function chaos.slowly()`);
  await scene.rows(
    `update app.job_runs set lease_until = clock_timestamp() + case id when $1 then interval '-1 s' else interval '500 ms' end`,
    [first],
  );
  await database.worker.pool.query("select * from app.job_reap()");
  await database.worker.pool.query("select * from app.job_reap()");

  expect(await scene.rows("select state, error_code, crash_count from app.job_runs")).toEqual([
    { state: "DEAD_LETTER", error_code: "job_cancelled", crash_count: 0 },
    { state: "DEAD_LETTER", error_code: "job_cancelled", crash_count: 0 },
  ]);
});
