// sql/app/cost_sources_list.sql and cost_source_imported.sql: what a worker reads, and what it has read.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { as, oneAs, type Row, refusal, strangerIsRefused } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);
const [ONE, OTHER] = ["1a".repeat(32), "2b".repeat(32)];
const LIST = "select * from app.cost_sources_list($1, $2)";
const IMPORTED =
  "select app.cost_source_imported($1, $2, source => $3, digest => $4, import_id => $5) as kept";
let tenant = { tenantId: "", name: "" };

beforeEach(async () => {
  tenant = await database.addTenant();
  await set("aws", "/exports/a.csv");
});

const set = (source: string, path: string) =>
  database.ops.query("select ops.cost_source_set($1, $2, $3, 'test')", [tenant.name, source, path]);
const list = (tenantId = tenant.tenantId): Promise<Row[]> => as(database.service, tenantId, LIST);
const imported = async (source: string, digest: string | null, importId: string): Promise<boolean> =>
  (await oneAs(database.service, tenant.tenantId, IMPORTED, [source, digest, importId]))["kept"];
const load = (days: string[], source = "aws") =>
  costs.load(
    tenant.tenantId,
    days.map((day) => usage(day, 3)),
    source,
  );

describe("it works", () => {
  test("a source that was never read has no digest; after its import it has that of the file", async () => {
    await set("gcp", "/exports/g.csv");
    expect(await list()).toEqual([
      { source: "aws", path: "/exports/a.csv", last_digest: null },
      { source: "gcp", path: "/exports/g.csv", last_digest: null },
    ]);
    expect(await imported("aws", ONE, await load(["2025-01-02"]))).toBe(true);
    expect((await list()).map((each) => each["last_digest"])).toEqual([ONE, null]);
  });

  test("a later import of the source, of any of its months, makes the file one to read again", async () => {
    await imported("aws", ONE, await load(["2025-01-02", "2025-02-02"]));
    await load(["2025-03-02"]);
    await load(["2025-02-02"], "by hand");
    expect(await list()).toMatchObject([{ last_digest: ONE }]);
    await load(["2025-02-02"]);
    expect(await list()).toMatchObject([{ last_digest: null }]);
    await imported("aws", OTHER, await load(["2025-01-02", "2025-02-02"]));
    expect(await list()).toMatchObject([{ last_digest: OTHER }]);
  });

  test("what another import has taken whole by then is remembered, and read again", async () => {
    const slow = await load(["2025-01-02"]);
    await imported("aws", OTHER, await load(["2025-01-02"]));
    expect(await imported("aws", ONE, slow)).toBe(true);
    expect(await list()).toMatchObject([{ last_digest: null }]);
  });

  test("a source that was dropped meanwhile is not made again", async () => {
    const importId = await load(["2025-01-02"]);
    await database.ops.query("select ops.cost_source_drop($1, 'aws', 'test')", [tenant.name]);
    expect(await imported("aws", ONE, importId)).toBe(false);
    expect(await list()).toEqual([]);
  });
});

test("it works twice", async () => {
  const importId = await load(["2025-01-02"]);
  expect(await imported("aws", ONE, importId)).toBe(true);
  expect(await imported("aws", ONE, importId)).toBe(true);
  expect(await list()).toEqual(await list());
});

describe("it refuses", () => {
  test("an import that is not there, not published, or of another source", async () => {
    const open = await costs.start(tenant.tenantId, "aws");
    for (const importId of [randomUUID(), open, await load(["2025-01-02"], "gcp")])
      await refusal(imported("aws", ONE, importId), "import_not_found");
    await costs.fail(tenant.tenantId, open, { code: "test" });
    await refusal(imported("aws", ONE, open), "import_not_found");
    expect(await list()).toMatchObject([{ last_digest: null }]);
  });

  test("what is no digest", async () => {
    const importId = await load(["2025-01-02"]);
    for (const digest of [null, "", ONE.slice(1), ONE.toUpperCase(), `${ONE}0`])
      await refusal(imported("aws", digest, importId), "argument_invalid");
  });

  test("the worker's own login, with which no task works", async () => {
    const ticket = database.ticket(tenant.tenantId);
    for (const [text, values] of [
      [LIST, []],
      [IMPORTED, ["aws", ONE, randomUUID()]],
    ] as const)
      await expect(
        database.worker.pool.query(text, [tenant.tenantId, ticket, ...values]),
      ).rejects.toMatchObject({ code: "42501" });
  });
});

test("a stranger gets nothing", async () => {
  const importId = await load(["2025-01-02"]);
  const stranger = await strangerIsRefused(database, database.service, tenant.tenantId, LIST);
  await strangerIsRefused(database, database.service, tenant.tenantId, IMPORTED, ["aws", ONE, importId]);
  expect(await list(stranger.tenantId)).toEqual([]);
  await refusal(
    as(database.service, stranger.tenantId, IMPORTED, ["aws", ONE, importId]),
    "import_not_found",
  );
  expect(await list()).toMatchObject([{ last_digest: null }]);
});
