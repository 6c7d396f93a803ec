// sql/app/job_enqueue.sql: a run that somebody asks for, in the transaction of who asks.
import { beforeAll, describe, expect, test } from "vitest";
import { as, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("mail");
  await database.superuser.query(
    `update app.job_kinds set tenant_enqueues = true, max_running = 2, max_waiting = 50, input_schema =
       '{"type": "object", "properties": {"to": {"type": "string", "maxLength": 20}}, "additionalProperties": false}'
     where kind = 'mail'`,
  );
  await runs.addKind("inner");
});

const ENQUEUE = `select * from app.job_enqueue($1, $2, kind => $3, input => $4, run_at => coalesce($5, now()),
  idempotency_key => $6, priority => $7)`;

type Asked = { kind?: string; input?: unknown; at?: Date | string; key?: string; priority?: number };

const enqueue = (of: string, { kind = "mail", input = {}, at, key, priority = 0 }: Asked = {}) =>
  oneAs(database.service, of, ENQUEUE, [kind, JSON.stringify(input), at ?? null, key ?? null, priority]);

const countOf = async (of: string) =>
  (await database.superuser.query("select count(*)::int as n from app.job_runs where tenant_id = $1", [of]))
    .rows[0].n;

describe("it works", () => {
  test("the run is pending, with its input and its token", async () => {
    const asked = await enqueue(tenantId, { input: { to: "joe" }, priority: -5 });
    expect(asked).toMatchObject({ state: "PENDING", replayed: false });
    expect(await runs.row(asked["run_id"])).toMatchObject({
      tenant_id: tenantId,
      kind: "mail",
      slot: null,
      input: { to: "joe" },
      priority: -5,
      available_at: asked["available_at"],
    });
    expect(await runs.tokens(asked["run_id"])).toMatchObject([
      { key: `run:${asked["run_id"]}:0`, payload: { tenant_id: tenantId, run_id: asked["run_id"] } },
    ]);
    expect(await runs.claim(tenantId, asked["run_id"])).toMatchObject({ attempt: 1, input: { to: "joe" } });
  });

  test("with its defaults: one that says the kind alone", async () => {
    const text = "select * from app.job_enqueue($1, $2, 'mail')";
    expect(await oneAs(database.worker, tenantId, text)).toMatchObject({ state: "PENDING" });
  });

  test("for a later moment it is parked until then, and not started before", async () => {
    const at = new Date(Date.now() + 3_600_000);
    const asked = await enqueue(tenantId, { at });
    expect(asked["available_at"]).toEqual(at);
    expect(await runs.tokens(asked["run_id"])).toEqual([]);
    expect(await runs.claim(tenantId, asked["run_id"])).toBeUndefined();
    // A moment that has passed is now, and no way past those who wait.
    const past = await enqueue(tenantId, { at: "-infinity" });
    expect(Math.abs(past["available_at"].getTime() - Date.now())).toBeLessThan(60_000);
  });

  test("it is there with the transaction of who asked, or not at all", async () => {
    const other = await database.addTenant();
    const client = await database.service.pool.connect();
    try {
      for (const [end, there] of [
        ["rollback", 0],
        ["commit", 2],
      ] as const) {
        await client.query("begin");
        for (const key of ["a", "b"]) {
          await client.query("select app.job_enqueue($1, $2, 'mail', idempotency_key => $3)", [
            other.tenantId,
            database.ticket(other.tenantId),
            key,
          ]);
        }
        await client.query(end);
        expect(await countOf(other.tenantId)).toBe(there);
      }
    } finally {
      client.release();
    }
  });

  test("the tenant counts as active", async () => {
    const of = await database.addTenant();
    const active = async () =>
      (
        await database.superuser.query(
          "select last_active_at > now() - interval '1 minute' as now from app.tenants where tenant_id = $1",
          [of.tenantId],
        )
      ).rows[0].now;
    await database.superuser.query(
      "update app.tenants set last_active_at = now() - interval '3 days' where tenant_id = $1",
      [of.tenantId],
    );
    expect(await active()).toBe(false);
    await enqueue(of.tenantId);
    expect(await active()).toBe(true);
  });
});

describe("it works twice", () => {
  test("the same key with the same request answers the first run, whatever has become of it", async () => {
    const asked = { input: { to: "ann" }, key: "twice", priority: 3 };
    const first = await enqueue(tenantId, asked);
    const before = await countOf(tenantId);
    expect(await enqueue(tenantId, asked)).toEqual({ ...first, replayed: true });
    await runs.claim(tenantId, first["run_id"]);
    await database.superuser.query("update app.job_kinds set tenant_enqueues = false where kind = 'mail'");
    const again = enqueue(tenantId, asked).finally(() =>
      database.superuser.query("update app.job_kinds set tenant_enqueues = true where kind = 'mail'"),
    );
    expect(await again).toMatchObject({ run_id: first["run_id"], replayed: true });
    expect(await countOf(tenantId)).toBe(before);
  });

  test("a moment that was named belongs to the request; now does not", async () => {
    const at = new Date(Date.now() + 7_200_000);
    const first = await enqueue(tenantId, { key: "later", at });
    expect(await enqueue(tenantId, { key: "later", at })).toMatchObject({ run_id: first["run_id"] });
    await refusal(enqueue(tenantId, { key: "later" }), "idempotency_conflict");
    await refusal(
      enqueue(tenantId, { key: "later", at: new Date(at.getTime() + 1) }),
      "idempotency_conflict",
    );
  });

  test.each([
    ["kind", { kind: "analysis" }],
    ["input", { input: { to: "bob" } }],
    ["priority", { priority: 1 }],
  ])("the same key with another %s is refused", async (what, other) => {
    await enqueue(tenantId, { key: `conflict ${what}` });
    await refusal(enqueue(tenantId, { key: `conflict ${what}`, ...other }), "idempotency_conflict");
  });

  test("ten at once with one key are one run", async () => {
    const other = await database.addTenant();
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => enqueue(other.tenantId, { key: "ten" })),
    );
    expect(new Set(answers.map((answer) => answer["run_id"])).size).toBe(1);
    expect(answers.filter((answer) => !answer["replayed"])).toHaveLength(1);
    expect(await countOf(other.tenantId)).toBe(1);
  });

  test("ten at once without a key are ten runs, of which two hold a place", async () => {
    const other = await database.addTenant();
    await enqueue(other.tenantId);
    const calls = Array.from({ length: 9 }, () => () => enqueue(other.tenantId));
    await Promise.all(calls.map((call) => call()));
    expect(await countOf(other.tenantId)).toBe(10);
  });
});

describe("it refuses, and makes nothing", () => {
  test.each([
    ["a kind that is not there", { kind: "nope" }, "job_kind_unknown", { kind: "nope" }],
    ["a kind that tenants may not ask for", { kind: "inner" }, "job_kind_not_enqueueable", { kind: "inner" }],
    [
      "an input that breaks the schema",
      { input: { to: 5 } },
      "job_input_invalid",
      { kind: "mail", path: "$.to", fault: "$.to: is no string" },
    ],
    [
      "an input with a strange name",
      { input: { 'x": y': 1 } },
      "job_input_invalid",
      { path: '$["x\\": y"]', fault: '$["x\\": y"]: is not a property that there is' },
    ],
    ["no object", { input: [] }, "job_input_invalid", { path: "$", fault: "$: is no object" }],
    ["too much input", { input: { to: "x".repeat(70_000) } }, "argument_invalid", { argument: "input" }],
    [
      "a moment too far ahead",
      { at: new Date(Date.now() + 367 * 86_400_000) },
      "argument_invalid",
      { argument: "run_at" },
    ],
    ["a moment that never comes", { at: "infinity" }, "argument_invalid", { argument: "run_at" }],
    ["a priority out of range", { priority: 101 }, "argument_invalid", { argument: "priority" }],
    ["an empty key", { key: "" }, "argument_invalid", { argument: "idempotency_key" }],
  ])("%s", async (_what, asked, code, detail) => {
    const other = await database.addTenant();
    const refused = await refusal(enqueue(other.tenantId, { key: "again", ...asked }), code);
    expect(refused.detail).toMatchObject(detail);
    expect(refused.hint).toBeTypeOf("string");
    expect(await countOf(other.tenantId)).toBe(0);
    // The key was not used up.
    if (!("key" in asked))
      expect(await enqueue(other.tenantId, { key: "again" })).toMatchObject({ replayed: false });
  });

  test("one more than may wait; another tenant may", async () => {
    const [full, other] = [await database.addTenant(), await database.addTenant()];
    for (let n = 0; n < 50; n += 1) await enqueue(full.tenantId, { key: `n${n}` });
    const refused = await refusal(enqueue(full.tenantId), "job_queue_full");
    expect(refused.detail).toEqual({ kind: "mail", max_waiting: 50 });
    expect(await enqueue(full.tenantId, { key: "n7" })).toMatchObject({ replayed: true });
    expect(await enqueue(other.tenantId)).toMatchObject({ state: "PENDING" });
  });
});

test("a stranger gets nothing: not a run, not the key of another", async () => {
  const first = await enqueue(tenantId, { key: "mine" });
  const before = await countOf(tenantId);
  const text = "select * from app.job_enqueue($1, $2, 'mail', idempotency_key => 'mine')";
  const stranger = await strangerIsRefused(database, database.service, tenantId, text);
  const [theirs] = await as(database.service, stranger.tenantId, text);
  expect(theirs).toMatchObject({ replayed: false });
  expect(theirs!["run_id"]).not.toBe(first["run_id"]);
  expect(await countOf(tenantId)).toBe(before);
});
