// sql/ops/cost_source_set.sql, cost_source_drop.sql and cost_sources.sql: where a tenant's cost files are.
import { beforeEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);
let tenant = { tenantId: "", name: "" };

beforeEach(async () => {
  tenant = await database.addTenant();
});

type Asked = {
  tenant?: unknown;
  source?: unknown;
  path?: unknown;
  reason?: unknown;
  dryRun?: unknown;
  version?: unknown;
};

async function set(asked: Asked = {}): Promise<Row> {
  const { tenant: name = tenant.name, source = "aws", path = "/exports/a.csv.gz" } = asked;
  const { reason = "new export", dryRun = false, version = null } = asked;
  const text = `select * from ops.cost_source_set(tenant => $1, source => $2, path => $3, reason => $4, dry_run => $5,
    expected_version => $6)`;
  return (await database.ops.query(text, [name, source, path, reason, dryRun, version])).rows[0];
}

async function drop(asked: Omit<Asked, "path" | "version"> = {}): Promise<Row> {
  const { tenant: name = tenant.name, source = "aws", reason = "moved", dryRun = false } = asked;
  const text = "select * from ops.cost_source_drop(tenant => $1, source => $2, reason => $3, dry_run => $4)";
  return (await database.ops.query(text, [name, source, reason, dryRun])).rows[0];
}

/** The sources of the tenant and what the audit log says of them. */
async function state(): Promise<{ sources: Row[]; audits: Row[] }> {
  const sources = await database.ops.query("select * from ops.cost_sources where tenant = $1", [tenant.name]);
  const audits = await database.superuser.query(
    `select actor, action, reason, before, after from ops.audit_log
     where subject = $1 and action ~ '^cost_source' order by id`,
    [tenant.name],
  );
  return { sources: sources.rows, audits: audits.rows };
}

describe("it works", () => {
  test("a source is there, and the change is in the audit log", async () => {
    expect(await set()).toEqual({
      tenant_name: tenant.name,
      source_name: "aws",
      path_before: null,
      path_after: "/exports/a.csv.gz",
      version: "1",
    });
    const { sources, audits } = await state();
    expect(sources).toMatchObject([
      {
        source: "aws",
        path: "/exports/a.csv.gz",
        version: "1",
        last_import_at: null,
        last_import: null,
        rows: null,
      },
    ]);
    expect(audits).toMatchObject([
      {
        ...{ actor: "holdfast_ops", action: "cost_source_set", reason: "new export", before: null },
        after: { source: "aws", path: "/exports/a.csv.gz", version: 1 },
      },
    ]);
  });

  test("a new path keeps what is known of the last import", async () => {
    await set();
    const importId = await costs.load(tenant.tenantId, [usage("2025-01-02", 3)], "aws");
    await database.service.pool.query(
      "select app.cost_source_imported($1, $2, source => 'aws', digest => $3, import_id => $4)",
      [tenant.tenantId, database.ticket(tenant.tenantId), "ab".repeat(32), importId],
    );
    expect(await set({ path: "/other/b.csv" })).toMatchObject({
      path_before: "/exports/a.csv.gz",
      version: "2",
    });
    const { sources, audits } = await state();
    expect(sources).toMatchObject([
      {
        ...{ path: "/other/b.csv", version: "2", last_import_at: expect.any(Date), last_import: "PUBLISHED" },
        ...{ rows: "1", flagged: "0", last_digest: "ab".repeat(32), last_import_id: importId },
      },
    ]);
    expect(audits[1]).toMatchObject({
      before: { path: "/exports/a.csv.gz" },
      after: { path: "/other/b.csv" },
    });
  });

  test("a source is forgotten, and what came from it stays", async () => {
    await set();
    await set({ source: "gcp" });
    await costs.load(tenant.tenantId, [usage("2025-01-02", 3)], "aws");
    expect(await drop()).toEqual({
      tenant_name: tenant.name,
      source_name: "aws",
      path_before: "/exports/a.csv.gz",
      last_import_at: null,
    });
    const { sources, audits } = await state();
    expect(sources).toMatchObject([{ source: "gcp" }]);
    expect(audits.at(-1)).toMatchObject({
      ...{ action: "cost_source_drop", reason: "moved", after: null },
      before: { source: "aws", path: "/exports/a.csv.gz" },
    });
    const { rows } = await database.ops.query("select status from ops.imports where tenant = $1", [
      tenant.name,
    ]);
    expect(rows).toEqual([{ status: "PUBLISHED" }]);
  });

  test("a dry run answers what the change will, and changes nothing", async () => {
    const dry = await set({ dryRun: true });
    expect((await state()).sources).toEqual([]);
    expect(await set()).toEqual(dry);
    const before = await state();
    const dryDrop = await drop({ dryRun: true });
    expect(await state()).toEqual(before);
    expect(await drop()).toEqual(dryDrop);
  });
});

describe("it works twice", () => {
  test("the same change again is a change of its own", async () => {
    await set();
    expect(await set()).toMatchObject({ path_before: "/exports/a.csv.gz", version: "2" });
    expect((await state()).audits).toHaveLength(2);
  });

  test("who expects the version that it read is told when it has moved on", async () => {
    await set();
    expect(await set({ version: 1 })).toMatchObject({ version: "2" });
    expect(await raised(set({ version: 1 }))).toMatchObject({
      name: "optimistic_lock_failed",
      sqlstate: "VR201",
      detail: { expected: 1, found: 2 },
    });
  });

  test("of ten at once that read the same version, one is made", async () => {
    await set();
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => set({ version: 1 })));
    expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
  });

  test("a source that is gone cannot be dropped", async () => {
    await set();
    await drop();
    expect(await raised(drop())).toMatchObject({ name: "argument_invalid", detail: { source: "aws" } });
  });
});

describe("it refuses, by name, and changes nothing", () => {
  test.each<[string, Asked, string, string]>([
    ["a tenant that is not there", { tenant: "Nobody" }, "tenant_not_found", "TN101"],
    ["no source", { source: null }, "argument_invalid", "OP102"],
    ["an empty source", { source: "" }, "argument_invalid", "OP102"],
    ["a source of 101 characters", { source: "x".repeat(101) }, "argument_invalid", "OP102"],
    ["a source with a line break", { source: "a\nb" }, "argument_invalid", "OP102"],
    ["no path", { path: null }, "argument_invalid", "OP102"],
    ["a path of no folder", { path: "a.csv" }, "argument_invalid", "OP102"],
    ["the root", { path: "/" }, "argument_invalid", "OP102"],
    ["a path with a control character", { path: "/a\u001b.csv" }, "argument_invalid", "OP102"],
    ["a path of 1,001 characters", { path: `/${"x".repeat(1_000)}` }, "argument_invalid", "OP102"],
    ["no reason", { reason: null }, "reason_required", "OP101"],
  ])("%s", async (_, asked, name, sqlstate) => {
    await set();
    const before = await state();
    expect(await raised(set(asked))).toMatchObject({ name, sqlstate });
    expect(await raised(set({ ...asked, dryRun: true }))).toMatchObject({ name, sqlstate });
    expect(await state()).toEqual(before);
  });

  test("a drop without a tenant, a source or a reason", async () => {
    await set();
    const before = await state();
    expect(await raised(drop({ tenant: "Nobody" }))).toMatchObject({ sqlstate: "TN101" });
    expect(await raised(drop({ source: "gcp" }))).toMatchObject({ sqlstate: "OP102" });
    expect(await raised(drop({ source: null }))).toMatchObject({ sqlstate: "OP102" });
    expect(await raised(drop({ reason: "" }))).toMatchObject({ sqlstate: "OP101" });
    expect(await state()).toEqual(before);
  });
});

test("a stranger gets nothing: neither the service nor the worker changes or sees sources", async () => {
  for (const { pool } of [database.service, database.worker]) {
    for (const text of [
      `select ops.cost_source_set('${tenant.name}', 'aws', '/etc/passwd', 'more')`,
      `select ops.cost_source_drop('${tenant.name}', 'aws', 'less')`,
      "select * from ops.cost_sources",
    ])
      await expect(pool.query(text)).rejects.toMatchObject({ code: "42501" });
  }
});
