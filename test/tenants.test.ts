// Tenants as the first start and `--tenant NAME` make them.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { tenantAdd, tenantFind, tenantNamed, tenantsList } from "../src/tenants.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const ops = { pool: database.ops };

function made(given: Partial<Parameters<typeof tenantAdd>[1]> = {}) {
  return {
    name: `t ${randomUUID()}`,
    tier: "ACTIVE",
    timeZone: "UTC",
    limitUsd: "5",
    sample: false,
    ...given,
  };
}

describe("tenantAdd", () => {
  it("makes a tenant with its budget, and leaves word of who did and why", async () => {
    const tenant = made({
      name: "Añejo & Co",
      tier: "DORMANT",
      timeZone: "Asia/Kathmandu",
      limitUsd: "7.25",
    });
    const tenantId = await tenantAdd(ops, tenant, "a new customer");
    const { rows } = await database.superuser.query(
      `select t.name, t.tier, t.time_zone, t.sample, b.limit_nanousd, b.period
       from app.tenants as t join app.llm_budgets as b using (tenant_id) where tenant_id = $1`,
      [tenantId],
    );
    expect(rows).toEqual([
      {
        name: "Añejo & Co",
        tier: "DORMANT",
        time_zone: "Asia/Kathmandu",
        sample: false,
        limit_nanousd: "7250000000",
        period: "month",
      },
    ]);
    const { rows: audit } = await database.ops.query(
      "select * from ops.audit_log where subject = 'Añejo & Co'",
    );
    expect(audit).toMatchObject([{ action: "tenant_add", actor: "holdfast_ops", reason: "a new customer" }]);
  });

  it.each([
    ["a name twice", { name: "Twice" }, "tenant_name_taken"],
    ["no name", { name: "" }, "tenant_invalid"],
    ["a name with a control character", { name: "a\u001b[2J" }, "tenant_invalid"],
    ["a name that ends in a blank", { name: "a " }, "tenant_invalid"],
    ["a name that is too long", { name: "x".repeat(101) }, "tenant_invalid"],
    ["a tier that there is not", { tier: "GOLD" }, "tenant_invalid"],
    ["a time zone that there is not", { timeZone: "Mars/Olympus" }, "tenant_invalid"],
    ["a budget below zero", { limitUsd: "-1" }, "argument_invalid"],
    ["a budget that is no number", { limitUsd: "NaN" }, "argument_invalid"],
    ["a budget without end", { limitUsd: "Infinity" }, "argument_invalid"],
  ])("refuses %s, and makes nothing", async (_, wrong, code) => {
    await tenantAdd(ops, { ...made(), ...(code === "tenant_name_taken" ? wrong : {}) }, "the first one");
    const before = (await tenantsList(ops)).length;
    await expect(tenantAdd(ops, { ...made(), ...wrong }, "the second one")).rejects.toMatchObject({ code });
    expect((await tenantsList(ops)).length).toBe(before);
  });

  it("wants a reason", async () => {
    await expect(tenantAdd(ops, made(), "  ")).rejects.toMatchObject({ code: "reason_required" });
  });

  it("is refused to the logins of the service", async () => {
    for (const { pool } of [database.service, database.worker]) {
      await expect(tenantAdd({ pool }, made(), "not mine to do")).rejects.toThrow(/permission denied/);
    }
  });
});

describe("tenantFind and tenantNamed", () => {
  it("find by the exact name", async () => {
    const tenant = made({ name: "Exact" });
    const tenantId = await tenantAdd(ops, tenant, "a test");
    expect(await tenantFind(ops, "Exact")).toBe(tenantId);
    expect(await tenantNamed(ops, "Exact")).toBe(tenantId);
    for (const name of ["exact", "Exact ", "Exac_", "%", ""]) {
      await expect(tenantFind(ops, name)).rejects.toMatchObject({ code: "tenant_not_found" });
    }
  });

  it("make a tenant that is not there, once", async () => {
    const name = `new ${randomUUID()}`;
    const tenantId = await tenantNamed(ops, name);
    expect(await tenantNamed(ops, name)).toBe(tenantId);
    const listed = (await tenantsList(ops)).filter((tenant) => tenant.tenant === name);
    expect(listed).toEqual([{ tenant: name, tenant_id: tenantId, sample: false, imported: false }]);
    const { rows } = await database.ops.query("select limit_usd from ops.budgets where tenant = $1", [name]);
    expect(rows).toEqual([{ limit_usd: "10" }]);
  });

  it("make it once for all who ask at the same time", async () => {
    const name = `race ${randomUUID()}`;
    const ids = await Promise.all(Array.from({ length: 6 }, () => tenantNamed(ops, name)));
    expect(new Set(ids).size).toBe(1);
  });

  it("make none of a name that is not allowed", async () => {
    await expect(tenantNamed(ops, "two\nlines")).rejects.toMatchObject({ code: "tenant_invalid" });
  });
});

describe("tenantsList", () => {
  it("tells sample tenants, and those that have costs to show", async () => {
    const sample = made({ sample: true });
    const tenantId = await tenantAdd(ops, sample, "a test");
    const listed = async () => (await tenantsList(ops)).find((tenant) => tenant.tenant_id === tenantId);
    expect(await listed()).toEqual({
      tenant: sample.name,
      tenant_id: tenantId,
      sample: true,
      imported: false,
    });

    // An import that was begun shows nothing yet.
    const { rows } = await database.worker.pool.query(
      "select app.cost_import_start($1, $2, source => 'test', file_name => 'x.csv', focus_version => '1.0') as id",
      [tenantId, database.ticket(tenantId)],
    );
    expect(rows).toHaveLength(1);
    expect(await listed()).toMatchObject({ imported: false });
  });
});
