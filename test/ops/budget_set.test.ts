// sql/ops/budget_set.sql: a person changes what a tenant may spend.
import { beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
let tenant = { tenantId: "", name: "" };

beforeEach(async () => {
  tenant = await database.addTenant({ limitUsd: "10" });
});

type Asked = {
  tenant?: unknown;
  limit?: unknown;
  reason?: unknown;
  period?: unknown;
  dryRun?: unknown;
  version?: unknown;
};

const set = async (asked: Asked = {}): Promise<Row> => {
  const {
    tenant: name = tenant.name,
    limit = "50",
    reason = "asked for more",
    period = "month",
    dryRun = false,
    version = null,
  } = asked;
  const text = `select * from ops.budget_set(tenant => $1, limit_usd => $2, reason => $3, period => $4, dry_run => $5,
    expected_version => $6)`;
  return (await database.ops.query(text, [name, limit, reason, period, dryRun, version])).rows[0];
};

/** The budgets of the tenant and what the audit log says of it. */
async function state(): Promise<{ budgets: Row[]; audits: Row[] }> {
  const budgets = await database.superuser.query(
    "select period, limit_nanousd, version from app.llm_budgets where tenant_id = $1 order by period",
    [tenant.tenantId],
  );
  const audits = await database.superuser.query(
    "select actor, action, reason, before, after from ops.audit_log where subject = $1 and action = 'budget_set' order by id",
    [tenant.name],
  );
  return { budgets: budgets.rows, audits: audits.rows };
}

describe("it works", () => {
  test("the limit is changed, and the change is in the audit log", async () => {
    expect(await set({ limit: "50.25" })).toEqual({
      tenant_name: tenant.name,
      budget_period: "month",
      before_usd: "10",
      after_usd: "50.25",
      version: "2",
    });
    const { budgets, audits } = await state();
    expect(budgets).toEqual([{ period: "month", limit_nanousd: "50250000000", version: "2" }]);
    expect(audits).toMatchObject([
      {
        actor: "holdfast_ops",
        reason: "asked for more",
        before: { limit_nanousd: 10_000_000_000, version: 1 },
        after: { limit_usd: 50.25, period: "month", version: 2 },
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
    expect(audits).toMatchObject([{ before: null }]);
  });

  test("to zero: every call is refused from then on", async () => {
    expect(await set({ limit: "0" })).toMatchObject({ after_usd: "0" });
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
    const dry = await set({ period: "week", dryRun: true });
    expect((await state()).budgets).toHaveLength(1);
    expect(await set({ period: "week" })).toEqual(dry);
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
    for (const version of [1, 3, 0]) {
      expect(await raised(set({ version, limit: "60" }))).toMatchObject({
        name: "optimistic_lock_failed",
        sqlstate: "VR201",
        detail: { expected: version, found: 2 },
      });
    }
    expect(await raised(set({ version: 1, dryRun: true }))).toMatchObject({ sqlstate: "VR201" });
    expect(await raised(set({ version: 1, period: "day" }))).toMatchObject({
      sqlstate: "VR201",
      detail: { expected: 1, found: null },
    });
    expect(await state()).toEqual(before);
  });

  test("of ten at once that read the same version, one is made", async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 10 }, (_, i) => set({ limit: String(20 + i), version: 1 })),
    );
    expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    for (const each of outcomes)
      if (each.status === "rejected") expect(each.reason).toMatchObject({ code: "VR201" });
    expect((await state()).budgets).toMatchObject([{ version: "2" }]);
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
});

describe("it refuses, by name, and changes nothing", () => {
  test.each<[string, Asked, string, string]>([
    ["a tenant that is not there", { tenant: "Nobody" }, "tenant_not_found", "TN101"],
    ["no tenant", { tenant: null }, "tenant_not_found", "TN101"],
    ["no limit", { limit: null }, "argument_invalid", "OP102"],
    ["a limit that is NaN", { limit: "NaN" }, "argument_invalid", "OP102"],
    ["a negative limit", { limit: "-1" }, "argument_invalid", "OP102"],
    ["an endless limit", { limit: "Infinity" }, "argument_invalid", "OP102"],
    ["a limit over a billion", { limit: "1000000001" }, "argument_invalid", "OP102"],
    ["a period that does not exist", { period: "fortnight" }, "argument_invalid", "OP102"],
    ["no period", { period: null }, "argument_invalid", "OP102"],
    ["no reason", { reason: null }, "reason_required", "OP101"],
    ["a reason of two letters", { reason: " ab " }, "reason_required", "OP101"],
  ])("%s", async (_, asked, name, sqlstate) => {
    const before = await state();
    expect(await raised(set(asked))).toMatchObject({ name, sqlstate });
    expect(await state()).toEqual(before);
  });
});

test("a stranger gets nothing: neither the service nor the worker changes budgets", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const called = pool.query("select ops.budget_set(tenant => $1, limit_usd => 1000, reason => 'more')", [
      tenant.name,
    ]);
    await expect(called).rejects.toMatchObject({ code: "42501" });
  }
  expect((await state()).budgets).toMatchObject([{ limit_nanousd: "10000000000" }]);
});
