// sql/ops/tenant_add.sql: a person makes a tenant.
import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { oneAs, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

type Asked = {
  name?: unknown;
  reason?: unknown;
  limit?: unknown;
  tier?: unknown;
  zone?: unknown;
  plan?: unknown;
  tags?: unknown;
};

const add = async (asked: Asked = {}): Promise<Row> => {
  const {
    name = `tenant ${randomUUID()}`,
    reason = "new customer",
    limit = "25",
    tier = "ACTIVE",
    zone = "UTC",
    tags = null,
    plan = "growth",
  } = asked;
  const text = `select * from ops.tenant_add(name => $1, reason => $2, limit_usd => $3, tier => $4, time_zone => $5,
    required_tags => $6, plan => $7)`;
  return (await database.ops.query(text, [name, reason, limit, tier, zone, tags, plan])).rows[0];
};

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
/** How much there is of everything that the function writes. */
const counts = () =>
  rows(
    `select (select count(*) from app.tenants)::int as tenants, (select count(*) from app.llm_budgets)::int as budgets,
            (select count(*) from ops.audit_log)::int as audits`,
  );

describe("it works", () => {
  test("the tenant is there, with a monthly budget, and the change is in the audit log", async () => {
    const made = await add({
      name: "Acme",
      limit: "25.5",
      tier: "HIGH_VALUE",
      zone: "Europe/Berlin",
      tags: ["team"],
    });
    expect(made).toEqual({
      tenant_id: expect.any(String),
      tenant: "Acme",
      tier_now: "HIGH_VALUE",
      monthly_limit_usd: "25.5",
    });
    const id = made["tenant_id"];
    expect(await rows("select * from app.tenants where tenant_id = $1", [id])).toMatchObject([
      {
        name: "Acme",
        tier: "HIGH_VALUE",
        time_zone: "Europe/Berlin",
        status: "ACTIVE",
        version: "1",
        required_tags: ["team"],
        sample: false,
      },
    ]);
    expect(await rows("select * from app.llm_budgets where tenant_id = $1", [id])).toMatchObject([
      { scope: "tenant", period: "month", limit_nanousd: "25500000000", hard: true, version: "1" },
    ]);
    expect(await rows("select * from ops.audit_log where subject = 'Acme'")).toMatchObject([
      {
        actor: "holdfast_ops",
        action: "tenant_add",
        reason: "new customer",
        before: null,
        after: { tenant_id: id, name: "Acme", limit_usd: 25.5 },
      },
    ]);
    expect(await oneAs(database.service, id, "select limit_usd from app.budget_status($1, $2)")).toEqual({
      limit_usd: "25.5",
    });
    expect((await database.worker.pool.query("select app.tenant_find('Acme') as id")).rows).toEqual([{ id }]);
  });

  test.each([
    ["0", "0"],
    ["0.0000000019", "1"], // rounded down: never more than was said
    ["1000000000", "1000000000000000000"],
  ])("a limit of %s dollars is %s nano-USD", async (limit, nanousd) => {
    const { tenant_id } = await add({ limit });
    expect(await rows("select limit_nanousd from app.llm_budgets where tenant_id = $1", [tenant_id])).toEqual(
      [{ limit_nanousd: nanousd }],
    );
  });

  test.each(["x", "é".repeat(100), 'O\'Neill; drop table "x" \\ %s', "日本 💰"])(
    "a name may be %s",
    async (name) => {
      expect(await add({ name })).toMatchObject({ tenant: name });
    },
  );

  test.each([
    ["enterprise", null, "HIGH_VALUE"],
    ["growth", null, "ACTIVE"],
    ["free", null, "DORMANT"],
    ["free", "HIGH_VALUE", "HIGH_VALUE"],
  ])("plan %s, tier %s: it belongs to %s", async (plan, tier, cohort) => {
    const made = await add({ plan, tier });
    expect(made["tier_now"]).toBe(cohort);
    expect(
      await rows("select plan, tier, pinned_tier from app.tenants where tenant_id = $1", [made["tenant_id"]]),
    ).toEqual([{ plan, tier: cohort, pinned_tier: tier }]);
    expect((await database.worker.pool.query("select app.tiers_derive() as n")).rows).toEqual([{ n: 0 }]);
  });

  test("who asks for no tags in particular gets those that most need", async () => {
    const { tenant_id } = await add();
    const [tenant] = await rows("select required_tags from app.tenants where tenant_id = $1", [tenant_id]);
    expect(tenant).toEqual({ required_tags: ["environment", "owner", "cost_center"] });
    expect(await add({ tags: [] })).toBeDefined();
  });
});

describe("it works once", () => {
  test("a second tenant of that name is refused", async () => {
    await add({ name: "Twice" });
    const before = await counts();
    expect(await raised(add({ name: "Twice", limit: "1" }))).toEqual({
      name: "tenant_name_taken",
      sqlstate: "TN102",
      detail: { name: "Twice" },
    });
    expect(await counts()).toEqual(before);
  });

  test("of ten at once one is made", async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => add({ name: "At once" })));
    expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    for (const each of outcomes)
      if (each.status === "rejected") expect(each.reason).toMatchObject({ code: "TN102" });
    expect(await rows("select from app.tenants where name = 'At once'")).toHaveLength(1);
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each<[string, Asked, string, string]>([
    ["no name", { name: null }, "tenant_invalid", "name"],
    ["an empty name", { name: "" }, "tenant_invalid", "name"],
    ["a name of spaces", { name: "   " }, "tenant_invalid", "name"],
    ["a name that begins with a space", { name: " Acme" }, "tenant_invalid", "name"],
    ["a name of 101 characters", { name: "x".repeat(101) }, "tenant_invalid", "name"],
    ["a name with a newline", { name: "Ac\nme" }, "tenant_invalid", "name"],
    ["a name with an escape", { name: "\u001b[31mAcme" }, "tenant_invalid", "name"],
    ["no plan", { plan: null }, "tenant_invalid", "plan"],
    ["an unknown plan", { plan: "gold" }, "tenant_invalid", "plan"],
    ["an unknown tier", { tier: "PLATINUM" }, "tenant_invalid", "tier"],
    ["a tier in lower case", { tier: "active" }, "tenant_invalid", "tier"],
    ["no zone", { zone: null }, "tenant_invalid", "time_zone"],
    ["an unknown zone", { zone: "Mars/Olympus" }, "tenant_invalid", "time_zone"],
    ["a zone by its offset", { zone: "+02:00" }, "tenant_invalid", "time_zone"],
    ["a required tag twice", { tags: ["owner", "owner"] }, "tenant_invalid", "required_tags"],
    ["a required tag that is null", { tags: ["owner", null] }, "tenant_invalid", "required_tags"],
    ["a required tag that is empty", { tags: [""] }, "tenant_invalid", "required_tags"],
    ["a required tag with a newline", { tags: ["own\ner"] }, "tenant_invalid", "required_tags"],
    [
      "twenty-one required tags",
      { tags: Array.from({ length: 21 }, (_, i) => `t${i}`) },
      "tenant_invalid",
      "required_tags",
    ],
  ])("%s", async (_, asked, name, argument) => {
    const before = await counts();
    expect(await raised(add(asked))).toMatchObject({ name, sqlstate: "TN103", detail: { argument } });
    expect(await counts()).toEqual(before);
  });

  test.each([null, "NaN", "-0.01", "Infinity", "-Infinity", "1000000000.01"])(
    "a limit of %s",
    async (limit) => {
      const before = await counts();
      expect(await raised(add({ limit }))).toMatchObject({
        name: "argument_invalid",
        sqlstate: "OP102",
        detail: { usd: limit },
      });
      expect(await counts()).toEqual(before);
    },
  );

  test.each([null, "", "  ", "ab", " a "])("the reason %j", async (reason) => {
    const before = await counts();
    expect(await raised(add({ reason }))).toMatchObject({ name: "reason_required", sqlstate: "OP101" });
    expect(await counts()).toEqual(before);
  });
});

test("a stranger gets nothing: neither the service nor the worker makes tenants", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const called = pool.query(
      "select ops.tenant_add(name => 'Mine', reason => 'I want to', limit_usd => 1000)",
    );
    await expect(called).rejects.toMatchObject({ code: "42501" });
  }
  expect(await rows("select from app.tenants where name = 'Mine'")).toEqual([]);
});
