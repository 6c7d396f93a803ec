// sql/ops/jobs.sql: every run, newest first, on one line of a terminal.
import { beforeAll, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { queueOf, WIDEST, widthInPsql } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);

beforeAll(async () => {
  await queue.addKind("reckon", { max_retries: 1 });
});

const jobsOf = (name: string) => queue.seen("select * from ops.jobs where tenant = left($1, 14)", [name]);

test("a run through its life: waiting, running, tried again, ended; newest first", async () => {
  const { tenantId, name } = await database.addTenant({ name: "Acme" });
  const run = await queue.add(tenantId, "reckon");
  expect(await jobsOf(name)).toEqual([
    { tenant: name, kind: "reckon", state: "PENDING", ago: "0s", note: "", id: run },
  ]);
  await queue.claim(tenantId, run);
  await queue.sql(
    "update app.job_runs set progress = 0.425, progress_text = 'reading', started_at = now() - interval '70 s' where id = $1",
    [run],
  );
  expect(await jobsOf(name)).toMatchObject([{ state: "RUNNING", ago: "70s", note: "43% 70s reading" }]);
  await queue.fail(tenantId, run, 1, "llm_timeout");
  expect(await jobsOf(name)).toMatchObject([{ state: "FAILED", note: "llm_timeout" }]);

  await queue.sql("update app.job_runs set available_at = now() where id = $1", [run]);
  await queue.claim(tenantId, run);
  await queue.complete(tenantId, run, 2);
  expect(await jobsOf(name)).toMatchObject([
    { state: "COMPLETED", note: expect.stringMatching(/^0\.\ds try 2$/) },
  ]);
  const next = await queue.add(tenantId, "reckon");
  expect((await jobsOf(name)).map((row) => row["id"])).toEqual([next, run]);
});

test("a run that is to end says so", async () => {
  const { tenantId, name } = await database.addTenant();
  const run = await queue.add(tenantId, "reckon");
  await queue.claim(tenantId, run);
  await queue.sql("update app.job_runs set cancel_requested_at = now() where id = $1", [run]);
  expect(await jobsOf(name)).toMatchObject([
    { state: "RUNNING", note: expect.stringMatching(/^cancelling /) },
  ]);
});

test(`is at most ${WIDEST} columns wide, whatever has happened to a run`, async () => {
  await queue.sql(
    `with made as (
       insert into app.job_runs (tenant_id, kind, state, attempt, error_code, finished_at, started_at, lease_until, token_at,
         progress, progress_text)
       select t.tenant_id, 'cost_import', s.state, 12, case when s.state <> 'RUNNING' then 'a_code_that_goes_on_and_on' end,
         case when s.state <> 'RUNNING' then now() end, now() - interval '1000 s',
         case when s.state = 'RUNNING' then now() end, now(), 0.99, repeat('x', 200)
       from app.tenants as t, unnest(array['RUNNING', 'DEAD_LETTER']) as s (state) where t.name = 'Acme'
       returning 1)
     select count(*) from made`,
  );
  const rows = await queue.seen("select * from ops.jobs where tenant = 'Acme'");
  expect(rows.length).toBeGreaterThan(3);
  expect(widthInPsql(rows)).toBeLessThanOrEqual(WIDEST);
});

test("the newest are found without reading all", async () => {
  await queue.sql(
    `insert into app.job_runs (tenant_id, kind, state, finished_at)
     select t.tenant_id, 'reckon', 'COMPLETED', now() - n * interval '1 s'
     from app.tenants as t, generate_series(1, 20000) as n where t.name = 'Acme'`,
  );
  await queue.sql("analyze app.job_runs");
  const plan = await queue.sql("explain (analyze, format json) select * from ops.jobs limit 20");
  const text = JSON.stringify(plan);
  expect(text).toMatch(/finished_at_idx/);
  const most = Math.max(...[...text.matchAll(/"Actual Rows":\s*([\d.]+)/g)].map((match) => Number(match[1])));
  expect(most).toBeLessThan(1_000);
});
