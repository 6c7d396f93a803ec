// sql/ops/job_cancel.sql, job_enqueue.sql and job_show.sql: one run, in the hands of a person.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { type TestTenant, testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let acme: TestTenant;

beforeAll(async () => {
  acme = await database.addTenant({ name: "Acme" });
  await runs.addKind("mail");
  await database.superuser.query(
    `update app.job_kinds set max_running = 1, input_schema = '{"properties": {"to": {"type": "string"}}}'
     where kind = 'mail'`,
  );
});

const query = async (text: string, values: unknown[] = []): Promise<Row[]> =>
  (await database.ops.query(text, values)).rows;
const enqueue = (more = "", values: unknown[] = []) =>
  query(`select * from ops.job_enqueue(tenant => 'Acme', kind => 'mail', reason => 'a test'${more})`, values);
const cancel = (runId: string, more = "") =>
  query(`select * from ops.job_cancel($1, actor => 'joe', reason => 'not needed'${more})`, [runId]);
const audits = async (action: string) =>
  query("select subject, reason, after from ops.audit_log where action = $1 order by id desc", [action]);

describe("job_enqueue", () => {
  test("it works: any kind, with input, moment and priority; shown first, then made, audited", async () => {
    const more = `, input => '{"to": "joe"}', run_at => now() + interval '1 day', priority => 7`;
    const before = (await database.superuser.query("select count(*)::int as n from app.job_runs")).rows[0].n;
    expect(await enqueue(`${more}, dry_run => true`)).toMatchObject([
      { run: null, verdict: "would be made" },
    ]);
    expect((await database.superuser.query("select count(*)::int as n from app.job_runs")).rows[0].n).toBe(
      before,
    );
    const [made] = await enqueue(more);
    expect(made).toMatchObject({
      tenant_name: "Acme",
      run_kind: "mail",
      verdict: "made, and waits for its place",
    });
    expect(await runs.row(made!["run"])).toMatchObject({
      state: "PENDING",
      input: { to: "joe" },
      priority: 7,
      available_at: made!["due_at"],
    });
    expect((await audits("job_enqueue"))[0]).toMatchObject({
      subject: "Acme",
      reason: "a test",
      after: { run: made!["run"], kind: "mail", input: { to: "joe" }, priority: 7 },
    });
    await cancel(made!["run"]);
    const [now] = await enqueue();
    expect(now).toMatchObject({ verdict: "made, and in the queue" });
    // Twice is two: the second waits for the first.
    const [next] = await enqueue();
    expect(next).toMatchObject({ verdict: "made, and waits for its place" });
    for (const made of [now, next]) await cancel(made!["run"]);
  });

  test.each([
    ["tenant => 'Nobody', kind => 'mail', reason => 'a test'", "tenant_not_found"],
    ["tenant => 'Acme', kind => 'nope', reason => 'a test'", "job_kind_unknown"],
    [`tenant => 'Acme', kind => 'mail', input => '{"to": 1}', reason => 'a test'`, "job_input_invalid"],
    ["tenant => 'Acme', kind => 'mail', reason => ' '", "reason_required"],
    ["tenant => 'Acme', kind => 'mail', reason => 'a test', priority => -101", "argument_invalid"],
  ])("it refuses %s", async (args, name) => {
    for (const more of ["", ", dry_run => true"])
      expect(await raised(query(`select * from ops.job_enqueue(${args}${more})`))).toMatchObject({ name });
  });
});

describe("job_cancel", () => {
  test("it works: shown first, then done, audited; twice changes nothing", async () => {
    const runId = await runs.add(acme.tenantId, "mail");
    const shown = { run_id: runId, tenant: "Acme", kind: "mail" };
    expect(await cancel(runId, ", dry_run => true")).toEqual([{ ...shown, verdict: "would end at once" }]);
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING" });
    expect(await cancel(runId)).toEqual([{ ...shown, verdict: "has ended" }]);
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER", actor: "joe", reason: "not needed" });
    const audited = await audits("job_cancel");
    expect(audited[0]).toMatchObject({ subject: "Acme", after: { state: "DEAD_LETTER", actor: "joe" } });
    expect(await cancel(runId)).toEqual([{ ...shown, verdict: "was cancelled already" }]);
    expect(await audits("job_cancel")).toHaveLength(audited.length);
  });

  test("one that runs is told, or ended by force", async () => {
    const runId = await runs.running(acme.tenantId, "mail");
    expect(await cancel(runId, ", dry_run => true")).toMatchObject([
      { verdict: "its worker would be told, and it would end within 20 s" },
    ]);
    expect(await cancel(runId)).toMatchObject([{ verdict: "its worker is told, and it ends within 20 s" }]);
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", cancel_requested_at: expect.any(Date) });
    expect(await cancel(runId, ", force => true")).toMatchObject([{ verdict: "has ended" }]);
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER" });
  });

  test("it refuses a run that has ended, one that is not there, and a call without a reason", async () => {
    const done = await runs.running(acme.tenantId, "mail");
    await runs.complete(acme.tenantId, done, 1, {});
    for (const more of ["", ", dry_run => true"])
      expect(await raised(cancel(done, more))).toMatchObject({ name: "job_ended" });
    expect(await raised(cancel(randomUUID()))).toMatchObject({ name: "job_run_not_found" });
    expect(await raised(query("select * from ops.job_cancel($1, 'joe', '')", [done]))).toMatchObject({
      name: "reason_required",
    });
  });
});

describe("job_show", () => {
  const show = (runId: string) => query("select at, what, detail from ops.job_show($1)", [runId]);

  test("it tells the story of a run in order, as it stands, as often as it is asked", async () => {
    const runId = await runs.running(acme.tenantId, "mail");
    await runs.fail(acme.tenantId, runId, 1, "sqlstate_23505", "The row was there.");
    expect((await show(runId)).at(-1)).toMatchObject({
      what: "waits",
      detail: "for a person: ops.job_replay or ops.job_discard",
    });
    await query("select * from ops.job_discard($1, 'ann', 'of no use', dry_run => false)", [{ run: runId }]);
    await query("select * from ops.job_replay($1, 'joe', 'it is mended', dry_run => false)", [
      { run: runId },
    ]);
    const story = await show(runId);
    expect(story.map((row) => row["what"])).toEqual([
      ...["made", "PENDING", "PENDING to RUNNING", "RUNNING to DEAD_LETTER", "last error"],
      ...["discarded", "DEAD_LETTER to PENDING", "token", "waits"],
    ]);
    const detail = (what: string) => story.find((row) => row["what"] === what)?.["detail"];
    expect(detail("made")).toBe("mail of Acme");
    expect(detail("PENDING to RUNNING")).toBe("attempt 1, by w1");
    expect(detail("discarded")).toBe("by ann, of no use");
    expect(detail("DEAD_LETTER to PENDING")).toBe("attempt 1, by joe, it is mended");
    expect(detail("last error")).toBe("sqlstate_23505: The row was there.");
    expect(detail("waits")).toBe("no worker lives");
    const times = story.map((row) => row["at"].getTime());
    expect(times).toEqual([...times].sort((a, b) => a - b));

    await runs.claim(acme.tenantId, runId, "w7");
    await database.worker.pool.query("select app.job_progress($1, $2, $3, 2, 0.4, 'half way')", [
      acme.tenantId,
      database.ticket(acme.tenantId),
      runId,
    ]);
    const running = await show(runId);
    expect(running.find((row) => row["what"] === "progress")?.["detail"]).toBe("40 %, half way");
    expect(running.find((row) => row["what"] === "lease")?.["detail"]).toMatch(/^of w7, ends in 1\ds$/);
    await runs.complete(acme.tenantId, runId, 2, {});
  });

  test("it refuses a run that is not there, and the logins of the shell", async () => {
    expect(await raised(show(randomUUID()))).toMatchObject({ name: "job_run_not_found" });
    await expect(
      database.worker.pool.query("select * from ops.job_show($1)", [randomUUID()]),
    ).rejects.toMatchObject({ code: "42501" });
  });
});
