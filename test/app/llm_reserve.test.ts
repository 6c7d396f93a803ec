// sql/app/llm_reserve.sql: the hold before the call.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { bytesOf, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { type Asked, ledgerOf, RESERVE, reserveValues } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const runs = runsOf(database);
const { reserve, setBudget, balances, holdCount, broken } = ledger;

beforeAll(() => ledger.setPrices());

describe("it works", () => {
  test("it holds the most that the call can cost, before it is made", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.01" });
    const hold = await reserve(tenantId, { ttl: "90 seconds" });
    expect(hold).toMatchObject({ status: "RESERVED", estimated_cost_nanousd: "1000000", replayed: false });
    expect(Math.abs(hold["expires_at"].getTime() - Date.now() - 90_000)).toBeLessThan(10_000);
    expect(await balances(tenantId)).toEqual([
      { period: "month", reserved: 1_000_000, presumed: 0, spent: 0 },
    ]);
    expect(await broken()).toEqual([]);
  });

  test("a cost between two nano-USD is held as the upper one", async () => {
    await database.ops.query("select ops.llm_price_set('odd', 'm', 0.0003, 0.0005, reason => 'test')");
    const { tenantId } = await database.addTenant();
    const hold = await reserve(tenantId, { provider: "odd", input: 1, output: 1 });
    expect(hold["estimated_cost_nanousd"]).toBe("1");
    expect(
      (await reserve(tenantId, { provider: "odd", input: 3, output: 0 }))["estimated_cost_nanousd"],
    ).toBe("1");
    expect(
      (await reserve(tenantId, { provider: "odd", input: 10, output: 0 }))["estimated_cost_nanousd"],
    ).toBe("3");
  });

  test("a cache that costs more than plain input is what the hold counts with", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       values ('dear', 'm', 'input', 1, '[2026-01-01,)', 'test'), ('dear', 'm', 'cached_input', 3, '[2026-01-01,)', 'test'),
              ('dear', 'm', 'output', 2, '[2026-01-01,)', 'test')`,
    );
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    const refused = await refusal(
      reserve(tenantId, { provider: "dear", input: 100, output: 1000 }),
      "budget_exceeded",
    );
    const affordable = Number(refused.detail["max_affordable_output_tokens"]);
    expect(affordable).toBe(350);
    const hold = await reserve(tenantId, { provider: "dear", input: 100, output: affordable });
    expect(hold["estimated_cost_nanousd"]).toBe("1000000");
  });

  test("the commit waits for the disk: a paid call follows it", async () => {
    const { tenantId } = await database.addTenant();
    const client = await database.service.pool.connect();
    try {
      await client.query("begin");
      await client.query("set local synchronous_commit = off");
      await client.query(RESERVE, [tenantId, database.ticket(tenantId), ...reserveValues()]);
      // It is read when the transaction commits, so it must outlive the function.
      expect((await client.query("show synchronous_commit")).rows).toEqual([{ synchronous_commit: "on" }]);
    } finally {
      await client.query("rollback");
      client.release();
    }
  });

  test("what is held to the last nano-USD of the limit is admitted, and not one more", async () => {
    await database.ops.query("select ops.llm_price_set('tiny', 'm', 0.001, 0.001, reason => 'test')"); // 1 nano-USD a token
    const { tenantId } = await database.addTenant({ limitUsd: "0.000000010" });
    await reserve(tenantId, { provider: "tiny", input: 4, output: 0 });
    await refusal(reserve(tenantId, { provider: "tiny", input: 0, output: 7 }), "budget_exceeded");
    await reserve(tenantId, { provider: "tiny", input: 0, output: 6 });
    await refusal(reserve(tenantId, { provider: "tiny", input: 1, output: 0 }), "budget_exceeded");
    await reserve(tenantId, { provider: "free" }); // it adds nothing, and the budget is not zero
    expect(await broken()).toEqual([]);
  });
});

describe("it works twice", () => {
  test("the same key and request answer the first hold, whatever has become of it", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    const asked = { key: "again", runId: await runs.add(tenantId) };
    const first = await reserve(tenantId, asked);
    const second = await reserve(tenantId, asked); // there is no money for another
    expect(second).toEqual({ ...first, replayed: true });

    await ledger.release(tenantId, first["id"]);
    expect(await reserve(tenantId, asked)).toMatchObject({
      id: first["id"],
      status: "RELEASED",
      replayed: true,
    });
    expect(await holdCount(tenantId)).toBe(1);
  });

  test("a replay comes before every other check: the price and the budget may have gone", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await database.ops.query("select ops.llm_price_set('fleeting', 'm', 1, 2, reason => 'test')");
    const asked = { key: "kept", provider: "fleeting" };
    const first = await reserve(tenantId, asked);
    await database.superuser.query(
      "update app.llm_prices set valid = tstzrange(lower(valid), clock_timestamp()) where provider = 'fleeting'",
    );
    await setBudget(name, "0");
    expect(await reserve(tenantId, asked)).toMatchObject({ id: first["id"], replayed: true });
    await refusal(reserve(tenantId, { provider: "fleeting" }), "no_price");
  });

  test.each<[string, Asked]>([
    ["more input", { input: 501 }],
    ["more output", { output: 251 }],
    ["another provider", { provider: "free" }],
    ["another run", { runId: "00000000-0000-7000-8000-00000000000a" }],
    ["another attempt", { attempt: 2 }],
  ])("the same key with %s is a conflict", async (_, different) => {
    const { tenantId } = await database.addTenant();
    await reserve(tenantId, { key: "taken" });
    const refused = await refusal(reserve(tenantId, { key: "taken", ...different }), "idempotency_conflict");
    expect(refused.status).toBe(422);
    expect(await holdCount(tenantId)).toBe(1);
  });

  test("a refused call leaves its key free", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0" });
    await refusal(reserve(tenantId, { key: "later" }), "budget_exceeded");
    expect(await holdCount(tenantId)).toBe(0);
    await setBudget(name, "1");
    expect(await reserve(tenantId, { key: "later" })).toMatchObject({ replayed: false });
  });

  test("another tenant may use the same key", async () => {
    const [one, other] = [await database.addTenant(), await database.addTenant()];
    const first = await reserve(one.tenantId, { key: "shared" });
    const second = await reserve(other.tenantId, { key: "shared" });
    expect(second).toMatchObject({ replayed: false });
    expect(second["id"]).not.toBe(first["id"]);
  });
});

describe("it refuses", () => {
  test("every call of a budget of zero, free ones too", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0" });
    for (const provider of ["p", "free"]) {
      const refused = await refusal(reserve(tenantId, { provider }), "budget_exceeded");
      expect(refused.status).toBe(402);
      expect(refused.detail).toMatchObject({
        reason: "zero",
        limit_nanousd: "0",
        max_affordable_output_tokens: 0,
      });
    }
    expect(await balances(tenantId)).toEqual([]);
  });

  test("every call of a tenant without a budget", async () => {
    const { tenantId } = await database.addTenant();
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
    const refused = await refusal(reserve(tenantId, { provider: "free" }), "budget_exceeded");
    expect(refused.detail).toMatchObject({ reason: "no_budget", max_affordable_output_tokens: 0 });
    expect(refused.hint).toContain("ops.set_limit");
  });

  test("a model without a price", async () => {
    const { tenantId } = await database.addTenant();
    for (const provider of ["unheard-of", "", null]) {
      const refused = await refusal(reserve(tenantId, { provider }), "no_price");
      expect(refused.status).toBe(402);
    }
    expect(await holdCount(tenantId)).toBe(0);
  });

  test("a run that is not there, and another tenant's in the same bytes, and keeps nothing of either", async () => {
    const { tenantId } = await database.addTenant();
    const foreign = await database.addTenant();
    const theirs = await runs.add(foreign.tenantId);
    await reserve(foreign.tenantId, { runId: theirs });

    const absent = await refusal(reserve(tenantId, { runId: randomUUID() }), "job_run_not_found");
    expect(absent).toMatchObject({ status: 404, detail: {}, hint: expect.stringContaining("this tenant") });
    const asked = { key: "of a run", runId: theirs };
    expect(bytesOf(await refusal(reserve(tenantId, asked), "job_run_not_found"))).toBe(bytesOf(absent));
    expect(await holdCount(tenantId)).toBe(0);
    expect(await balances(tenantId)).toEqual([]);
    expect(await broken()).toEqual([]);

    // The key of the refused call is free.
    expect(await reserve(tenantId, { ...asked, runId: await runs.add(tenantId) })).toMatchObject({
      replayed: false,
    });
  });

  test("a run that is not there before it looks at the price and the budget", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0" });
    for (const provider of ["p", "unheard-of"]) {
      await refusal(reserve(tenantId, { provider, runId: randomUUID() }), "job_run_not_found");
    }
  });

  test.each<[string, Asked]>([
    ["a negative input", { input: -1 }],
    ["a negative output", { output: -1 }],
    ["no input", { input: null }],
    ["no output", { output: null }],
    ["a huge input", { input: "9223372036854775807" }],
    ["a huge output", { output: 100_000_001 }],
    ["no key", { key: null }],
    ["an empty key", { key: "" }],
    ["a key of 256 characters", { key: "k".repeat(256) }],
    ["no ttl", { ttl: null }],
    ["a negative ttl", { ttl: "-1 second" }],
    ["a ttl over an hour", { ttl: "1 hour 1 second" }],
    ["no attempt", { attempt: null }],
    ["a negative attempt", { attempt: -1 }],
  ])("%s is reservation_invalid", async (_, asked) => {
    const { tenantId } = await database.addTenant();
    expect((await refusal(reserve(tenantId, asked), "reservation_invalid")).status).toBe(400);
    expect(await holdCount(tenantId)).toBe(0);
  });

  test("the largest request that is taken has a hold that is a number", async () => {
    await database.ops.query("select ops.llm_price_set('dearest', 'm', 100000, 100000, reason => 'test')");
    const { tenantId } = await database.addTenant({ limitUsd: "1000000000" });
    const hold = await reserve(tenantId, { provider: "dearest", input: 100_000_000, output: 100_000_000 });
    expect(hold["estimated_cost_nanousd"]).toBe("20000000000000000");
  });
});

describe("a stranger gets nothing", () => {
  test("with another ticket, or none", async () => {
    const { tenantId } = await database.addTenant();
    await strangerIsRefused(database, database.service, tenantId, RESERVE, reserveValues());
    expect(await holdCount(tenantId)).toBe(0);
    expect(await balances(tenantId)).toEqual([]);
  });

  test("people in psql may not reserve", async () => {
    const { tenantId } = await database.addTenant();
    const called = database.ops.query(RESERVE, [tenantId, database.ticket(tenantId), ...reserveValues()]);
    await expect(called).rejects.toMatchObject({ code: "42501" });
  });
});
