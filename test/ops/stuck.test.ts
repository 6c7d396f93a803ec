// sql/ops/stuck.sql: what needs a person, since when, why, and what to type; and that it then is no more.
import { beforeAll, beforeEach, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { queueOf } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);
const { sql } = queue;

const stuck = () => queue.seen("select * from ops.stuck");
/** Makes what is waiting look as if it had waited since then. */
const age = (runId: string, minutes: number) =>
  sql(
    `update app.job_runs set available_at = available_at - $2 * interval '1 min', created_at = created_at - $2 * interval '1 min',
       started_at = started_at - $2 * interval '1 min' where id = $1`,
    [runId, minutes],
  );
const typed = (fix: string) => database.ops.query(fix.replaceAll("…", "a test"));

/** Ends every run that has not ended. */
const cancelled = () =>
  sql(
    `select c.* from app.job_runs as r, ops.job_cancel(r.id, actor => 'test', reason => 'a test', force => true) as c
     where r.finished_at is null`,
  );

beforeAll(async () => {
  await queue.addKind("solo", { max_running: 1, max_retries: 0 });
  await sql("update app.schedules set next_run_at = now() + interval '1 h'");
});
beforeEach(async () => {
  await sql("delete from app.job_workers");
  await queue.beat();
  expect(await stuck()).toEqual([]);
});

test("nothing, when all is well: a run waits and another runs", async () => {
  const { tenantId } = await database.addTenant();
  const run = await queue.add(tenantId, "solo");
  await queue.add(tenantId, "solo");
  await queue.claim(tenantId, run);
  expect(await stuck()).toEqual([]);
  await queue.complete(tenantId, run, 1);
  await cancelled();
});

test("no worker lives; one that does not beat is late first", async () => {
  await sql("update app.job_workers set seen_at = now() - interval '12 s'");
  expect(await stuck()).toMatchObject([{ what: "worker late", why: "host:1:pool-1 does not beat" }]);
  await sql("delete from app.job_workers");
  expect(await stuck()).toMatchObject([
    { what: "no worker", why: "no worker lives", fix: "-- npm run worker" },
  ]);
});

test("a run near the end of its time, and one whose end was asked for", async () => {
  const { tenantId, name } = await database.addTenant({ name: "Slow" });
  const run = await queue.add(tenantId, "solo");
  await queue.claim(tenantId, run);
  await age(run, 3);
  expect(await stuck()).toEqual([]);
  await age(run, 1.5);
  await sql("update app.job_runs set progress = 0.4, progress_text = 'reading' where id = $1", [run]);
  const [slow] = await stuck();
  expect(slow).toMatchObject({
    what: "slow run",
    tenant: name,
    kind: "solo",
    since: expect.any(Date),
    why: "runs for 4m of 5m, try 1, 40 % done, reading",
  });
  await sql("update app.job_runs set cancel_requested_at = now() where id = $1", [run]);
  expect(await stuck()).toMatchObject([{ what: "cancelling" }]);
  await typed(slow!["fix"]);
});

test("runs that wait for a place of their tenant: one line for tenant and kind", async () => {
  const { tenantId, name } = await database.addTenant({ name: "Parked" });
  const runs = [
    await queue.add(tenantId, "solo"),
    await queue.add(tenantId, "solo"),
    await queue.add(tenantId, "solo"),
  ];
  await queue.claim(tenantId, runs[0]!);
  for (const run of runs.slice(1)) await age(run, 2);
  expect(await stuck()).toMatchObject([
    {
      what: "waiting",
      tenant: name,
      kind: "solo",
      why: "2 runs: its tenant has all places of this kind taken: 1 of 1",
      fix: expect.stringContaining("ops.job_kind_set('solo', max_running"),
    },
  ]);
  await cancelled();
});

test("a queue that is behind is one line, however many tenants wait in it", async () => {
  for (let n = 0; n < 3; n += 1) {
    const { tenantId } = await database.addTenant();
    await age(await queue.add(tenantId, "solo"), 2);
  }
  expect(await stuck()).toMatchObject([
    {
      what: "waiting",
      tenant: "3 tenants",
      kind: "solo",
      why: "3 runs: all workers are busy: it waits in the queue",
    },
  ]);
  await queue.beat("host:1:pool-1", ["analysis"]);
  expect((await stuck()).map((row) => row["why"])).toEqual(
    Array(3).fill("1 run: no living worker serves solo"),
  );
  await cancelled();
});

test("dead letters by tenant, kind and error; gone when they are replayed", async () => {
  const { tenantId, name } = await database.addTenant({ name: "Mort" });
  for (const code of ["llm_timeout", "llm_timeout", "internal_error"]) {
    const run = await queue.add(tenantId, "solo");
    await queue.claim(tenantId, run);
    await queue.fail(tenantId, run, 1, code);
  }
  const found = await stuck();
  expect(found.map(({ what, tenant, kind, why }) => ({ what, tenant, kind, why }))).toEqual(
    expect.arrayContaining([
      { what: "dead letters", tenant: name, kind: "solo", why: "2 by llm_timeout" },
      { what: "dead letters", tenant: name, kind: "solo", why: "1 by internal_error" },
    ]),
  );
  for (const each of found) await typed(each["fix"]);
  await cancelled();
});

test("what is paused, until it is resumed", async () => {
  await database.addTenant({ name: "Idle" });
  for (const target of ["tenant => 'Idle'", "kind => 'solo'", "cohort => 'ACTIVE'"])
    await queue.seen(`select * from ops.job_pause(${target}, reason => 'a test')`);
  const found = await stuck();
  expect(found.map(({ what, tenant, kind, why }) => ({ what, tenant, kind, why }))).toEqual(
    expect.arrayContaining([
      { what: "paused", tenant: "Idle", kind: null, why: "its tenant is paused" },
      { what: "paused", tenant: null, kind: "solo", why: "the kind is paused" },
      { what: "paused", tenant: null, kind: null, why: "the cohort ACTIVE is paused" },
    ]),
  );
  expect(found).toHaveLength(3);
  for (const each of found) await typed(each["fix"]);
});

test("a cohort, or a tenant with turns of its own, that no tick has come to", async () => {
  const { tenantId } = await database.addTenant({ name: "Own" });
  await sql(
    "insert into app.tenant_schedules (tenant_id, every, next_run_at) values ($1, '1 h', now() - interval '3 min')",
    [tenantId],
  );
  await sql(
    "update app.schedules set next_run_at = now() - interval '3 min' where tier = 'DORMANT' and shard < 7",
  );
  expect(await stuck()).toMatchObject([
    { what: "schedule late", tenant: "Own", why: "a turn of its own waits for a tick" },
    {
      what: "schedule late",
      tenant: null,
      why: "the cohort DORMANT: 7 shards wait for a tick",
      fix: "select * from app.schedule_tick()",
    },
  ]);
  await sql("delete from app.tenant_schedules");
  await sql("update app.schedules set next_run_at = now() + interval '1 h'");
});
