// sql/ops/set_limit.sql: a person sets, or makes, what may be spent.
import { randomUUID } from "node:crypto";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { collide, lockWaits, oneAs, type Row, raised, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenant = { tenantId: "", name: "" };

beforeAll(() => ledger.setPrices());
beforeEach(async () => {
  tenant = await database.addTenant({ limitUsd: "10" });
});

type Asked = {
  tenant?: unknown;
  limit?: unknown;
  reason?: unknown;
  period?: unknown;
  scope?: unknown;
  id?: unknown;
  unlimited?: unknown;
  dryRun?: unknown;
  version?: unknown;
};

const set = async (asked: Asked = {}): Promise<Row> => {
  const {
    tenant: name = tenant.name,
    limit = "50",
    reason = "asked for more",
    period = "month",
    scope = "tenant",
    id = "",
    unlimited = false,
    dryRun = false,
    version = null,
  } = asked;
  const text = `select * from ops.set_limit(tenant => $1, limit_usd => $2, reason => $3, period => $4, scope => $5,
    scope_id => $6, unlimited => $7, dry_run => $8, expected_version => $9)`;
  const values = [name, limit, reason, period, scope, id, unlimited, dryRun, version];
  return (await database.ops.query(text, values)).rows[0];
};

/** The budgets of the tenant and what the audit log says of it. */
async function state(): Promise<{ budgets: Row[]; audits: Row[] }> {
  const budgets = await database.superuser.query(
    `select scope, scope_id, period, limit_nanousd, unlimited, version, updated_at from app.llm_budgets
     where tenant_id = $1 order by scope, scope_id, period`,
    [tenant.tenantId],
  );
  const audits = await database.superuser.query(
    "select actor, action, reason, before, after from ops.audit_log where subject = $1 and action = 'set_limit' order by id",
    [tenant.name],
  );
  return { budgets: budgets.rows, audits: audits.rows };
}

/** A call of 0.001 dollars, by some key, for some user, with some tags. */
const call = (args: { key?: string; user?: string; tags?: string[] } = {}): Promise<Row> =>
  oneAs(
    database.service,
    tenant.tenantId,
    `select * from app.llm_reserve($1, $2, idempotency_key => $3, provider => 'p', model => 'm', input_tokens_bound => 500,
       max_output_tokens => 250, api_key => $4, user_id => $5, tags => $6)`,
    [randomUUID(), args.key ?? null, args.user ?? null, args.tags ?? []],
  );

describe("it works", () => {
  test("the limit is changed, and the change is in the audit log", async () => {
    expect(await set({ limit: "50.25" })).toEqual({
      tenant_name: tenant.name,
      budget_scope: "tenant",
      budget_period: "month",
      before_usd: "10",
      after_usd: "50.25",
      is_unlimited: false,
      version: "2",
    });
    const { budgets, audits } = await state();
    expect(budgets).toMatchObject([
      { scope: "tenant", scope_id: "", period: "month", limit_nanousd: "50250000000", version: "2" },
    ]);
    expect(audits).toMatchObject([
      {
        actor: "holdfast_ops",
        reason: "asked for more",
        before: { limit_nanousd: 10_000_000_000, version: 1 },
        after: { limit_nanousd: 50_250_000_000, limit_usd: 50.25, period: "month", version: 2 },
      },
    ]);
  });

  test("another period is another budget", async () => {
    expect(await set({ period: "day", limit: "2" })).toMatchObject({
      before_usd: null,
      after_usd: "2",
      version: "1",
    });
    const { budgets, audits } = await state();
    expect(budgets.map((each) => [each["period"], each["limit_nanousd"]])).toEqual([
      ["day", "2000000000"],
      ["month", "10000000000"],
    ]);
    expect(audits).toMatchObject([{ before: null, after: { period: "day", version: 1 } }]);
  });

  test.each<[string, string, { key?: string; user?: string; tags?: string[] }, Row]>([
    ["api_key", "key-1", { key: "key-1" }, { key: "key-2" }],
    ["user", "ada", { user: "ada" }, { user: "Ada" }],
    ["tag", "team:red", { tags: ["x", "team:red"] }, { tags: ["team"] }],
  ])("a limit of one %s stops its calls, and no other's", async (scope, id, under, other) => {
    expect(await set({ scope, id, limit: "0.0015" })).toMatchObject({
      budget_scope: `${scope} ${id}`,
      before_usd: null,
      after_usd: "0.0015",
      version: "1",
    });
    await call(under);
    expect((await refusal(call(under), "budget_exceeded")).detail).toMatchObject({ scope, scope_id: id });
    await call(other);
    await call();
    expect(await set({ scope, id, limit: "0.002" })).toMatchObject({ before_usd: "0.0015", version: "2" });
    await call(under);
    expect(await ledger.broken()).toEqual([]);
  });

  test("a limit of one model stops its calls, and no other's", async () => {
    await set({ scope: "model", id: "p/m", limit: "0" });
    expect((await refusal(ledger.reserve(tenant.tenantId), "budget_exceeded")).detail).toMatchObject({
      scope: "model",
      scope_id: "p/m",
      reason: "zero",
    });
    await ledger.reserve(tenant.tenantId, { provider: "free" });
  });

  test("to zero: every call is refused from then on", async () => {
    await call();
    expect(await set({ limit: "0" })).toMatchObject({ after_usd: "0", is_unlimited: false });
    expect((await refusal(call(), "budget_exceeded")).detail).toMatchObject({ reason: "zero" });
    expect(await ledger.broken()).toEqual([]);
  });

  test("a cut below what is held and spent stops new calls, and nothing else", async () => {
    const [spent, held] = [await call(), await call()];
    await ledger.settle(tenant.tenantId, spent["id"], 500, 250);
    await set({ limit: "0.0005" });
    const detail = { reason: "too_large", limit_nanousd: "500000", spent_nanousd: "1000000" };
    expect((await refusal(call(), "budget_exceeded")).detail).toMatchObject(detail);
    expect(await ledger.settle(tenant.tenantId, held["id"], 400, 250)).toMatchObject({ status: "APPLIED" });
    expect(await ledger.balances(tenant.tenantId)).toEqual([
      { period: "month", reserved: 0, presumed: 0, spent: 1_900_000 },
    ]);
    expect(await ledger.broken()).toEqual([]);
    await set({ limit: "0.0029" });
    await call();
    await refusal(call(), "budget_exceeded");
    expect(await ledger.broken()).toEqual([]);
  });

  test.each(["month", "day"])(
    "a dry run of the %s answers what the change will, and changes nothing",
    async (period) => {
      await set({ period, limit: "7" });
      const before = await state();
      const dry = await set({ period, dryRun: true });
      expect(await state()).toEqual(before);
      expect(await set({ period })).toEqual(dry);
    },
  );

  test("a dry run of a budget that is new says so too", async () => {
    const asked = { period: "week", scope: "user", id: "ada" };
    const dry = await set({ ...asked, dryRun: true });
    expect((await state()).budgets).toHaveLength(1);
    expect(await set(asked)).toEqual(dry);
    expect(dry).toMatchObject({ version: "1", before_usd: null });
  });
});

describe("unlimited", () => {
  test("is a row that says so, audited: it counts, and refuses nothing", async () => {
    await set({ limit: "0" });
    expect(await set({ limit: null, unlimited: true, reason: "their contract" })).toMatchObject({
      before_usd: "0",
      after_usd: null,
      is_unlimited: true,
      version: "3",
    });
    const { budgets, audits } = await state();
    expect(budgets).toMatchObject([{ limit_nanousd: null, unlimited: true }]);
    expect(audits[1]).toMatchObject({
      reason: "their contract",
      before: { unlimited: false, limit_nanousd: 0 },
      after: { unlimited: true, limit_nanousd: null, limit_usd: null },
    });

    const holds = [await call(), await call(), await call()];
    await ledger.settle(tenant.tenantId, holds[0]!["id"], 500, 250);
    await ledger.presume(tenant.tenantId, holds[1]!["id"]);
    expect(await ledger.balances(tenant.tenantId)).toEqual([
      { period: "month", reserved: 1_000_000, presumed: 1_000_000, spent: 1_000_000 },
    ]);
    expect(await ledger.broken()).toEqual([]);
  });

  test("of the month leaves the limit of the day as it is", async () => {
    await set({ limit: null, unlimited: true });
    await set({ period: "day", limit: "0.001" });
    await call();
    expect((await refusal(call(), "budget_exceeded")).detail).toMatchObject({ period: "day" });
  });

  test("and back: what was counted counts, and the books are sound", async () => {
    await set({ limit: null, unlimited: true });
    await call();
    await ledger.settle(tenant.tenantId, (await call())["id"], 500, 250);
    expect(await set({ limit: "0.0025" })).toMatchObject({
      before_usd: null,
      after_usd: "0.0025",
      is_unlimited: false,
      version: "3",
    });
    expect(await ledger.broken()).toEqual([]);
    await refusal(call(), "budget_exceeded");
    await set({ limit: "0.003" });
    await call();
    await refusal(call(), "budget_exceeded");
    await set({ limit: "0.001" });
    expect(await ledger.broken()).toEqual([]);
  });

  test("a dry run of it changes nothing", async () => {
    const before = await state();
    const dry = await set({ limit: null, unlimited: true, dryRun: true });
    expect(await state()).toEqual(before);
    expect(await set({ limit: null, unlimited: true })).toEqual(dry);
  });
});

describe("it works twice", () => {
  test("the same change again is a change of its own", async () => {
    await set();
    expect(await set()).toMatchObject({ before_usd: "50", after_usd: "50", version: "3" });
    expect((await state()).audits).toHaveLength(2);
  });

  test("who expects the version that it read is told when it has moved on", async () => {
    expect(await set({ version: 1 })).toMatchObject({ version: "2" });
    const before = await state();
    for (const version of [1, 3, 0, -1]) {
      expect(await raised(set({ version, limit: "60" }))).toMatchObject({
        name: "optimistic_lock_failed",
        sqlstate: "VR201",
        detail: { expected: version, found: 2 },
      });
    }
    expect(await raised(set({ version: 1, dryRun: true }))).toMatchObject({ sqlstate: "VR201" });
    for (const another of [{ period: "day" }, { scope: "user", id: "ada" }]) {
      expect(await raised(set({ version: 1, ...another }))).toMatchObject({
        sqlstate: "VR201",
        detail: { expected: 1, found: null },
      });
    }
    expect(await state()).toEqual(before);
  });

  test("two people at once that read the same version: one is told", async () => {
    const held = {
      text: "select from app.llm_budgets where tenant_id = $1",
      values: [tenant.tenantId],
    };
    const outcomes = await collide(database, held, [
      () => set({ limit: "20", version: 1 }),
      () => set({ limit: "30", version: 1 }),
    ]);
    expect(outcomes.map((each) => each.status).sort()).toEqual(["fulfilled", "rejected"]);
    const { budgets, audits } = await state();
    expect(budgets).toMatchObject([{ version: "2" }]);
    expect(audits).toHaveLength(1);
    for (const each of outcomes) {
      if (each.status === "rejected") expect(each.reason).toMatchObject({ code: "VR201" });
      else expect(budgets[0]!["limit_nanousd"]).toBe(`${each.value["after_usd"]}000000000`);
    }
  });

  test("ten at once that expect nothing are ten changes, one after the other", async () => {
    await Promise.all(Array.from({ length: 10 }, (_, i) => set({ limit: String(20 + i) })));
    const { budgets, audits } = await state();
    expect(budgets).toMatchObject([{ version: "11" }]);
    expect(audits.map((each) => each["after"].version).sort((a, b) => a - b)).toEqual([
      2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ]);
    // What each says stood before is what the one before it made.
    for (const each of audits) expect(each["before"].version).toBe(each["after"].version - 1);
  });

  test("two people at once that make the same budget: the second changes what the first made", async () => {
    const [first, second] = [await database.ops.connect(), await database.ops.connect()];
    const make = (limit: number) => ({
      text: "select * from ops.set_limit($1, $2, 'more for Ada', scope => 'user', scope_id => 'ada')",
      values: [tenant.name, limit],
    });
    try {
      await first.query("begin");
      expect((await first.query(make(1))).rows).toMatchObject([{ before_usd: null, version: "1" }]);
      const waits = second.query(make(2));
      await expect.poll(() => lockWaits(database), { timeout: 10_000, interval: 10 }).toBe(1);
      await first.query("commit");
      expect((await waits).rows).toMatchObject([{ before_usd: "1", after_usd: "2", version: "2" }]);
    } finally {
      first.release();
      second.release();
    }
    expect((await state()).audits).toMatchObject([
      { before: null },
      { before: { version: 1, limit_nanousd: 1_000_000_000 } },
    ]);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each<[string, Asked, string, string]>([
    ["a tenant that is not there", { tenant: "Nobody" }, "tenant_not_found", "TN101"],
    ["no tenant", { tenant: null }, "tenant_not_found", "TN101"],
    ["no reason", { reason: null }, "reason_required", "OP101"],
    ["a reason of two letters", { reason: " ab " }, "reason_required", "OP101"],
    ["a limit that is NaN", { limit: "NaN" }, "argument_invalid", "OP102"],
    ["a negative limit", { limit: "-0.000000001" }, "argument_invalid", "OP102"],
    ["an endless limit", { limit: "Infinity" }, "argument_invalid", "OP102"],
    ["a limit over a billion", { limit: "1000000000.000000001" }, "argument_invalid", "OP102"],
    ["a limit of 10^400", { limit: "1e400" }, "argument_invalid", "OP102"],
  ])("%s", async (_, asked, name, sqlstate) => {
    const before = await state();
    expect(await raised(set(asked))).toMatchObject({ name, sqlstate });
    expect(await state()).toEqual(before);
  });

  test.each<[string, string, Asked]>([
    ["no limit that is not said to be unlimited", "limit_usd", { limit: null }],
    ["a limit and unlimited", "limit_usd", { limit: "1", unlimited: true }],
    ["a limit of 0 and unlimited", "limit_usd", { limit: "0", unlimited: true }],
    ["neither unlimited nor not", "unlimited", { unlimited: null }],
    ["a period that does not exist", "period", { period: "fortnight" }],
    ["no period", "period", { period: null }],
    ["a scope that does not exist", "scope", { scope: "team", id: "red" }],
    ["no scope", "scope", { scope: null }],
    ["the tenant by an id", "scope_id", { id: "ada" }],
    ["no id at all", "scope_id", { id: null }],
    ["a user without an id", "scope_id", { scope: "user" }],
    ["an id of 201 characters", "scope_id", { scope: "tag", id: "x".repeat(201) }],
    ["a model without its provider", "scope_id", { scope: "model", id: "gpt-4.1-mini" }],
    ["a model of no name", "scope_id", { scope: "model", id: "api.openai.com/" }],
    ["a model of no provider", "scope_id", { scope: "model", id: "/gpt-4.1-mini" }],
  ])("%s", async (_, argument, asked) => {
    const before = await state();
    expect(await raised(set(asked))).toEqual({
      name: "argument_invalid",
      sqlstate: "OP102",
      detail: { argument },
    });
    expect(await raised(set({ ...asked, dryRun: true }))).toMatchObject({ detail: { argument } });
    expect(await state()).toEqual(before);
  });
});

test("an id of 200 characters, with all that text can have, is a scope", async () => {
  const id = `${"é".repeat(150)}'; drop table "x" \\ %s 💰`.padEnd(201, "x"); // a coin is two of JavaScript's;
  expect(await set({ scope: "tag", id })).toMatchObject({ budget_scope: `tag ${id}` });
  expect((await call({ tags: [id] }))["status"]).toBe("RESERVED");
});

test("a stranger gets nothing: neither the service nor the worker changes budgets", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const called = pool.query("select ops.set_limit(tenant => $1, limit_usd => 1000, reason => 'more')", [
      tenant.name,
    ]);
    await expect(called).rejects.toMatchObject({ code: "42501" });
  }
  expect((await state()).budgets).toMatchObject([{ limit_nanousd: "10000000000" }]);
});
