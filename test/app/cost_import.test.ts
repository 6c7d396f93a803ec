// sql/app/cost_import_start.sql, _add, _roll_up, _publish and _fail: a file becomes the truth whole, or not at all.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { as, type Row, refusal, strangerIsRefused } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const costs = costsOf(database);
let tenantId = "";

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];

/** What the tenant sees of its costs: source, day and cost of each line. */
const seen = (of = tenantId) =>
  rows(
    `select i.source, l.charge_period_start::date::text as day, l.effective_cost::float8 as cost
     from app.cost_lines_current as l join app.cost_imports as i on i.tenant_id = l.tenant_id and i.id = l.import_id
     where l.tenant_id = $1 order by 1, 2, 3`,
    [of],
  );
const daily = (of = tenantId) =>
  rows(
    `select day::text, service_name, charge_category, correction, billing_currency, effective_cost::float8 as cost,
            line_count as lines, flagged_count as flagged, doubtful_count as doubtful
     from app.cost_daily_current where tenant_id = $1 order by day, service_name, charge_category, billing_currency`,
    [of],
  );
const importRow = async (id: string) =>
  (await rows("select * from app.cost_imports where id = $1", [id]))[0]!;

beforeAll(() => rows("set timezone = 'UTC'"));

describe("it works", () => {
  test("nothing is seen before the import is published, and then all of it", async () => {
    ({ tenantId } = await database.addTenant());
    const importId = await costs.start(tenantId, "aws", `/exports/${"x".repeat(300)}.csv`);
    expect(await importRow(importId)).toMatchObject({
      status: "LOADING",
      source: "aws",
      focus_version: "1.0",
      finished_at: null,
    });
    expect((await importRow(importId))["file_name"]).toMatch(/^x{251}\.csv$/);

    expect(await costs.add(tenantId, importId, [usage("2026-09-30", 3), usage("2026-10-01", 4)])).toBe(2);
    expect(await costs.add(tenantId, importId, [usage("2026-10-01", 5)], 4)).toBe(1);
    expect(await seen()).toEqual([]);
    expect(await costs.rollUp(tenantId, importId)).toBe(2);
    expect(await importRow(importId)).toMatchObject({
      status: "LOADED",
      line_count: "3",
      flagged_count: "0",
      flags: {},
    });
    expect([await seen(), await daily()]).toEqual([[], []]);

    expect(await costs.publish(tenantId, importId)).toEqual({
      line_count: "3",
      flagged_count: "0",
      flags: {},
      period_count: 2,
      replaced_lines: "0",
      replaced_files: [],
    });
    expect((await seen()).map((line) => line["cost"])).toEqual([3, 4, 5]);
    expect(await daily()).toMatchObject([
      { day: "2026-09-30", cost: 3, lines: 1 },
      { day: "2026-10-01", cost: 9, lines: 2 },
    ]);
    expect((await importRow(importId))["finished_at"]).toBeInstanceOf(Date);
    expect(await rows("select type, data from app.events where subject_id = $1", [importId])).toEqual([
      {
        type: "import.published",
        data: { source: "aws", lines: 3, flagged: 0, periods: 2, replaced_lines: 0 },
      },
    ]);
  });

  test("the roll-up keeps apart what must not be summed, and counts a charge on the UTC day it began", async () => {
    ({ tenantId } = await database.addTenant());
    await costs.load(tenantId, [
      usage("2026-10-01", 1),
      usage("2026-10-01", 2, {
        charge_period_start: "2026-10-01 23:59:59",
        charge_period_end: "2026-10-02 23:59:59",
      }),
      usage("2026-10-01", 4, {
        charge_period_start: "2026-10-01 22:00:00-03",
        charge_period_end: "2026-10-02 22:00:00-03",
      }),
      usage("2026-10-01", 8, { billing_currency: "EUR", billing_account_id: "other" }),
      usage("2026-10-01", 16, { charge_category: "Tax" }),
      usage("2026-10-01", 32, { charge_class: "Correction" }),
    ]);
    expect(await daily()).toMatchObject([
      { day: "2026-10-01", charge_category: "Tax", correction: false, billing_currency: "USD", cost: 16 },
      { day: "2026-10-01", charge_category: "Usage", correction: false, billing_currency: "EUR", cost: 8 },
      { day: "2026-10-01", charge_category: "Usage", billing_currency: "USD", cost: expect.any(Number) },
      { day: "2026-10-01", charge_category: "Usage", billing_currency: "USD", cost: expect.any(Number) },
      { day: "2026-10-02", charge_category: "Usage", correction: false, billing_currency: "USD", cost: 4 },
    ]);
    const usd = (await daily()).filter(
      (row) =>
        row["day"] === "2026-10-01" &&
        row["charge_category"] === "Usage" &&
        row["billing_currency"] === "USD",
    );
    expect(usd.map((row) => [row["correction"], row["cost"]]).sort()).toEqual([
      [false, 3],
      [true, 32],
    ]);
  });

  test("cells come through as they are: quotes, backslashes, commas, newlines, JSON, tiny and long numbers", async () => {
    ({ tenantId } = await database.addTenant());
    const odd = 'a "quoted" \\ back, (paren) \n line {"x"} é \u{1f4b0} ""';
    const tags = JSON.stringify({ owner: odd, empty: "", n: 1 });
    const importId = await costs.load(tenantId, [
      usage("2026-10-01", 0, {
        charge_description: odd,
        service_name: "",
        resource_id: null,
        tags,
        extra: '{"x_Custom": "1"}',
        reader_flags: "{tag_json_invalid}",
        effective_cost: "0.00000080000",
        billed_cost: "-123456789012345678901234567890.123456789",
        list_cost: "1e-9",
      }),
    ]);
    const [line] = await rows("select * from app.cost_lines where import_id = $1", [importId]);
    expect(line).toMatchObject({
      charge_description: odd,
      service_name: "",
      resource_id: null,
      tags: JSON.parse(tags),
      extra: { x_Custom: "1" },
      effective_cost: "0.00000080000",
      billed_cost: "-123456789012345678901234567890.123456789",
      list_cost: "0.000000001",
    });
    expect(line!["dq_flags"]).toContain("tag_json_invalid");
  });

  test("the columns of a line are those of the cells, in their order", async () => {
    const columns = await rows(
      `select (select array_agg(attname::text || ' ' || format_type(atttypid, atttypmod) order by attnum) from pg_attribute
               where attrelid = 'app.cost_line_cells'::regclass and attnum > 0) as cells,
              (select array_agg(attname::text || ' ' || format_type(atttypid, atttypmod) order by attnum) from pg_attribute
               where attrelid = 'app.cost_lines'::regclass and attnum > 2 and attname <> 'dq_flags') as lines`,
    );
    expect(columns[0]!["lines"]).toEqual(columns[0]!["cells"]);
  });
});

describe("it works twice", () => {
  test("an import replaces the billing periods that it has lines of, of its own source alone", async () => {
    ({ tenantId } = await database.addTenant());
    const first = await costs.load(tenantId, [usage("2026-09-10", 1), usage("2026-10-10", 2)]);
    await costs.load(tenantId, [usage("2026-10-10", 100)], "azure");
    const second = await costs.load(tenantId, [usage("2026-10-10", 3), usage("2026-11-10", 4)]);
    expect(await seen()).toEqual([
      { source: "aws", day: "2026-09-10", cost: 1 },
      { source: "aws", day: "2026-10-10", cost: 3 },
      { source: "aws", day: "2026-11-10", cost: 4 },
      { source: "azure", day: "2026-10-10", cost: 100 },
    ]);
    expect(await importRow(first)).toMatchObject({ status: "PUBLISHED" }); // September is still its own

    const third = await costs.load(tenantId, [usage("2026-09-10", 5)]);
    expect((await seen()).filter((line) => line["source"] === "aws").map((line) => line["cost"])).toEqual([
      5, 3, 4,
    ]);
    const states = await Promise.all(
      [first, second, third].map(async (id) => (await importRow(id))["status"]),
    );
    expect(states).toEqual(["SUPERSEDED", "PUBLISHED", "PUBLISHED"]);
  });

  test("it says which lines of which files it took the place of, and leaves their past as it was", async () => {
    ({ tenantId } = await database.addTenant());
    const publish = async (file: string, lines: Parameters<typeof costs.add>[2], source = "aws") => {
      const importId = await costs.start(tenantId, source, file);
      await costs.add(tenantId, importId, lines);
      await costs.rollUp(tenantId, importId);
      const { replaced_lines, replaced_files } = (await costs.publish(tenantId, importId)) as Row;
      return { importId, replaced: [replaced_lines, replaced_files] };
    };
    const [september, october, november] = ["2026-09-10", "2026-10-10", "2026-11-10"];
    const autumn = await publish("autumn.csv", [
      usage(september!, 1),
      usage(october!, 2),
      usage(october!, 3),
    ]);
    const late = await publish("late.csv", [usage(november!, 4)]);
    expect([autumn.replaced, late.replaced]).toEqual([
      ["0", []],
      ["0", []],
    ]);
    expect((await publish("other.csv", [usage(october!, 9)], "azure")).replaced).toEqual(["0", []]);

    // Of autumn.csv one month of two is replaced, and it goes on standing for the other.
    const before = await importRow(autumn.importId);
    const part = await publish("part.csv", [usage(october!, 5), usage(november!, 6)]);
    expect(part.replaced).toEqual(["3", ["autumn.csv", "late.csv"]]);
    expect(await importRow(autumn.importId)).toEqual(before);

    expect((await publish("last.csv", [usage(september!, 7)])).replaced).toEqual(["1", ["autumn.csv"]]);
    expect(await importRow(autumn.importId)).toEqual({ ...before, status: "SUPERSEDED" });
  });

  test("the same file twice is once", async () => {
    ({ tenantId } = await database.addTenant());
    const lines = [usage("2026-10-10", 2), usage("2026-10-11", 3)];
    await costs.load(tenantId, lines);
    const once = [await seen(), await daily()];
    await costs.load(tenantId, lines);
    expect([await seen(), await daily()]).toEqual(once);
  });

  test("ten at once: one is seen, whole, and each of the others was replaced once", async () => {
    ({ tenantId } = await database.addTenant());
    const ids = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        costs.load(tenantId, [usage("2026-09-10", i), usage("2026-10-10", i)]),
      ),
    );
    const replaced = await rows(
      `select (data ->> 'replaced_lines')::integer as lines from app.events
       where tenant_id = $1 and type = 'import.published' order by 1`,
      [tenantId],
    );
    expect(replaced.map((event) => event["lines"])).toEqual([0, ...Array(9).fill(2)]);
    const lines = await seen();
    expect(lines).toHaveLength(2);
    expect(lines[0]!["cost"]).toBe(lines[1]!["cost"]);
    const states = (await Promise.all(ids.map(importRow))).map((row) => row["status"]);
    expect(states.filter((state) => state === "PUBLISHED")).toHaveLength(1);
    expect(states.filter((state) => state === "SUPERSEDED")).toHaveLength(9);
  });

  /** The key of the lock under which an import of this source is published. */
  async function lockOf(source: string, of = tenantId): Promise<string> {
    const importId = await costs.start(of, source);
    await costs.add(of, importId, [usage("2026-10-10", 1)]);
    await costs.rollUp(of, importId);
    return rolledBack(database.service.pool, async (client) => {
      await client.query("select app.cost_import_publish($1, $2, $3)", [of, database.ticket(of), importId]);
      const locks = await rows(
        `select classid, objid, objsubid, mode from pg_locks
         where locktype = 'advisory' and pid = $1 and database = (select oid from pg_database where datname = $2)`,
        [(await client.query("select pg_backend_pid() as pid")).rows[0].pid, database.name],
      );
      expect(locks).toMatchObject([{ mode: "ExclusiveLock" }]);
      return `${locks[0]!["classid"]} ${locks[0]!["objid"]}`;
    });
  }

  test("publishers of a tenant share one lock, in whose key nothing is the caller's choice", async () => {
    ({ tenantId } = await database.addTenant());
    const other = await database.addTenant();
    const sources = ["aws", "azure", "a", "s".repeat(100), other.tenantId, "holdfast.migrate", "\u{1f4b0}"];
    const keys = new Set<string>();
    for (const source of sources) keys.add(await lockOf(source));
    expect(keys.size).toBe(1);
    expect(keys).not.toContain(await lockOf("aws", other.tenantId));
    const [migrate] = await rows(
      `select ((k >> 32) & 4294967295)::text || ' ' || (k & 4294967295)::text as key
       from (values (hashtext('holdfast.migrate')::bigint)) as lock (k)`,
    );
    expect(keys).not.toContain(migrate!["key"]);
  });

  test("each step is taken once: the next one is of a closed import", async () => {
    ({ tenantId } = await database.addTenant());
    const importId = await costs.start(tenantId);
    await costs.add(tenantId, importId, [usage("2026-10-10", 2)]);
    expect((await refusal(costs.publish(tenantId, importId), "import_closed")).detail).toEqual({
      status: "LOADING",
      wanted: "LOADED",
    });
    await costs.rollUp(tenantId, importId);
    await refusal(costs.rollUp(tenantId, importId), "import_closed");
    await refusal(costs.add(tenantId, importId, [usage("2026-10-10", 2)], 9), "import_closed");
    await costs.publish(tenantId, importId);
    for (const call of [
      () => costs.publish(tenantId, importId),
      () => costs.rollUp(tenantId, importId),
      () => costs.add(tenantId, importId, [usage("2026-10-10", 2)], 9),
      () => costs.fail(tenantId, importId, {}),
    ]) {
      expect((await refusal(call(), "import_closed")).status).toBe(409);
    }
    expect((await seen()).map((line) => line["cost"])).toEqual([2]);
  });
});

describe("it refuses", () => {
  beforeAll(async () => {
    ({ tenantId } = await database.addTenant());
  });

  test.each<[string, Record<string, string | number | null>, string]>([
    ["a cost that is no number", { effective_cost: "twelve" }, "22P02"],
    ["a cost that is NaN", { effective_cost: "NaN" }, "23514"],
    ["a cost that is infinite", { billed_cost: "Infinity" }, "23514"],
    ["no cost", { effective_cost: null }, "23502"],
    ["a date that does not exist", { charge_period_start: "2026-02-30" }, "22008"],
    ["a date that is none", { charge_period_start: "yesterday-ish" }, "22007"],
    ["no period", { billing_period_start: null }, "23502"],
    ["a period that ends before it begins", { charge_period_end: "2026-10-01" }, "23514"],
    ["a category that FOCUS does not know", { charge_category: "Refund" }, "23514"],
    ["tags that are no JSON", { tags: "{owner=me}" }, "22P02"],
    ["no currency", { billing_currency: null }, "23502"],
    ["a currency that is no code", { billing_currency: "{{saving}}" }, "23514"],
    ["a line number twice", { line_no: 2 }, "23505"],
    ["no line number", { line_no: null }, "23502"],
  ])("%s: none of the batch is kept", async (_, cells, sqlstate) => {
    const importId = await costs.start(tenantId);
    await costs.add(tenantId, importId, [usage("2026-10-10", 1)]);
    const lines = [usage("2026-10-10", 1, { line_no: 3 }), usage("2026-10-10", 1, { line_no: 4, ...cells })];
    const literals = await costs.literals(lines);
    if (cells["line_no"] === null) literals[1] = literals[1]!.replace('("3"', "(");
    const added = as(database.service, tenantId, "select app.cost_import_add($1, $2, $3, $4)", [
      importId,
      literals,
    ]);
    const refused = await refusal(added, "import_invalid");
    expect(refused).toMatchObject({ status: 422, detail: { sqlstate, reason: expect.any(String) } });
    expect(await rows("select line_no from app.cost_lines where import_id = $1", [importId])).toEqual([
      { line_no: 2 },
    ]);
    expect(await importRow(importId)).toMatchObject({ status: "LOADING" });
  });

  test.each([
    ["is cut", ['("1","2026']],
    ["has too few fields", ['("1","2026-10-01")']],
    ["is null", [null]],
    ["is empty", [""]],
    ["is a bare word", ["line"]],
  ])("a literal that %s", async (_, literals) => {
    const importId = await costs.start(tenantId);
    const added = as(database.service, tenantId, "select app.cost_import_add($1, $2, $3, $4)", [
      importId,
      literals,
    ]);
    await refusal(added, "import_invalid");
    expect(await rows("select from app.cost_lines where import_id = $1", [importId])).toEqual([]);
  });

  test("an import without a line: what is seen stays as it was", async () => {
    await costs.load(tenantId, [usage("2026-10-10", 7)]);
    const before = await seen();
    const importId = await costs.start(tenantId);
    expect(await costs.add(tenantId, importId, [])).toBe(0);
    expect((await refusal(costs.rollUp(tenantId, importId), "import_empty")).status).toBe(422);
    await refusal(costs.publish(tenantId, importId), "import_closed");
    await costs.fail(tenantId, importId, { code: "import_empty" });
    expect(await seen()).toEqual(before);
  });

  test("a failed import ends there: it says why, and nothing of it is seen", async () => {
    const before = await seen();
    const error = { code: "focus_invalid", file: "a.csv", line: 517, column: "BilledCost" };
    for (const rolledUp of [false, true]) {
      const importId = await costs.start(tenantId);
      await costs.add(tenantId, importId, [usage("2026-10-10", 99)]);
      if (rolledUp) await costs.rollUp(tenantId, importId);
      await costs.fail(tenantId, importId, error);
      expect(await importRow(importId)).toMatchObject({
        status: "FAILED",
        error,
        finished_at: expect.any(Date),
      });
      for (const call of [
        () => costs.fail(tenantId, importId, {}),
        () => costs.publish(tenantId, importId),
        () => costs.rollUp(tenantId, importId),
      ]) {
        await refusal(call(), "import_closed");
      }
      expect(await rows("select type, data from app.events where subject_id = $1", [importId])).toEqual([
        { type: "import.failed", data: error },
      ]);
    }
    expect(await seen()).toEqual(before);
  });

  test.each([
    ["no source", null, "a.csv", "1.0"],
    ["an empty source", "", "a.csv", "1.0"],
    ["a long source", "s".repeat(101), "a.csv", "1.0"],
    ["no file name", "aws", null, "1.0"],
    ["an empty file name", "aws", "", "1.0"],
    ["no version", "aws", "a.csv", null],
  ])("to start with %s", async (_, ...values) => {
    const started = as(
      database.service,
      tenantId,
      "select app.cost_import_start($1, $2, $3, $4, $5)",
      values,
    );
    await refusal(started, "argument_invalid");
  });

  test("an import that is not there", async () => {
    for (const id of [randomUUID(), null as unknown as string]) {
      for (const call of [
        () => costs.add(tenantId, id, []),
        () => costs.rollUp(tenantId, id),
        () => costs.publish(tenantId, id),
        () => costs.fail(tenantId, id, {}),
      ]) {
        expect((await refusal(call(), "import_not_found")).status).toBe(404);
      }
    }
  });
});

describe("a stranger gets nothing", () => {
  test("neither with its own ticket for the tenant nor with the id of a foreign import", async () => {
    ({ tenantId } = await database.addTenant());
    const importId = await costs.start(tenantId);
    await costs.add(tenantId, importId, [usage("2026-10-10", 1)]);
    let stranger = { tenantId: "" };
    for (const text of [
      "select app.cost_import_start($1, $2, 'aws', 'a.csv', '1.0') where $3::uuid is not null",
      "select app.cost_import_add($1, $2, $3, '{}')",
      "select app.cost_import_roll_up($1, $2, $3)",
      "select app.cost_import_publish($1, $2, $3)",
      "select app.cost_import_fail($1, $2, $3, '{}')",
    ]) {
      stranger = await strangerIsRefused(database, database.service, tenantId, text, [importId]);
    }
    const absent = await refusal(costs.publish(stranger.tenantId, randomUUID()), "import_not_found");
    for (const call of [
      () => costs.add(stranger.tenantId, importId, [usage("2026-10-10", 1)], 9),
      () => costs.rollUp(stranger.tenantId, importId),
      () => costs.publish(stranger.tenantId, importId),
      () => costs.fail(stranger.tenantId, importId, {}),
    ]) {
      expect(await refusal(call(), "import_not_found")).toMatchObject({
        message: absent.message,
        detail: absent.detail,
      });
    }
    expect(await importRow(importId)).toMatchObject({ status: "LOADING" });
    await costs.rollUp(tenantId, importId);
    await costs.publish(tenantId, importId);
    expect(await seen(stranger.tenantId)).toEqual([]);
    expect(await seen()).toHaveLength(1);
  });
});
