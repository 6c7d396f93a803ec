// sql/ops/why_waiting.sql: why a run does not run, in words, for each cause that there is.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { queueOf } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);
const { sql } = queue;

const why = (name: string) => queue.seen("select * from ops.why_waiting($1)", [name]);

/** Types what a line says, with a reason. */
const typed = (fix: string) => database.ops.query(fix.replaceAll("…", "a test"));

/** The only line. */
async function onlyWhy(name: string): Promise<Row> {
  const rows = await why(name);
  expect(rows).toHaveLength(1);
  return rows[0]!;
}

beforeAll(async () => {
  await queue.addKind("solo", { max_running: 1 });
  await queue.addKind("wide");
});
beforeEach(() => queue.beat());

test("nothing waits", async () => {
  const { name } = await database.addTenant();
  expect(await why(name)).toEqual([]);
});

test("a tenant that is not there is refused", async () => {
  expect(await raised(why("nobody of that name"))).toMatchObject({
    name: "tenant_not_found",
    sqlstate: "TN101",
  });
});

describe("a run that waits", () => {
  test("for a worker, which is next", async () => {
    const { tenantId, name } = await database.addTenant();
    const run = await queue.add(tenantId, "wide");
    await sql(
      "update graphile_worker._private_jobs set priority = -100 where key = 'run:' || $1::text || ':0'",
      [run],
    );
    expect(await onlyWhy(name)).toMatchObject({
      run,
      kind: "wide",
      state: "PENDING",
      since: expect.any(Date),
      why: "next in the queue: a worker takes it when one is free",
    });
  });

  test("behind others", async () => {
    const { tenantId, name } = await database.addTenant();
    const run = await queue.add(tenantId, "wide");
    await sql(
      "update graphile_worker._private_jobs set priority = 30000 where key = 'run:' || $1::text || ':0'",
      [run],
    );
    const [others] = await sql(
      "select count(*)::int - 1 as n from graphile_worker._private_jobs where run_at <= now()",
    );
    expect(await onlyWhy(name)).toMatchObject({ why: `waits in the queue behind ${others!["n"]} others` });
    expect((await onlyWhy(name))["fix"]).toContain("WORKER_CONCURRENCY");
  });

  test("with a token that was lost, until it is queued again", async () => {
    const { tenantId, name } = await database.addTenant();
    const run = await queue.add(tenantId, "wide");
    await sql("delete from graphile_worker._private_jobs where key = 'run:' || $1::text || ':0'", [run]);
    expect(await onlyWhy(name)).toMatchObject({
      why: "its token was lost: queued again within 15 s",
      fix: "select * from app.tokens_repair()",
    });
  });

  test("for a place, all of which its tenant has taken", async () => {
    const { tenantId, name } = await database.addTenant();
    const first = await queue.add(tenantId, "solo");
    const run = await queue.add(tenantId, "solo");
    await queue.claim(tenantId, first);
    expect(await onlyWhy(name)).toMatchObject({
      run,
      why: "its tenant has all places of this kind taken: 1 of 1",
      fix: expect.stringContaining("ops.job_kind_set('solo', max_running"),
    });
  });

  test("with a place that the sweep has not given it yet", async () => {
    const { tenantId, name } = await database.addTenant();
    const run = await queue.add(tenantId, "solo");
    await sql("update app.job_runs set token_at = null where id = $1", [run]);
    const found = await onlyWhy(name);
    expect(found).toMatchObject({ why: "it has a place, and its token within seconds" });
    await typed(found["fix"]);
    expect(await onlyWhy(name)).toMatchObject({ why: expect.stringMatching(/queue/) });
  });

  test("for its moment", async () => {
    const { tenantId, name } = await database.addTenant();
    await queue.add(tenantId, "wide", 3_600);
    expect(await onlyWhy(name)).toMatchObject({ why: expect.stringMatching(/^due at 20/), fix: null });
  });

  test("for its next try, after a failure", async () => {
    const { tenantId, name } = await database.addTenant();
    const run = await queue.add(tenantId, "wide");
    await queue.claim(tenantId, run);
    await queue.fail(tenantId, run, 1, "llm_timeout");
    expect(await onlyWhy(name)).toMatchObject({
      state: "FAILED",
      why: expect.stringMatching(/^next try at 20.*, after llm_timeout$/),
      fix: `select * from ops.job_show('${run}')`,
    });
  });

  test("for the rate of its kind", async () => {
    await queue.addKind("rated", { rate_per_minute: 1 });
    await queue.beat();
    const { tenantId, name } = await database.addTenant();
    const [first, second] = [await queue.add(tenantId, "rated"), await queue.add(tenantId, "rated")];
    expect(await queue.claim(tenantId, first)).toMatchObject({ attempt: 1 });
    expect(await queue.claim(tenantId, second)).toBeUndefined();
    expect(await onlyWhy(name)).toMatchObject({
      run: second,
      why: expect.stringMatching(/^the rate of its kind: next start at 20/),
      fix: expect.stringContaining("rate_per_minute"),
    });
  });

  test("while its tenant is suspended", async () => {
    const { tenantId, name } = await database.addTenant();
    await queue.add(tenantId, "wide");
    await sql("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [tenantId]);
    expect(await onlyWhy(name)).toMatchObject({ why: "its tenant is suspended" });
  });

  test.each([
    ["tenant", "its tenant is paused"],
    ["kind", "the kind paused_kind is paused"],
    ["cohort", "the cohort DORMANT is paused"],
  ])("while its %s is paused, until what it says is typed", async (what, words) => {
    await sql(
      "insert into app.job_kinds (kind, description) values ('paused_kind', 'x') on conflict do nothing",
    );
    await queue.beat();
    const { tenantId, name } = await database.addTenant({ tier: "DORMANT" });
    await queue.add(tenantId, "paused_kind");
    const target = { tenant: name, kind: "paused_kind", cohort: "DORMANT" }[what];
    await queue.seen(`select * from ops.job_pause(${what} => $1, reason => 'a test')`, [target]);
    const found = await onlyWhy(name);
    expect(found["why"]).toBe(words);
    await typed(found["fix"]);
    expect((await onlyWhy(name))["why"]).not.toContain("paused");
  });

  test("while no worker serves its kind, and while none lives", async () => {
    const { tenantId, name } = await database.addTenant();
    await queue.add(tenantId, "wide");
    await sql("delete from app.job_workers");
    expect(await onlyWhy(name)).toMatchObject({ why: "no worker lives", fix: "-- npm run worker" });
    await queue.beat("host:1:pool-1", ["analysis"]);
    expect(await onlyWhy(name)).toMatchObject({ why: "no living worker serves wide" });
    await sql("update app.job_workers set seen_at = now() - interval '30 s'");
    expect(await onlyWhy(name)).toMatchObject({ why: "no worker lives" });
  });
});

test("a turn that is under way shows the kinds that follow, until they are runs", async () => {
  const { tenantId, name } = await database.addTenant();
  const [run] = await sql(
    `with made as (insert into app.job_runs (tenant_id, kind, slot, available_at, token_at)
                   values ($1, 'cost_import', 7200, now(), now()) returning id)
     insert into app.job_slots (tenant_id, kind, slot, run_id) select $1, 'cost_import', 7200, id from made returning run_id as id`,
    [tenantId],
  );
  const following = async () => (await why(name)).filter((row) => row["run"] === null);
  expect(await following()).toMatchObject([
    { kind: "detection", why: "its turn has not come to it: the cost_import before it has not ended" },
    { kind: "analysis", why: "its turn has not come to it: the cost_import before it has not ended" },
  ]);
  await queue.claim(tenantId, run!["id"]);
  expect(await following()).toHaveLength(2);
  await queue.complete(tenantId, run!["id"], 1);
  expect(await following()).toMatchObject([
    { kind: "analysis", why: expect.stringContaining("the detection before it") },
  ]);
});

test("dead letters that wait for a person, until what it says is typed", async () => {
  await queue.addKind("mortal", { max_retries: 0 });
  await queue.beat();
  const { tenantId, name } = await database.addTenant({ name: 'O\'Hara "& Sons"' });
  for (let n = 0; n < 2; n += 1) {
    const run = await queue.add(tenantId, "mortal");
    await queue.claim(tenantId, run);
    await queue.fail(tenantId, run, 1, "analysis_invalid");
  }
  const found = await onlyWhy(name);
  expect(found).toMatchObject({
    state: "DEAD_LETTER",
    kind: "mortal",
    why: "2 dead letters wait for a person: analysis_invalid",
  });
  await typed(found["fix"]);
  expect((await why(name)).map((row) => row["state"])).toEqual(["PENDING", "PENDING"]);
});

test("the first hundred, and how many more there are", async () => {
  const { tenantId, name } = await database.addTenant();
  for (let n = 0; n < 123; n += 1) await queue.add(tenantId, "solo");
  const rows = await why(name);
  expect(rows).toHaveLength(101);
  expect(rows[0]!["why"]).toMatch(/queue/);
  expect(rows[99]!["why"]).toContain("all places");
  expect(rows[100]).toMatchObject({ run: null, why: "and 23 more" });
  expect((await queue.seen(rows[100]!["fix"])).length).toBe(123);
});

test("only people may ask", async () => {
  for (const { pool } of [database.service, database.worker])
    await expect(pool.query("select * from ops.why_waiting('x')")).rejects.toMatchObject({ code: "42501" });
});
