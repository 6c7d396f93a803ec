// sql/app/job_list.sql: the runs of a tenant, newest first, a page at a time.
import { beforeAll, describe, expect, test } from "vitest";
import { as, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";
const made: string[] = [];

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  const other = await database.addTenant();
  await runs.addKind("mail");
  for (let n = 0; n < 5; n += 1) {
    made.unshift(await runs.add(tenantId, n === 2 ? "mail" : "analysis"));
    await runs.add(other.tenantId);
  }
});

const list = (values: { state?: string; kind?: string; limit?: number | null; before?: string } = {}) =>
  as(
    database.service,
    tenantId,
    "select * from app.job_list($1, $2, state => $3, kind => $4, max_rows => $5, before => $6)",
    [
      values.state ?? null,
      values.kind ?? null,
      values.limit === undefined ? 50 : values.limit,
      values.before ?? null,
    ],
  );
const ids = (rows: { [column: string]: unknown }[]) => rows.map((row) => row["run_id"]);

describe("it works", () => {
  test("all of its own runs and no other, newest first", async () => {
    const rows = await list();
    expect(ids(rows)).toEqual(made);
    expect(rows[2]).toMatchObject({ run_kind: "mail", run_state: "PENDING", attempt: 0, error_code: null });
  });

  test("a page at a time, each run once", async () => {
    const first = await list({ limit: 2 });
    const second = await list({ limit: 2, before: first[1]!["run_id"] });
    const third = await list({ limit: 2, before: second[1]!["run_id"] });
    expect(ids([...first, ...second, ...third])).toEqual(made);
    expect(await list({ before: made.at(-1)! })).toEqual([]);
  });

  test("of one kind, of one state", async () => {
    expect(ids(await list({ kind: "mail" }))).toEqual([made[2]]);
    expect(ids(await list({ kind: "nope" }))).toEqual([]);
    await runs.claim(tenantId, made[0]!);
    expect(ids(await list({ state: "RUNNING" }))).toEqual([made[0]]);
    expect(await list({ state: "RUNNING" })).toEqual(await list({ state: "RUNNING" }));
  });
});

test.each([
  ["a state that there is not", { state: "DONE" }, "state"],
  ["no limit", { limit: null }, "max_rows"],
  ["a limit of none", { limit: 0 }, "max_rows"],
  ["a limit too large", { limit: 201 }, "max_rows"],
])("it refuses %s", async (_what, values, argument) => {
  const refused = await refusal(list(values), "argument_invalid");
  expect(refused.detail).toEqual({ argument });
});

test("a stranger gets nothing", async () => {
  const text = "select * from app.job_list($1, $2)";
  const stranger = await strangerIsRefused(database, database.service, tenantId, text);
  expect(await as(database.service, stranger.tenantId, text)).toEqual([]);
  const after = "select * from app.job_list($1, $2, before => $3)";
  expect(await as(database.service, stranger.tenantId, after, [made[0]])).toEqual([]);
});
