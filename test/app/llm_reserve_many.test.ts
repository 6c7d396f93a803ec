// sql/app/llm_reserve_many.sql: many requests at once, each admitted or refused by itself, in all of its budgets.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { bytesOf, lockWaits, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ask, askOf, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { reserveMany, tenantWith, counters, sound } = holds;
const runs = runsOf(database);

beforeAll(() => ledger.setPrices());

const column = (rows: Record<string, unknown>[], name: string) => rows.map((row) => row[name]);
const K = 1_000; // a thousand tokens of input cost a million nano-USD

describe("it works", () => {
  test("each request has its row, in their order, and its hold", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const rows = await reserveMany(
      tenantId,
      [1, 2, 3, 4].map((n) => askOf(n * 100, { ttl_ms: n * 60_000 })),
    );
    expect(column(rows, "n")).toEqual([1, 2, 3, 4]);
    expect(new Set(column(rows, "id")).size).toBe(4);
    expect(column(rows, "estimated_cost_nanousd")).toEqual(["100000", "200000", "300000", "400000"]);
    for (const [at, row] of rows.entries()) {
      expect(row).toMatchObject({
        status: "RESERVED",
        replayed: false,
        refusal: null,
        detail: null,
        hint: null,
      });
      expect(Math.abs(row["expires_at"].getTime() - Date.now() - (at + 1) * 60_000)).toBeLessThan(10_000);
    }
    expect(await counters(tenantId)).toEqual([
      { budget: "tenant month", reserved: 1_000_000, presumed: 0, spent: 0 },
    ]);
    expect(await ledger.holdCount(tenantId)).toBe(4);
    await sound();
  });

  test("one that is refused fails no other, and its key stays free", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asks = [
      askOf(400),
      askOf(1, { provider: "unheard-of" }),
      askOf(700, { idempotency_key: "too much" }),
      askOf(1, { input_tokens_bound: -1 }),
      askOf(1, { run_id: randomUUID() }),
      askOf(600),
    ];
    const rows = await reserveMany(tenantId, asks);
    expect(column(rows, "refusal")).toEqual([
      null,
      "no_price",
      "budget_exceeded",
      "reservation_invalid",
      "job_run_not_found",
      null,
    ]);
    for (const row of rows.filter(({ refusal }) => refusal !== null)) {
      expect(row).toMatchObject({ id: null, status: null, estimated_cost_nanousd: null, replayed: false });
      expect(row["hint"]).toMatch(/\w/);
    }
    expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000_000 }]);
    expect(await ledger.holdCount(tenantId)).toBe(2);
    await sound();
  });

  test("what fits is admitted one after the other: a smaller one after one that does not fit", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const rows = await reserveMany(tenantId, [
      askOf(500),
      askOf(501),
      askOf(400),
      askOf(101),
      askOf(100),
      askOf(1),
    ]);
    expect(rows.map(({ status }) => status)).toEqual(["RESERVED", null, "RESERVED", null, "RESERVED", null]);
    // What is told is what was left at its turn.
    expect(rows[1]!["detail"]).toMatchObject({ reason: "in_flight", max_affordable_output_tokens: 0 });
    expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000_000 }]);
    await sound();
  });

  test("the hold is of the run that is named, of the attempt, and says under what it counts", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const runId = await runs.add(tenantId);
    const id = await holds.hold(tenantId, {
      run_id: runId,
      attempt: 3,
      api_key: "key",
      user_id: "user",
      tags: ["a", "b"],
      images: 0,
    });
    expect(await ledger.hold(id)).toMatchObject({
      run_id: runId,
      attempt: 3,
      api_key: "key",
      user_id: "user",
      tags: ["a", "b"],
      service_tier: "standard",
    });
  });

  test("nothing is locked where nothing would fit if every open hold came back", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    await holds.hold(tenantId, askOf(900));
    const client = await database.superuser.connect();
    try {
      await client.query("begin");
      await client.query("select from app.llm_budget_periods where tenant_id = $1 for update", [tenantId]);
      const [row] = await reserveMany(tenantId, [askOf(1_001)]);
      expect(row!["detail"]).toMatchObject({ reason: "too_large" });
    } finally {
      await client.query("rollback");
      client.release();
    }
  });
});

describe("clamped", () => {
  test("to the output that fits, and the hold is of that", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const [row] = await reserveMany(tenantId, [ask({ max_output_tokens: 10_000, min_output_tokens: 1 })]);
    expect(row).toMatchObject({ max_output_tokens: "250", estimated_cost_nanousd: "1000000", refusal: null });
    expect(await ledger.hold(row!["id"])).toMatchObject({ max_output_tokens: "250" });
    await sound();
  });

  test("never below min_output_tokens: then it is refused", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const [least, below] = [
      ask({ max_output_tokens: 10_000, min_output_tokens: 251 }),
      ask({ max_output_tokens: 10_000, min_output_tokens: 250 }),
    ];
    const rows = await reserveMany(tenantId, [least, below]);
    expect(column(rows, "refusal")).toEqual(["budget_exceeded", null]);
    expect(rows[0]!["detail"]).toMatchObject({ max_affordable_output_tokens: 250 });
    expect(rows[1]).toMatchObject({ max_output_tokens: "250" });
    await sound();
  });

  test("to what is left at its turn, by the tightest of its budgets", async () => {
    const { tenantId } = await tenantWith(
      { limit: 3_000_000 },
      { scope: "user", scopeId: "u", limit: 1_500_000 },
    );
    const rows = await reserveMany(tenantId, [
      ask({ user_id: "u", input_tokens_bound: 0, max_output_tokens: 400 }),
      ask({ user_id: "u", input_tokens_bound: 0, max_output_tokens: 900, min_output_tokens: 100 }),
      ask({ input_tokens_bound: 0, max_output_tokens: 900, min_output_tokens: 100 }),
    ]);
    expect(column(rows, "max_output_tokens")).toEqual(["400", "350", "750"]);
    expect(await counters(tenantId)).toMatchObject([
      { budget: "tenant month", reserved: 3_000_000 },
      { budget: "user u month", reserved: 1_500_000 },
    ]);
    await sound();
  });

  test("a request that fits is not", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const [row] = await reserveMany(tenantId, [ask({ min_output_tokens: 1 })]);
    expect(row).toMatchObject({ max_output_tokens: "250" });
  });

  test("where output is free it changes nothing", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const [row] = await reserveMany(tenantId, [ask({ provider: "free", min_output_tokens: 1 })]);
    expect(row).toMatchObject({ max_output_tokens: "250", estimated_cost_nanousd: "0" });
  });

  test("a replay answers what was granted, not what was asked for", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asked = ask({ max_output_tokens: 10_000, min_output_tokens: 1 });
    const [first] = await reserveMany(tenantId, [asked]);
    expect(await reserveMany(tenantId, [asked])).toEqual([{ ...first, replayed: true }]);
  });
});

describe("scopes", () => {
  const scoped = () =>
    tenantWith(
      { limit: 10_000_000 },
      { scope: "api_key", scopeId: "k", limit: 5_000_000 },
      { scope: "user", scopeId: "u", limit: 4_000_000, period: "day" },
      { scope: "model", scopeId: "p/m", limit: 9_000_000, period: "total" },
      { scope: "tag", scopeId: "t1", limit: 3_000_000 },
      { scope: "tag", scopeId: "t2", limit: 2_000_000, period: "week" },
    );

  test("a call is held in every budget that it falls under, and in no other", async () => {
    const { tenantId } = await scoped();
    await reserveMany(tenantId, [
      askOf(100, { api_key: "k", user_id: "u", tags: ["t1", "t2", "t3"] }),
      askOf(20, { api_key: "k", user_id: "other", tags: ["t2", "t2"] }),
      askOf(3, { provider: "free" }),
      askOf(1, { tags: [] }),
    ]);
    const reserved = Object.fromEntries(
      (await counters(tenantId)).map((each) => [each.budget, each.reserved]),
    );
    expect(reserved).toEqual({
      "tenant month": 121_000,
      "api_key k month": 120_000,
      "user u day": 100_000,
      "model p/m total": 121_000,
      "tag t1 month": 100_000,
      "tag t2 week": 120_000,
    });
    await sound();
  });

  test.each([
    ["api_key", { api_key: "k" }, 5],
    ["user", { user_id: "u" }, 4],
    ["tag", { tags: ["t1"] }, 3],
    ["tag", { tags: ["t1", "t2"] }, 2],
    ["model", {}, 9],
    ["tenant", { provider: "p2" }, 10],
  ])("short of one of them, by %s, it is held in none", async (scope, under, millions) => {
    await database.ops
      .query("select ops.llm_price_set('p2', 'm', 1, 2, reason => 'test')")
      .catch(() => undefined);
    const { tenantId } = await scoped();
    const rows = await reserveMany(tenantId, [
      askOf(millions * K, under),
      askOf(1, under),
      askOf(1, { provider: "free" }),
    ]);
    expect(column(rows, "refusal")).toEqual([null, "budget_exceeded", null]);
    expect(rows[1]!["detail"]).toMatchObject({ scope, reason: "in_flight" });
    const held = await database.superuser.query(
      `select count(*)::int as n, count(distinct h.reservation_id)::int as of
       from app.llm_reservation_budgets as h where h.tenant_id = $1`,
      [tenantId],
    );
    expect(held.rows[0].of).toBe(2);
    expect(new Set((await counters(tenantId)).map((each) => each.reserved))).toEqual(
      new Set([millions * 1_000_000]),
    );
    await sound();
  });

  test("a user's budget is no budget of the tenant: no_budget", async () => {
    const { tenantId } = await tenantWith({ scope: "user", scopeId: "u", limit: 1_000_000 });
    const rows = await reserveMany(tenantId, [askOf(1, { user_id: "u" }), askOf(1, { provider: "free" })]);
    expect(column(rows, "refusal")).toEqual(["budget_exceeded", "budget_exceeded"]);
    expect(rows[0]!["detail"]).toMatchObject({ reason: "no_budget", max_affordable_output_tokens: 0 });
    expect(await counters(tenantId)).toEqual([]);
  });

  test("a user of zero is refused, the others are not", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 }, { scope: "user", scopeId: "u", limit: 0 });
    const rows = await reserveMany(tenantId, [
      askOf(0, { user_id: "u", provider: "free" }),
      askOf(1, { user_id: "v" }),
    ]);
    expect(column(rows, "refusal")).toEqual(["budget_exceeded", null]);
    expect(rows[0]!["detail"]).toMatchObject({ reason: "zero", scope: "user", scope_id: "u" });
  });

  test("unlimited counts and refuses nothing; another limit beside it still holds", async () => {
    const { tenantId } = await tenantWith({ limit: null }, { scope: "user", scopeId: "u", limit: 1_000_000 });
    const rows = await reserveMany(tenantId, [
      askOf(90_000_000),
      askOf(K, { user_id: "u" }),
      askOf(1, { user_id: "u" }),
      ask({ max_output_tokens: 1_000_000, min_output_tokens: 1 }),
    ]);
    expect(column(rows, "refusal")).toEqual([null, null, "budget_exceeded", null]);
    expect(rows[3]).toMatchObject({ max_output_tokens: "1000000" });
    expect(await counters(tenantId)).toMatchObject([
      { budget: "tenant month", reserved: 90_000_000_000 + 1_000_000 + 500_000 + 2_000_000_000 },
      { budget: "user u month", reserved: 1_000_000 },
    ]);
    await sound();
  });

  test("the budgets of a stranger with the same names are its own", async () => {
    const [mine, stranger] = [await scoped(), await scoped()];
    await holds.hold(stranger.tenantId, askOf(2 * K, { api_key: "k", user_id: "u", tags: ["t1", "t2"] }));
    const before = await counters(stranger.tenantId);
    await holds.hold(mine.tenantId, askOf(2 * K, { api_key: "k", user_id: "u", tags: ["t1", "t2"] }));
    expect(await counters(stranger.tenantId)).toEqual(before);
    const { rows } = await database.superuser.query(
      `select from app.llm_reservation_budgets as h
       join app.llm_budgets as b on b.id = h.budget_id where b.tenant_id <> h.tenant_id`,
    );
    expect(rows).toEqual([]);
  });
});

describe("it works twice", () => {
  test("the same batch again answers the same holds", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asks = [askOf(500), askOf(501), askOf(500)];
    const first = await reserveMany(tenantId, asks);
    const again = await reserveMany(tenantId, asks);
    for (const at of [0, 2]) expect(again[at]).toEqual({ ...first[at], replayed: true });
    expect(again[1]).toMatchObject({ refusal: "budget_exceeded" });
    expect(await ledger.holdCount(tenantId)).toBe(2);
    await sound();
  });

  test("a key that comes twice in a batch makes one hold", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const same = ask({ idempotency_key: "twice" });
    const rows = await reserveMany(tenantId, [same, ask(), same, { ...same, input_tokens_bound: 501 }]);
    expect(column(rows, "refusal")).toEqual([null, null, null, "idempotency_conflict"]);
    expect(rows[2]).toEqual({ ...rows[0], n: 3, replayed: true });
    expect(await ledger.holdCount(tenantId)).toBe(2);
    expect(await counters(tenantId)).toMatchObject([{ reserved: 2_000_000 }]);
    await sound();
  });

  test("a key that comes twice, and the first of them is refused: the second is refused too", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    await holds.hold(tenantId, askOf(500));
    const same = askOf(501, { idempotency_key: "twice" });
    const rows = await reserveMany(tenantId, [same, same]);
    expect(column(rows, "refusal")).toEqual(["budget_exceeded", "budget_exceeded"]);
    expect(column(rows, "replayed")).toEqual([false, false]);
    expect(rows[1]!["detail"]).toEqual(rows[0]!["detail"]);
    expect(await ledger.holdCount(tenantId)).toBe(1);
    await sound();
  });

  test("a key whose first request in the batch is invalid is judged by itself", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const rows = await reserveMany(tenantId, [
      askOf(-1, { idempotency_key: "k" }),
      askOf(1, { idempotency_key: "k", provider: "unheard-of" }),
      askOf(1, { idempotency_key: "k" }),
    ]);
    expect(column(rows, "refusal")).toEqual(["reservation_invalid", "no_price", null]);
    await sound();
  });

  test("a replay comes before price, run and budget; another request under the key is a conflict", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asked = ask({ idempotency_key: "k" });
    const [first] = await reserveMany(tenantId, [asked]);
    await database.superuser.query("update app.llm_budgets set limit_nanousd = 0 where tenant_id = $1", [
      tenantId,
    ]);
    const rows = await reserveMany(tenantId, [
      asked,
      { ...asked, ttl_ms: 1 }, // how long it lasts is not what was asked
      { ...asked, service_tier: "standard", images: 0, tags: [], api_key: null }, // as it is understood without these
      { ...asked, model: "unheard-of" },
      { ...asked, tags: ["t"] },
      { ...asked, api_key: "k" },
      { ...asked, min_output_tokens: 1 },
      { ...asked, run_id: randomUUID() },
    ]);
    expect(rows[0]).toEqual({ ...first, replayed: true });
    expect(rows[1]).toEqual({ ...first, n: 2, replayed: true });
    expect(rows[2]).toEqual({ ...first, n: 3, replayed: true });
    expect(column(rows.slice(3), "refusal")).toEqual(Array(5).fill("idempotency_conflict"));
    expect(await ledger.holdCount(tenantId)).toBe(1);
    await sound();
  });

  test("a replay says what has become of the hold", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const asked = ask();
    const [{ id }] = (await reserveMany(tenantId, [asked])) as [{ id: string }];
    const become = async () => (await reserveMany(tenantId, [asked]))[0];
    await holds.presume(tenantId, id);
    expect(await become()).toMatchObject({ id, status: "PRESUMED", replayed: true, refusal: null });
    await holds.settle(tenantId, id);
    expect(await become()).toMatchObject({ id, status: "APPLIED", replayed: true, refusal: null });
  });
});

describe("what a refused caller is told is true", () => {
  test("the output tokens that are offered are admitted, and one more is not, while others hold", async () => {
    const { tenantId } = await tenantWith(
      { limit: 2_000_000 },
      { scope: "user", scopeId: "u", limit: 1_500_000 },
    );
    await holds.hold(tenantId, askOf(300, { user_id: "u" }));
    for (const output of [500, 700, 5_000]) {
      const asked = { input_tokens_bound: 100, user_id: "u" };
      const [refused] = await reserveMany(tenantId, [ask({ ...asked, max_output_tokens: output + 100 })]);
      const affordable = refused!["detail"].max_affordable_output_tokens;
      expect(affordable, refused!["detail"].reason).toBe(550);
      const rows = await reserveMany(tenantId, [
        ask({ ...asked, max_output_tokens: affordable + 1 }),
        ask({ ...asked, max_output_tokens: affordable }),
      ]);
      expect(column(rows, "refusal")).toEqual(["budget_exceeded", null]);
      await holds.release(tenantId, rows[1]!["id"]);
    }
    await sound();
  });

  test("a limit that is cut while callers wait for the counters stops them", async () => {
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    await holds.hold(tenantId);
    const holder = await database.superuser.connect();
    try {
      await holder.query("begin");
      await holder.query("select from app.llm_budget_periods where tenant_id = $1 for no key update", [
        tenantId,
      ]);
      const waiting = Promise.all([1, 2].map(() => reserveMany(tenantId, [ask()])));
      await expect.poll(() => lockWaits(database), { interval: 10 }).toBe(2);
      await database.superuser.query(
        "update app.llm_budgets set limit_nanousd = 2000000 where tenant_id = $1",
        [tenantId],
      );
      await holder.query("commit");
      const refusals = (await waiting).map(([row]) => row!["refusal"]);
      expect(refusals.sort()).toEqual(["budget_exceeded", null]);
    } finally {
      await holder.query("rollback");
      holder.release();
    }
    await sound();
  });
});

describe("bad input", () => {
  test.each([
    ["null", "null"],
    ["no list", "{}"],
    ["an empty list", "[]"],
    ["a number", "1"],
  ])("%s is reservation_invalid", async (_what, asks) => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    await refusal(reserveMany(tenantId, asks), "reservation_invalid");
  });

  test("1,000 are taken, and not one more", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000_000 });
    const asks = Array.from({ length: 1_001 }, () => askOf(1));
    await refusal(reserveMany(tenantId, asks), "reservation_invalid");
    expect(await ledger.holdCount(tenantId)).toBe(0);
    expect(await reserveMany(tenantId, asks.slice(1))).toHaveLength(1_000);
    await sound();
  });

  const numbers = ["input_tokens_bound", "max_output_tokens", "images", "tool_calls", "ttl_ms", "attempt"];
  const hostile = [
    "-1",
    "1e400",
    "-1e400",
    '"NaN"',
    '"Infinity"',
    '"-Infinity"',
    "9223372036854775808",
    "1e18",
  ];
  test.each(numbers.flatMap((name) => hostile.map((value) => [name, value])))(
    "%s of %s is reservation_invalid by itself, and nothing has changed",
    async (name, value) => {
      const { tenantId } = await tenantWith({ limit: 1_000_000 });
      const other = askOf(1);
      const bad = JSON.stringify(ask()).replace(/}$/, `,"${name}":${value}}`);
      const rows = await reserveMany(tenantId, `[${bad},${JSON.stringify(other)}]`);
      expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
      expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000 }]);
      await sound();
    },
  );

  test.each<[string, Record<string, unknown>]>([
    ["no key", { idempotency_key: null }],
    ["an empty key", { idempotency_key: "" }],
    ["a key of 256", { idempotency_key: "k".repeat(256) }],
    ["no input", { input_tokens_bound: null }],
    ["no output", { max_output_tokens: null }],
    ["a clamp to nothing", { min_output_tokens: 0 }],
    ["a clamp above", { min_output_tokens: 251 }],
    ["attempt 0", { attempt: 0 }],
    ["another tier", { service_tier: "free" }],
    ["an empty user", { user_id: "" }],
    ["a long key", { api_key: "k".repeat(201) }],
    ["21 tags", { tags: Array.from({ length: 21 }, (_, n) => `t${n}`) }],
    ["a tag of null", { tags: [null] }],
    ["long tags", { tags: ["t".repeat(2_001)] }],
    ["a long model", { model: "m".repeat(201) }],
    ["an object for a number", { input_tokens_bound: {} }],
    ["words for a number", { input_tokens_bound: "many" }],
    ["an id that is none", { run_id: "x" }],
    ["tags that are no list", { tags: "t" }],
    ["a list of lists", { tags: [["t"], ["u"]] }],
    ["an object for a key", { idempotency_key: { a: 1 }, max_output_tokens: "x" }],
  ])("%s is reservation_invalid by itself", async (_what, different) => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const rows = await reserveMany(tenantId, [ask(different), askOf(1)]);
    expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
    expect(await ledger.holdCount(tenantId)).toBe(1);
  });

  test.each([["1"], ["null"], ['"x"'], ["[]"], ["true"]])("%s in the list is too", async (one) => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const rows = await reserveMany(tenantId, `[${one},${JSON.stringify(askOf(1))}]`);
    expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
  });

  test("zero tokens are held for nothing", async () => {
    const { tenantId } = await tenantWith({ limit: 1 });
    const [row] = await reserveMany(tenantId, [askOf(0)]);
    expect(row).toMatchObject({ estimated_cost_nanousd: "0", status: "RESERVED" });
  });

  test("of a member that is written twice the last one counts, in the hold as in the fingerprint", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const asked = ask({ input_tokens_bound: 100 });
    const twice = JSON.stringify(asked).replace(/^\{/, '{"input_tokens_bound":1,');
    const [row] = await reserveMany(tenantId, `[${twice}]`);
    expect(row).toMatchObject({ estimated_cost_nanousd: "600000" });
    expect(await reserveMany(tenantId, [asked])).toMatchObject([{ id: row!["id"], replayed: true }]);
    await sound();
  });

  test("an image or a paid tool without a price is refused", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const rows = await reserveMany(tenantId, [
      ask({ images: 1 }),
      ask({ tool_calls: 1 }),
      ask({ service_tier: "batch" }),
    ]);
    expect(column(rows, "refusal")).toEqual(["no_price", "no_price", "no_price"]);
  });
});

describe("a stranger gets nothing", () => {
  test("with another ticket, or none", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const text = "select * from app.llm_reserve_many($1, $2, $3::jsonb)";
    await strangerIsRefused(database, database.service, tenantId, text, [JSON.stringify([ask()])]);
    expect(await ledger.holdCount(tenantId)).toBe(0);
  });

  test("a run of another is answered in the same bytes as one that is not there", async () => {
    const [mine, stranger] = [await tenantWith({ limit: 10_000_000 }), await database.addTenant()];
    const theirs = await runs.add(stranger.tenantId);
    const asked = ask();
    const said = async (run_id: string) =>
      JSON.stringify(await reserveMany(mine.tenantId, [{ ...asked, run_id }])).replaceAll(run_id, "");
    expect(await said(theirs)).toBe(await said(randomUUID()));
    const one = (run_id: string) =>
      refusal(ledger.reserve(mine.tenantId, { runId: run_id }), "job_run_not_found");
    expect(bytesOf(await one(theirs))).toBe(bytesOf(await one(randomUUID())));
    expect(await ledger.holdCount(mine.tenantId)).toBe(0);
  });

  test("nor people in psql, nor the tenant role", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const called = database.ops.query("select app.llm_reserve_many($1, $2, '[]')", [
      tenantId,
      database.ticket(tenantId),
    ]);
    await expect(called).rejects.toMatchObject({ code: "42501" });
  });
});
