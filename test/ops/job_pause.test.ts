// sql/ops/job_pause.sql, job_resume.sql and job_kind_set.sql: what people turn.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { type TestTenant, testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let acme: TestTenant;
let globex: TestTenant;

beforeAll(async () => {
  acme = await database.addTenant({ name: "Acme", tier: "ACTIVE" });
  globex = await database.addTenant({ name: "Globex", tier: "DORMANT" });
});

const query = async (text: string, values: unknown[] = []): Promise<Row[]> =>
  (await database.ops.query(text, values)).rows;
const pause = (what: string) => query(`select * from ops.job_pause(reason => 'an incident', ${what})`);
const resume = (what: string) => query(`select * from ops.job_resume(reason => 'it is over', ${what})`);
const audits = async (action: string) =>
  query("select subject, reason, before, after from ops.audit_log where action = $1 order by id desc", [
    action,
  ]);
const enqueue = async (tenant: TestTenant): Promise<string> =>
  (await query("select run from ops.job_enqueue($1, 'mail', reason => 'a test')", [tenant.name]))[0]!["run"];

describe("job_pause and job_resume", () => {
  beforeAll(() => runs.addKind("mail"));

  describe.each([
    ["tenant => 'Acme'", "tenant", "Acme", false],
    ["kind => 'mail'", "kind", "mail", true],
    ["cohort => 'ACTIVE'", "cohort", "ACTIVE", false],
  ])("%s", (args, what, name, both) => {
    test("what runs goes on, nothing else starts, and all of it starts when it is over", async () => {
      const [running, queued] = [await runs.running(acme.tenantId, "mail"), await enqueue(acme)];
      expect(await pause(`${args}, dry_run => true`)).toMatchObject([
        { what, name, verdict: "would be paused" },
      ]);
      expect(await pause(args)).toMatchObject([
        { what, name, since: expect.any(Date), verdict: "paused: what runs goes on, nothing else starts" },
      ]);
      expect((await audits("job_pause"))[0]).toMatchObject({
        subject: name,
        reason: "an incident",
        after: { what },
      });

      const made = [await enqueue(acme), await enqueue(globex)] as const;
      expect(await runs.row(made[0])).toMatchObject({ token_at: null });
      expect((await runs.row(made[1]))["token_at"] === null).toBe(both);
      expect(await runs.claim(acme.tenantId, queued)).toBeUndefined();
      expect(await runs.row(queued)).toMatchObject({ state: "PENDING", token_at: null, attempt: 0 });
      expect(await runs.complete(acme.tenantId, running, 1, {})).toBe("COMPLETED");

      expect(await resume(`${args}, dry_run => true`)).toMatchObject([{ verdict: "would go on" }]);
      expect(await runs.row(queued)).toMatchObject({ token_at: null });
      const count = both ? 3 : 2;
      expect(await resume(args)).toMatchObject([
        { what, name, since: expect.any(Date), verdict: `goes on: ${count} waiting runs are in the queue` },
      ]);
      expect((await audits("job_resume"))[0]).toMatchObject({ subject: name, after: { admitted: count } });
      for (const [tenant, runId] of [
        [acme, queued],
        [acme, made[0]],
        [globex, made[1]],
      ] as const) {
        expect(await runs.tokens(runId)).not.toEqual([]);
        expect(await runs.claim(tenant.tenantId, runId)).toMatchObject({ attempt: 1 });
        await runs.complete(tenant.tenantId, runId, 1, {});
      }
    });

    test("twice is once: the first moment stands", async () => {
      const [first] = await pause(args);
      expect(await pause(args)).toEqual([{ ...first, verdict: "was paused already" }]);
      expect((await audits("job_pause")).filter((row) => row["subject"] === name)).toHaveLength(2);
      await resume(args);
      expect(await resume(args)).toEqual([{ what, name, since: null, verdict: "was not paused" }]);
    });
  });

  test.each([
    ["tenant => 'Nobody'", "tenant_not_found"],
    ["kind => 'nope'", "argument_invalid"],
    ["cohort => 'NOPE'", "argument_invalid"],
    ["tenant => 'Acme', kind => 'mail'", "argument_invalid"],
    ["dry_run => false", "argument_invalid"],
  ])("they refuse %s", async (args, name) => {
    expect(await raised(pause(args))).toMatchObject({ name });
    expect(await raised(resume(args))).toMatchObject({ name });
  });

  test("they refuse a call without a reason, and the logins of the shell", async () => {
    for (const fn of ["job_pause", "job_resume"]) {
      const text = `select * from ops.${fn}(reason => '', kind => 'mail')`;
      expect(await raised(query(text))).toMatchObject({ name: "reason_required" });
      await expect(database.worker.pool.query(text)).rejects.toMatchObject({ code: "42501" });
    }
  });
});

describe("job_kind_set", () => {
  beforeEach(async () => {
    await database.superuser.query("delete from app.job_kinds where kind in ('sms', 'new')");
    await runs.addKind("sms", { maxRetries: 2 });
  });
  const set = (args: string) => query(`select * from ops.job_kind_set('sms', reason => 'a test', ${args})`);
  const kind = async (name: string) =>
    (await database.superuser.query("select * from app.job_kinds where kind = $1", [name])).rows[0];

  test("it works: what is given changes, and nothing else; shown first; audited", async () => {
    const before = await kind("sms");
    const args = "max_running => 3, rate_per_minute => 60, non_retryable_codes => '{gone}'";
    const changes = [
      { setting: "max_running", before: null, after: "3" },
      { setting: "non_retryable_codes", before: "[]", after: '["gone"]' },
      { setting: "rate_per_minute", before: null, after: "60" },
    ];
    expect(await set(`${args}, dry_run => true`)).toEqual(changes);
    expect(await kind("sms")).toEqual(before);
    expect(await set(args)).toEqual(changes);
    expect(await kind("sms")).toEqual({
      ...before,
      max_running: 3,
      rate_per_minute: 60,
      non_retryable_codes: ["gone"],
    });
    const audited = await audits("job_kind_set");
    expect(audited[0]).toMatchObject({
      subject: "sms",
      before: { max_running: null },
      after: { max_running: 3 },
    });
    // Twice: nothing changes, and nothing is written.
    expect(await set(args)).toEqual([]);
    expect(await audits("job_kind_set")).toHaveLength(audited.length);
  });

  test("0 takes a limit away", async () => {
    await set("max_running => 3, rate_per_minute => 60");
    expect(await set("max_running => 0, rate_per_minute => 0")).toEqual([
      { setting: "max_running", before: "3", after: null },
      { setting: "rate_per_minute", before: "60", after: null },
    ]);
  });

  test("a schema is kept as it is, with the nulls in it", async () => {
    const schema = { type: "object", properties: { a: { type: ["string", "null"], default: null } } };
    await query("select * from ops.job_kind_set('sms', reason => 'a test', input_schema => $1)", [schema]);
    expect((await kind("sms"))["input_schema"]).toEqual(schema);
  });

  test("a kind that has a description is made", async () => {
    const made = await query(
      "select * from ops.job_kind_set('new', reason => 'a test', description => 'Does new things.', tenant_enqueues => true)",
    );
    expect(made).toContainEqual({ setting: "timeout_seconds", before: null, after: "300" });
    expect(await kind("new")).toMatchObject({
      timeout_seconds: 300,
      max_retries: 3,
      tenant_enqueues: true,
      slot_order: null,
    });
  });

  test("a pause and the turn of a kind are not touched", async () => {
    await query("select * from ops.job_pause(reason => 'an incident', kind => 'sms')");
    await set("max_retries => 9");
    expect(await kind("sms")).toMatchObject({ max_retries: 9, paused_at: expect.any(Date) });
  });

  test.each([
    ["timeout_seconds => 0", "timeout_seconds"],
    ["max_retries => 101", "max_retries"],
    ["backoff_base_ms => 0", "backoff_base_ms"],
    ["backoff_cap_ms => 1", "backoff_cap_ms"],
    ["non_retryable_codes => '{null}'", "non_retryable_codes"],
    ["description => ' '", "description"],
    ["max_running => -1", "max_running"],
    ["max_waiting => 0", "max_waiting"],
    ["rate_per_minute => 60001", "rate_per_minute"],
    ["rate_burst => 0", "rate_burst"],
    [`input_schema => '{"oneOf": []}'`, "input_schema: $.oneOf: is not known here"],
    [`input_schema => '[]'`, "input_schema: $: is no object"],
  ])("it refuses %s", async (args, argument) => {
    const before = await kind("sms");
    for (const more of ["", ", dry_run => true"]) {
      expect(await raised(set(`${args}${more}`))).toMatchObject({
        name: "argument_invalid",
        detail: { argument },
      });
    }
    expect(await kind("sms")).toEqual(before);
  });

  test("it refuses a kind that is not there, a name that cannot be one, and a call without a reason", async () => {
    const text = (args: string) => query(`select * from ops.job_kind_set(${args})`);
    expect(await raised(text("'new', reason => 'a test', max_retries => 1"))).toMatchObject({
      name: "job_kind_unknown",
    });
    expect(await raised(text("'No!', reason => 'a test', description => 'A name.'"))).toMatchObject({
      name: "argument_invalid",
      detail: { argument: "kind" },
    });
    expect(await raised(text("'sms', reason => '', max_retries => 1"))).toMatchObject({
      name: "reason_required",
    });
  });
});
