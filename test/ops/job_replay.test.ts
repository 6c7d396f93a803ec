// sql/ops/job_replay.sql, job_discard.sql and the view dead_letters: what people do with what failed for good.
import { randomUUID } from "node:crypto";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { type TestTenant, testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let acme: TestTenant;
let globex: TestTenant;

beforeAll(async () => {
  acme = await database.addTenant({ name: "Acme" });
  globex = await database.addTenant({ name: "Globex" });
  await runs.addKind("mail");
  await runs.addKind("sms");
});
beforeEach(async () => {
  await database.ops.query("select * from ops.job_discard('{}', 'test', 'a clean table', dry_run => false)");
});

async function dead(tenant: TestTenant, kind = "mail", code = "sqlstate_23505"): Promise<string> {
  const runId = await runs.running(tenant.tenantId, kind);
  await runs.fail(tenant.tenantId, runId, 1, code, "The row was there.");
  return runId;
}

type Options = { rate?: number; dryRun?: boolean; force?: boolean };

const replay = async (
  filter: unknown,
  { rate = 10, dryRun = false, force = false }: Options = {},
): Promise<Row[]> =>
  (
    await database.ops.query(
      `select * from ops.job_replay($1, actor => 'joe', reason => 'it is mended', rate => $2, dry_run => $3,
         force => $4)`,
      [JSON.stringify(filter), rate, dryRun, force],
    )
  ).rows;
const discard = async (filter: unknown, dryRun = false): Promise<Row[]> =>
  (
    await database.ops.query(
      "select * from ops.job_discard($1, actor => 'joe', reason => 'of no use', dry_run => $2)",
      [JSON.stringify(filter), dryRun],
    )
  ).rows;
const letters = async (): Promise<Row[]> => (await database.ops.query("select * from ops.dead_letters")).rows;
const audits = async (action: string): Promise<Row[]> =>
  (
    await database.ops.query(
      "select subject, reason, before, after from ops.audit_log where action = $1 order by id desc",
      [action],
    )
  ).rows;

test("dead_letters shows what waits for a person, newest first, 110 columns wide", async () => {
  const [first, second] = [await dead(acme), await dead(globex, "sms", "sqlstate_22001")];
  expect(await letters()).toEqual([
    {
      tenant: "Globex",
      kind: "sms",
      since: expect.stringMatching(/^\d+s$/),
      error_code: "sqlstate_22001",
      tries: "1/1/0",
      error: "The row was th",
      run: second,
    },
    expect.objectContaining({ tenant: "Acme", run: first }),
  ]);
  const { rows } = await database.ops.query(
    `select sum(greatest(length(c.key), c.width) + 3) - 1 as width
     from (select e.key, max(length(e.value)) as width from ops.dead_letters as d
           cross join jsonb_each_text(to_jsonb(d)) as e group by e.key) as c`,
  );
  expect(Number(rows[0].width)).toBeLessThanOrEqual(110);
});

describe("job_replay works", () => {
  test("it only shows what it would do, unless told otherwise", async () => {
    const runId = await dead(acme);
    const { rows } = await database.ops.query(
      "select * from ops.job_replay('{}', actor => 'joe', reason => 'it is mended')",
    );
    expect(rows).toEqual([
      { run: runId, tenant: "Acme", kind: "mail", verdict: "would be due again in 0.0 s" },
    ]);
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER", replay_count: 0 });
    expect(await audits("job_replay")).toEqual([]);
  });

  test("many come back so many a second, tenants in turn, as the same runs; audited", async () => {
    const a = [await dead(acme), await dead(acme), await dead(acme)];
    const g = [await dead(globex)];
    const done = await replay({}, { rate: 0.5 });
    const order = [...(acme.tenantId < globex.tenantId ? [a[0], g[0]] : [g[0], a[0]]), a[1], a[2]];
    expect(done.map((row) => [row["run"], row["verdict"]])).toEqual(
      order.map((runId, n) => [runId, `due again in ${n * 2}.0 s`]),
    );
    const rows = await Promise.all(order.map((runId) => runs.row(runId!)));
    const first = rows[0]!["available_at"].getTime();
    expect(rows.map((row) => row["available_at"].getTime() - first)).toEqual([0, 2000, 4000, 6000]);
    for (const row of rows) {
      expect(row).toMatchObject({ state: "PENDING", replay_count: 1, actor: "joe", reason: "it is mended" });
    }
    expect((await runs.tokens(order[0]!)).map((token) => token["run_at"])).toContainEqual(
      rows[0]!["available_at"],
    );
    expect(await letters()).toEqual([]);
    expect(await audits("job_replay")).toMatchObject([
      {
        subject: "joe",
        reason: "it is mended",
        before: {},
        after: { replayed: 4, skipped: 0, rate: 0.5, runs: order },
      },
    ]);
    // Twice: there is nothing left.
    expect(await replay({})).toEqual([]);
  });

  test("what is due more than a minute ahead is parked until then", async () => {
    await Promise.all([dead(acme), dead(acme)]);
    const [, later] = await replay({}, { rate: 0.01 });
    expect(await runs.row(later!["run"])).toMatchObject({ state: "PENDING", token_at: null });
  });

  test("a turn that a newer one has made needless is skipped, unless forced", async () => {
    const tenant = await database.addTenant();
    const turn = async (ago: number) => {
      const runId = await runs.add(tenant.tenantId, "mail");
      await database.superuser.query(
        "update app.job_runs set slot = extract(epoch from now())::bigint - $2 where id = $1",
        [runId, ago],
      );
      await runs.claim(tenant.tenantId, runId);
      return runId;
    };
    const old = await turn(7200);
    await runs.fail(tenant.tenantId, old, 1, "sqlstate_23505");
    await runs.complete(tenant.tenantId, await turn(3600), 1, {});
    expect(await replay({ tenant: tenant.name })).toMatchObject([
      { run: old, verdict: "skipped: a newer turn of it has completed since" },
    ]);
    expect(await runs.row(old)).toMatchObject({ state: "DEAD_LETTER" });
    expect((await audits("job_replay"))[0]).toMatchObject({ after: { replayed: 0, skipped: 1 } });
    expect(await replay({ tenant: tenant.name }, { force: true })).toMatchObject([
      { run: old, verdict: "due again in 0.0 s" },
    ]);
  });
});

test("the filter means what it says", async () => {
  const a = await dead(acme, "mail", "sqlstate_23505");
  const b = await dead(acme, "sms", "sqlstate_22001");
  const c = await dead(globex, "mail", "sqlstate_22001");
  const since = (await runs.row(c))["finished_at"] as Date;
  const meant = async (filter: unknown) =>
    new Set((await replay(filter, { dryRun: true })).map((row) => row["run"]));
  expect(await meant({})).toEqual(new Set([a, b, c]));
  expect(await meant({ run: b })).toEqual(new Set([b]));
  expect(await meant({ tenant: "Acme" })).toEqual(new Set([a, b]));
  expect(await meant({ kind: "mail" })).toEqual(new Set([a, c]));
  expect(await meant({ error_code: "sqlstate_22001", kind: "mail" })).toEqual(new Set([c]));
  expect(await meant({ until: new Date(since.getTime()).toISOString() })).toEqual(new Set([a, b]));
  expect(await meant({ since: new Date(since.getTime() + 1000).toISOString() })).toEqual(new Set());
  expect((await meant({ max_runs: 2 })).size).toBe(2);
  // One that was put aside is meant by its id alone.
  await discard({ run: a });
  expect(await meant({})).toEqual(new Set([b, c]));
  expect(await meant({ run: a })).toEqual(new Set([a]));
});

describe("job_discard", () => {
  test("only shows what it would do, then does it once, audited", async () => {
    const runId = await dead(acme);
    const shown = { run: runId, tenant: "Acme", kind: "mail" };
    expect(await discard({ kind: "mail" }, true)).toEqual([{ ...shown, verdict: "would be put aside" }]);
    expect(await letters()).toHaveLength(1);
    expect(await discard({ kind: "mail" })).toEqual([{ ...shown, verdict: "put aside" }]);
    expect(await letters()).toEqual([]);
    expect(await discard({ kind: "mail" })).toEqual([]);
    expect(await discard({ run: runId })).toEqual([{ ...shown, verdict: "was put aside already" }]);
    expect(await audits("job_discard")).toContainEqual({
      subject: "joe",
      reason: "of no use",
      before: { kind: "mail" },
      after: { discarded: 1, runs: [runId] },
    });
  });
});

describe.each([
  ["job_replay", replay],
  ["job_discard", discard],
] as const)("%s refuses", (name, call) => {
  test.each([
    [{ tenat: "Acme", run_id: "x" }, ["run_id", "tenat"]],
    [{ run: "x" }, ["run", "since", "until", "max_runs"]],
    [{ since: "the day before" }, ["run", "since", "until", "max_runs"]],
    [{ max_runs: 0 }, ["max_runs"]],
    [{ max_runs: 10_001 }, ["max_runs"]],
    [[], ["filter"]],
  ])("the filter %j, by name", async (filter, keys) => {
    const refused = await raised(call(filter));
    expect(refused).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect(new Set(refused.detail["keys"])).toEqual(new Set(keys));
  });

  test("a tenant, a run that is not there, a run that is no dead letter", async () => {
    expect(await raised(call({ tenant: "Nobody" }))).toMatchObject({ name: "tenant_not_found" });
    expect(await raised(call({ run: randomUUID() }))).toMatchObject({ name: "job_run_not_found" });
    const live = await runs.add(acme.tenantId, "mail");
    expect(await raised(call({ run: live }))).toMatchObject({
      name: "job_not_dead",
      detail: { run_id: live },
    });
  });

  test("no reason, no actor", async () => {
    const runId = await dead(acme);
    const query = (actor: string, reason: string) =>
      raised(
        database.ops.query(`select * from ops.${name}('{}', $1, $2, dry_run => false)`, [actor, reason]),
      );
    expect(await query("joe", "")).toMatchObject({ name: "reason_required" });
    expect(await query("", "of no use")).toMatchObject({
      name: "argument_invalid",
      detail: { argument: "actor" },
    });
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER", discarded_at: null });
  });

  test("the logins of the shell", async () => {
    const text = `select * from ops.${name}('{}', 'joe', 'of no use')`;
    for (const { pool } of [database.service, database.worker])
      await expect(pool.query(text)).rejects.toMatchObject({ code: "42501" });
  });
});

test("job_replay refuses a rate that is none", async () => {
  for (const rate of [0, -1, 20_000]) {
    expect(await raised(replay({}, { rate }))).toMatchObject({
      name: "argument_invalid",
      detail: { argument: "rate" },
    });
  }
});

test("replays that meet do no run twice, and wait for each other without a deadlock", async () => {
  const made = await Promise.all(Array.from({ length: 30 }, (_, n) => dead(n % 2 === 0 ? acme : globex)));
  const answers = await Promise.all(
    [{}, { tenant: "Acme" }, { tenant: "Globex" }, { kind: "mail" }].map((filter) =>
      replay(filter, { rate: 1000 }),
    ),
  );
  expect(
    answers
      .flat()
      .map((row) => row["run"])
      .sort(),
  ).toEqual([...made].sort());
  for (const runId of made)
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING", replay_count: 1 });
});
