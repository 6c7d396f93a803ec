import { createHash } from "node:crypto";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { AppError } from "../src/errors.ts";
import { LINE_CELLS } from "../src/focus/columns.ts";
import { checkFocus, type Imported, importFocus, importJson, importSummary } from "../src/imports.ts";
import { createLog } from "../src/log.ts";
import { sampleTenants, writeSample } from "../src/sample.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const directory = mkdtempSync(join(tmpdir(), "imports-"));
afterAll(() => rmSync(directory, { recursive: true }));

const [, , tenant] = sampleTenants(new Date("2025-11-20T00:00:00Z"));
const sample = await writeSample(tenant!, directory);

const HEADER = [
  ...["BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd"],
  ...["BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd"],
  ...["ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost"],
  ...["PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"],
  ...["ResourceName", "x_Note"],
].join(",");

function line(cost: string, resource = "machine", note = ""): string {
  const text = (value: string) => `"${value.replaceAll('"', '""')}"`;
  const period = "2024-09-02 00:00:00,2024-09-01 00:00:00";
  return `${cost},1,Main,USD,2024-10-01,2024-09-01,Usage,,hours,${period},${cost},${cost},AWS,${cost},1,Hours,AWS,AWS,Compute,EC2,${text(resource)},${text(note)}`;
}

function file(lines: string[], name = "september.csv"): string {
  const path = join(directory, name);
  writeFileSync(path, [HEADER, ...lines].join("\n"));
  return path;
}

/** What a tenant sees, as the service role under row security. */
async function seenBy(tenantId: string): Promise<{ rows: number; cost: string | null }> {
  const client = await database.service.pool.connect();
  try {
    await client.query("begin");
    await client.query("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
    await client.query("set local role holdfast_tenant");
    const { rows } = await client.query(
      "select count(*)::integer as rows, sum(effective_cost)::text as cost from tenant.cost_lines_current",
    );
    return rows[0];
  } finally {
    await client.query("rollback");
    client.release();
  }
}

async function importsOf(tenantId: string): Promise<Record<string, unknown>[]> {
  const { rows } = await database.superuser.query(
    "select status, focus_version, file_name, error from app.cost_imports where tenant_id = $1 order by started_at, id",
    [tenantId],
  );
  return rows;
}

async function refusedImport(tenantId: string, path: string): Promise<AppError> {
  const request = { path, source: "files" };
  const error = await importFocus(database.worker, tenantId, request).catch((caught: unknown) => caught);
  if (!(error instanceof AppError)) throw new Error(`expected a refusal, got ${String(error)}`);
  return error;
}

/** A log, and the lines of it. */
function heard() {
  const lines: Record<string, unknown>[] = [];
  const destination = { write: (line: string) => lines.push(JSON.parse(line)) };
  return { log: createLog({ level: "info", destination, readable: false }), lines };
}

test("the reader writes the columns of app.cost_line_cells, in its order and with its types", async () => {
  const { rows } = await database.superuser.query(
    `select a.attname as name, coalesce(e.typname || '[]', t.typname) as type
     from pg_attribute as a
     join pg_type as t on t.oid = a.atttypid
     left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
     where a.attrelid = 'app.cost_line_cells'::regclass and not a.attisdropped
     order by a.attnum`,
  );
  expect(LINE_CELLS).toEqual(rows);
});

describe("an import", () => {
  test("stores every row, counts the flags, and shows all of it at once", async () => {
    const { tenantId } = await database.addTenant();
    const progress: number[] = [];
    const seenWhile: Promise<unknown>[] = [];
    const imported = await importFocus(database.worker, tenantId, {
      path: sample.path,
      source: "files",
      onProgress: (rows) => {
        progress.push(rows);
        seenWhile.push(seenBy(tenantId));
      },
    });
    expect(imported.rows).toBe(sample.rows);
    expect(progress).toEqual([2_000, 4_000, sample.rows]);
    expect(await seenWhile[0]).toEqual({ rows: 0, cost: null });
    expect(imported.periods).toBe(5);
    expect(imported.flags).toMatchObject({ missing_contracted_cost: expect.any(Number) });
    expect(imported.digest).toBe(createHash("sha256").update(readFileSync(sample.path)).digest("hex"));
    expect(imported.flaggedRows).toBeGreaterThan(0);
    expect(imported.flaggedRows).toBeLessThan(sample.rows / 2);
    expect((await seenBy(tenantId)).rows).toBe(sample.rows);
    expect(await importsOf(tenantId)).toMatchObject([
      { status: "PUBLISHED", focus_version: "1.0", error: null },
    ]);
  });

  test("works twice: the second replaces the first", async () => {
    const { tenantId } = await database.addTenant();
    const path = file([line("1.50"), line("2.25")]);
    const first = await importFocus(database.worker, tenantId, { path, source: "files" });
    expect(first).toMatchObject({ replacedRows: 0, replacedFiles: [] });
    const second = await importFocus(database.worker, tenantId, { path, source: "files" });
    expect(second).toMatchObject({ replacedRows: 2, replacedFiles: ["september.csv"] });
    expect(await seenBy(tenantId)).toEqual({ rows: 2, cost: "3.75" });
    expect((await importsOf(tenantId)).map(({ status }) => status)).toEqual(["SUPERSEDED", "PUBLISHED"]);
  });

  test("is told in the log: begun, and published or failed", async () => {
    const { tenantId } = await database.addTenant();
    const { log, lines } = heard();
    const request = { path: file([line("1"), line("2")]), source: "files", log };
    const { importId } = await importFocus(database.worker, tenantId, request);
    const about = { tenant_id: tenantId, import_id: importId, source: "files", file: "september.csv" };
    expect(lines).toMatchObject([
      { level: "info", msg: "import_started", ...about, rows: 0 },
      { level: "info", msg: "import_published", ...about, rows: 2, replaced_rows: 0 },
    ]);

    const broken = [...Array.from({ length: 2_500 }, () => line("1")), line("$9")];
    const refused = importFocus(database.worker, tenantId, { ...request, path: file(broken) });
    await expect(refused).rejects.toMatchObject({ code: "focus_invalid" });
    expect(lines.slice(2)).toMatchObject([
      { msg: "import_started", tenant_id: tenantId },
      { level: "warn", msg: "import_failed", file: "september.csv", rows: 2_000, code: "focus_invalid" },
    ]);
    expect(lines[3]!["import_id"]).toBe(lines[2]!["import_id"]);
  });

  test("keeps money as it is written, and any text, for those whose it is alone", async () => {
    const owner = await database.addTenant();
    const stranger = await database.addTenant();
    const texts = fc.sample(
      fc.tuple(
        fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => text.toLowerCase() !== "null"),
        fc.string({
          unit: fc.constantFrom('"', "\\", ",", "(", ")", "{", "}", "'", "\n", "\t", " ", "ü", "🙂"),
        }),
      ),
      { numRuns: 300, seed: 7 },
    );
    const printable = texts.map(([text, odd]) => `${text}${odd}`.replace(/[^\P{Cc}\t\n]/gu, ""));
    const lines = printable.map((text, index) => line(`${index}.1234567890123456789`, text, text));
    await importFocus(database.worker, owner.tenantId, { path: file(lines), source: "files" });
    const { rows } = await database.superuser.query(
      "select resource_name, extra ->> 'x_Note' as note, effective_cost::text as cost from app.cost_lines_current where tenant_id = $1 order by line_no",
      [owner.tenantId],
    );
    expect(rows.map(({ resource_name }) => resource_name ?? "")).toEqual(printable);
    expect(rows.map(({ note }) => note ?? "")).toEqual(printable);
    expect(rows[7]?.cost).toBe("7.1234567890123456789");
    expect(await seenBy(stranger.tenantId)).toEqual({ rows: 0, cost: null });
  });

  test("of another tenant cannot be added to", async () => {
    const owner = await database.addTenant();
    const stranger = await database.addTenant();
    const { importId } = await importFocus(database.worker, owner.tenantId, {
      path: file([line("1")]),
      source: "files",
    });
    const add = database.worker.pool.query(
      "select app.cost_import_add($1, $2, import_id => $3, rows => $4)",
      [stranger.tenantId, database.ticket(stranger.tenantId), importId, []],
    );
    await expect(add).rejects.toMatchObject({ code: "IM101" });
  });
});

describe("checkFocus", () => {
  test("reads all of a file, and answers its rows", async () => {
    const progress: number[] = [];
    expect(await checkFocus({ path: sample.path, onProgress: (rows) => progress.push(rows) })).toBe(
      sample.rows,
    );
    expect(progress.at(-1)).toBe(sample.rows);
  });

  test("refuses what an import refuses, in its last row as well; and can be ended", async () => {
    const lines = Array.from({ length: 5_000 }, () => line("1"));
    const path = file([...lines, line("$9")]);
    const place = { file: "september.csv", line: 5_002, column: "BilledCost" };
    await expect(checkFocus({ path })).rejects.toMatchObject({ code: "focus_invalid", detail: place });
    await expect(checkFocus({ path, signal: AbortSignal.abort(new Error("SIGINT")) })).rejects.toThrow(
      "SIGINT",
    );
  });
});

describe("what is said of an import", () => {
  const named = { file: "/bills/p2.csv", tenant: "X", source: "import" };
  const imported: Imported = {
    ...{ importId: "an id", digest: "ab12", rows: 398, flaggedRows: 0, flags: {}, periods: 1 },
    ...{ replacedRows: 0, replacedFiles: [] },
  };
  const done = "Imported 398 rows for X, 0 of them with a data-quality flag";
  const hint = " (same source and month: use --source to keep both)";

  test.each([
    [0, [], `${done}.`],
    [602, ["p1.csv"], `${done}; they replace 602 rows of p1.csv${hint}.`],
    [398, ["p2.csv"], `${done}; they replace 398 rows of p2.csv.`],
    [9, ["a", "b", "c", "d", "e"], `${done}; they replace 9 rows of a, b, c and 2 more${hint}.`],
  ])("%i rows replaced, of %j", (replacedRows, replacedFiles, said) => {
    expect(importSummary(named, { ...imported, replacedRows, replacedFiles })).toBe(said);
  });

  test("as one JSON document", () => {
    expect(
      JSON.parse(importJson(named, { ...imported, replacedRows: 602, replacedFiles: ["p1.csv"] })),
    ).toEqual({
      ...{ tenant: "X", import_id: "an id", source: "import", file: "p2.csv", rows: 398, flagged_rows: 0 },
      ...{ flags: {}, periods: 1, replaced_rows: 602, replaced_files: ["p1.csv"] },
    });
  });
});

describe("a refused file", () => {
  test.each([517, 5_170])("changes nothing that is seen: a wrong type in row %i", async (wrong) => {
    const { tenantId } = await database.addTenant();
    await importFocus(database.worker, tenantId, { path: file([line("1.50")], "good.csv"), source: "files" });
    const lines = Array.from({ length: wrong + 500 }, (_, index) => line(index === wrong - 2 ? "$9" : "1"));
    const error = await refusedImport(tenantId, file(lines));
    const place = { file: "september.csv", line: wrong, column: "BilledCost", value: "$9" };
    expect(error).toMatchObject({ code: "focus_invalid", detail: place });
    expect(await seenBy(tenantId)).toEqual({ rows: 1, cost: "1.50" });
    const [, failed] = await importsOf(tenantId);
    expect(failed).toMatchObject({
      status: "FAILED",
      file_name: "september.csv",
      error: { code: "focus_invalid", message: error.message, ...place },
    });
  });

  test("that is not FOCUS leaves a failed import, too", async () => {
    const { tenantId } = await database.addTenant();
    const path = join(directory, "page.csv");
    writeFileSync(path, "<!doctype html>");
    expect(await refusedImport(tenantId, path)).toMatchObject({ code: "focus_invalid" });
    expect(await importsOf(tenantId)).toMatchObject([
      { status: "FAILED", focus_version: "unknown", error: { line: 1, column: "BilledCost" } },
    ]);
  });

  test.skipIf(!existsSync("/proc/self/fd"))("is closed again when no import could be begun", async () => {
    const { tenantId } = await database.addTenant();
    const request = { path: sample.path, source: "" };
    await expect(importFocus(database.worker, tenantId, request)).rejects.toMatchObject({
      code: "argument_invalid",
    });
    const open = () =>
      readdirSync("/proc/self/fd").map((fd) => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`);
        } catch {
          return ""; // the one that listed them
        }
      });
    await expect.poll(open).not.toContain(sample.path);
  });

  test("a file that is not there, without telling the tenant of its folder", async () => {
    const { tenantId } = await database.addTenant();
    const path = join(directory, "nowhere.csv");
    expect((await refusedImport(tenantId, path)).message).toBe(`${path}: there is no such file.`);
    expect(await importsOf(tenantId)).toMatchObject([
      { status: "FAILED", error: { message: "nowhere.csv: there is no such file.", file: "nowhere.csv" } },
    ]);
  });

  test("of which the database takes no row is failed with the database's reason", async () => {
    const { tenantId } = await database.addTenant();
    await database.superuser.query(
      "alter table app.cost_lines add constraint cost_lines_test check (resource_name <> 'refuse me') not valid",
    );
    try {
      const error = await refusedImport(tenantId, file([line("1"), line("2", "refuse me")]));
      expect(error.code).toBe("import_invalid");
      expect(await importsOf(tenantId)).toMatchObject([
        { status: "FAILED", error: { code: "import_invalid" } },
      ]);
    } finally {
      await database.superuser.query("alter table app.cost_lines drop constraint cost_lines_test");
    }
  });

  test("and one that is given up in the middle are the same to those who look", async () => {
    const { tenantId } = await database.addTenant();
    const stop = new AbortController();
    const importing = importFocus(database.worker, tenantId, {
      path: sample.path,
      source: "files",
      signal: stop.signal,
      onProgress: () => stop.abort(new AppError("job_timeout")),
    });
    await expect(importing).rejects.toMatchObject({ code: "job_timeout" });
    expect(await seenBy(tenantId)).toEqual({ rows: 0, cost: null });
    expect(await importsOf(tenantId)).toMatchObject([{ status: "FAILED", error: { code: "job_timeout" } }]);
  });
});

const real = fileURLToPath(new URL("../../shared/data/focus/focus_1_0_sample.csv", import.meta.url));
if (!existsSync(real)) console.warn(`Skipped: no FOCUS sample file at ${real}`);

test.skipIf(!existsSync(real))(
  "the FOCUS 1.0 sample is imported whole, with its known faults flagged",
  async () => {
    const { tenantId } = await database.addTenant();
    const imported = await importFocus(database.worker, tenantId, { path: real, source: "files" });
    expect(imported).toMatchObject({ rows: 1_000, periods: 2 });
    const flags = {
      availability_zone_not_a_zone: 51,
      effective_zero_billed_positive: 608,
      list_lt_contracted: 12,
    };
    expect(imported.flags).toMatchObject(flags);
    const { rows } = await database.superuser.query(
      `select sum(billed_cost)::text as billed, sum(effective_cost)::text as effective,
            count(*) filter (where contracted_cost is null)::integer as without_contracted_cost
     from app.cost_lines_current where tenant_id = $1`,
      [tenantId],
    );
    expect(rows).toEqual([
      { billed: "20.52022672899", effective: "14.97651418586", without_contracted_cost: 7 },
    ]);
  },
);
