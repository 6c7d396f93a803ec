// sql/ops/reservations_presumed.sql: the holds whose outcome is unknown, and what becomes of them.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { oneAs, type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenant = { tenantId: "", name: "" };

beforeAll(() => ledger.setPrices());
beforeEach(async () => {
  tenant = await database.addTenant({ limitUsd: "5" });
});

const presumed = async (): Promise<Row[]> =>
  (await database.ops.query("select * from ops.reservations_presumed where tenant = $1", [tenant.name])).rows;
const only = async (): Promise<Row> => {
  const rows = await presumed();
  expect(rows).toHaveLength(1);
  return rows[0]!;
};
const counted = async (): Promise<Row> =>
  (
    await database.ops.query(
      `select b.reserved_usd, b.presumed_usd,
              (select sum(r.amount_usd) from ops.reservations_presumed as r where r.tenant = b.tenant) as shown
       from ops.budgets as b where b.tenant = $1 and b.period = 'month'`,
      [tenant.name],
    )
  ).rows[0];
/** A hold of 0.001 dollars of unknown outcome. */
async function hold(asked: { runId?: string } = {}): Promise<string> {
  const { id } = await ledger.reserve(tenant.tenantId, asked);
  await ledger.presume(tenant.tenantId, id);
  return id;
}
/** Says that the outcome of a hold is unknown since then. */
const since = (id: string, ago: string) =>
  database.superuser.query(
    "update app.llm_reservations set presumed_at = now() - $2::interval, expires_at = now() - $2::interval where id = $1",
    [id, ago],
  );
const setPolicy = (args: string) =>
  database.ops.query(`select ops.tenant_set($1, 'as agreed', ${args})`, [tenant.name]);
/** Types what the row says, with a reason. */
const type = (row: Row) => database.ops.query(row["fix"].replace("…", "not on the bill"));
/** Which holds of the tenant the resolver ends. */
const resolved = async () =>
  (await database.worker.pool.query("select * from app.llm_presumed_resolve()")).rows
    .filter((row) => row.tenant_id === tenant.tenantId)
    .map((row) => row.reservation_id);

describe("it shows", () => {
  test("a hold of unknown outcome: what counts, since when, why, and what to type", async () => {
    const runId = await runsOf(database).add(tenant.tenantId);
    const id = await hold({ runId });
    await since(id, "3 hours");
    expect(await only()).toEqual({
      tenant: tenant.name,
      model: "m",
      amount_usd: "0.001",
      since: expect.any(Date),
      age: "3h",
      reason: "no answer",
      policy: "hold",
      policy_ends_at: null,
      fix: `select * from ops.llm_write_off('${id}', reason => '…')`,
      provider: "p",
      run_id: runId,
      id,
    });
    expect(Date.now() - (await only())["since"].getTime()).toBeGreaterThan(3 * 3_600_000 - 1000);
    expect(await counted()).toEqual({ reserved_usd: "0", presumed_usd: "0.001", shown: "0.001" });

    expect(await raised(database.ops.query((await only())["fix"]))).toMatchObject({ sqlstate: "OP101" });
    await type(await only());
    expect(await presumed()).toEqual([]);
    expect(await counted()).toEqual({ reserved_usd: "0", presumed_usd: "0", shown: null });
  });

  test("the oldest first, the same when it is asked twice", async () => {
    const ids = [await hold(), await hold(), await hold()];
    await since(ids[1]!, "2 days");
    await since(ids[2]!, "1 hour");
    expect((await presumed()).map((row) => row["id"])).toEqual([ids[1], ids[2], ids[0]]);
    expect((await presumed()).map((row) => row["age"]).slice(0, 2)).toEqual(["2d", "60m"]);
    expect((await presumed()).map((row) => row["id"])).toEqual([ids[1], ids[2], ids[0]]);
  });

  test("of a stream that broke off what it had not settled yet", async () => {
    const { id } = await ledger.reserve(tenant.tenantId);
    await oneAs(
      database.service,
      tenant.tenantId,
      "select * from app.llm_settle($1, $2, $3, input_tokens => 500, output_tokens => 50, final => false)",
      [id],
    );
    expect(await presumed()).toEqual([]);
    await ledger.presume(tenant.tenantId, id);
    expect(await only()).toMatchObject({ amount_usd: "0.0004" });
    expect(await counted()).toMatchObject({ presumed_usd: "0.0004", shown: "0.0004" });
  });

  test("a hold past its time, before the sweeper comes to it and after", async () => {
    const { id } = await ledger.reserve(tenant.tenantId);
    await database.superuser.query(
      "update app.llm_reservations set expires_at = now() - interval '10 minutes' where id = $1",
      [id],
    );
    expect(await only()).toMatchObject({ id, amount_usd: "0.001", age: "10m", reason: null });
    expect(await counted()).toEqual({ reserved_usd: "0.001", presumed_usd: "0", shown: "0.001" });
    await type(await only());
    expect(await only()).toMatchObject({ id, amount_usd: "0.001", reason: "expired" });
    expect(await counted()).toEqual({ reserved_usd: "0", presumed_usd: "0.001", shown: "0.001" });
    await type(await only());
    expect(await presumed()).toEqual([]);
    expect(await ledger.broken()).toEqual([]);
  });

  test("no hold whose call is under way, or that has ended", async () => {
    const ids: string[] = [];
    for (let i = 0; i < 4; i += 1) ids.push((await ledger.reserve(tenant.tenantId))["id"]);
    await ledger.settle(tenant.tenantId, ids[1]!, 1, 1);
    await ledger.release(tenant.tenantId, ids[2]!);
    await ledger.presume(tenant.tenantId, ids[3]!);
    await ledger.settle(tenant.tenantId, ids[3]!, 500, 250);
    // Whatever ended is past its time one day.
    await database.superuser.query(
      "update app.llm_reservations set expires_at = now() - interval '1 day' where tenant_id = $1 and status <> 'RESERVED'",
      [tenant.tenantId],
    );
    expect(await presumed()).toEqual([]);
  });
});

describe("the policy of the tenant ends it when it says", () => {
  const ends = async () => (await only())["policy_ends_at"] as Date | null;

  test("hold: never", async () => {
    await since(await hold(), "300 days");
    expect(await ends()).toBeNull();
    expect(await resolved()).toEqual([]);
  });

  test("release_after: so long after it became unknown", async () => {
    const id = await hold();
    await since(id, "2 hours");
    await setPolicy("presumed_policy => 'release_after', presumed_after => '2 hours 1 minute'");
    expect(await only()).toMatchObject({ policy: "release_after" });
    const left = (await ends())!.getTime() - Date.now();
    expect(left).toBeGreaterThan(40_000);
    expect(left).toBeLessThanOrEqual(60_000);
    expect(await resolved()).toEqual([]);

    await setPolicy("presumed_after => '1 hour 59 minutes'");
    expect((await ends())!.getTime()).toBeLessThan(Date.now());
    expect(await resolved()).toEqual([id]);
    expect(await presumed()).toEqual([]);
  });

  test("charge_worst_case: at the end of the longest of its periods that ends", async () => {
    for (const period of ["day", "total"]) await ledger.setBudget(tenant.name, "1", period);
    const id = await hold();
    await setPolicy("presumed_policy => 'charge_worst_case'");
    const { rows } = await database.ops.query(
      "select period_end from ops.budgets where tenant = $1 and period = 'month'",
      [tenant.name],
    );
    expect(await ends()).toEqual(rows[0].period_end);
    expect(await resolved()).toEqual([]);

    const { rowCount } = await database.superuser.query(
      `update app.llm_budget_periods set period_start = period_start - interval '2 months', period_end = now() - interval '1 hour'
       where tenant_id = $1 and period_end <> 'infinity'`,
      [tenant.tenantId],
    );
    expect(rowCount).toBe(2);
    await database.superuser.query(
      `update app.llm_reservation_budgets set period_start = period_start - interval '2 months'
       where tenant_id = $1 and period_start <> '-infinity'`,
      [tenant.tenantId],
    );
    // It became unknown when its period was over.
    expect(Math.abs((await ends())!.getTime() - (await only())["since"].getTime())).toBeLessThan(1000);
    expect(await resolved()).toEqual([id]);
    expect(await presumed()).toEqual([]);
  });

  test("charge_worst_case: at once, where no period of it ends", async () => {
    await ledger.setBudget(tenant.name, "1", "total");
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1 and period = 'month'", [
      tenant.tenantId,
    ]);
    const id = await hold();
    await setPolicy("presumed_policy => 'charge_worst_case'");
    expect((await ends())!.getTime()).toBeLessThanOrEqual(Date.now());
    expect(await resolved()).toEqual([id]);
  });
});

test("a stranger gets nothing", async () => {
  await hold();
  for (const { pool } of [database.service, database.worker])
    await expect(pool.query("select from ops.reservations_presumed")).rejects.toMatchObject({
      code: "42501",
    });
});
