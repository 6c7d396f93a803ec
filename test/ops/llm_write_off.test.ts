// sql/ops/llm_write_off.sql: what a person does with a hold whose call was never billed.
import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { presume, reserve, settle } from "../../src/budgets.ts";
import { raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const WRITE_OFF = "select tenant, model, amount_usd, status from ops.llm_write_off($1, $2, $3)";

async function held(presumed: boolean) {
  const tenant = await database.addTenant({ limitUsd: "1" });
  const hold = await reserve(database.worker, tenant.tenantId, {
    idempotencyKey: randomUUID(),
    provider: "offline",
    model: "offline-analyst",
    inputTokensBound: 1_000_000,
    maxOutputTokens: 0,
    runId: await runsOf(database).add(tenant.tenantId),
    attempt: 1,
    ttlMs: 60_000,
  });
  if (presumed) await presume(database.worker, tenant.tenantId, hold.id, "timeout");
  return { tenant, id: hold.id };
}

const budgetOf = async (tenant: string) =>
  (await database.ops.query("select presumed_usd, left_usd from ops.budgets where tenant = $1", [tenant]))
    .rows[0];

test("it gives back what a presumed hold counts, once, and says who did it and why", async () => {
  const { tenant, id } = await held(true);
  expect(await budgetOf(tenant.name)).toEqual({ presumed_usd: "0.15", left_usd: "0.85" });

  const shown = await database.ops.query(WRITE_OFF, [id, "not on the bill of May", true]);
  expect(shown.rows).toEqual([
    { tenant: tenant.name, model: "offline-analyst", amount_usd: "0.15", status: "PRESUMED" },
  ]);
  expect(await budgetOf(tenant.name)).toEqual({ presumed_usd: "0.15", left_usd: "0.85" });

  const done = await database.ops.query(WRITE_OFF, [id, "not on the bill of May", false]);
  expect(done.rows[0]).toMatchObject({ status: "WRITTEN_OFF" });
  expect(await budgetOf(tenant.name)).toEqual({ presumed_usd: "0", left_usd: "1" });
  expect((await database.ops.query("select * from app.llm_check()")).rows).toEqual([]);
  const { rows } = await database.ops.query(
    "select actor, reason, before ->> 'status' as before from ops.audit_log where action = 'llm_write_off' and subject = $1",
    [tenant.name],
  );
  expect(rows).toEqual([{ actor: "holdfast_ops", reason: "not on the bill of May", before: "PRESUMED" }]);

  const again = await raised(database.ops.query(WRITE_OFF, [id, "once more", false]));
  expect(again).toMatchObject({ name: "reservation_closed", sqlstate: "LB201" });
  expect(await budgetOf(tenant.name)).toEqual({ presumed_usd: "0", left_usd: "1" });
});

test.each([
  ["a hold that is not presumed", false, "not billed", "reservation_closed"],
  ["no reason", true, " ", "reason_required"],
])("it refuses %s, and changes nothing", async (_, presumed, reason, name) => {
  const { tenant, id } = await held(presumed);
  const before = await budgetOf(tenant.name);
  expect(await raised(database.ops.query(WRITE_OFF, [id, reason, false]))).toMatchObject({ name });
  expect(await budgetOf(tenant.name)).toEqual(before);
});

test("it refuses an id that is not there, and a settled hold", async () => {
  expect(await raised(database.ops.query(WRITE_OFF, [randomUUID(), "not billed", false]))).toMatchObject({
    name: "reservation_not_found",
  });
  const { tenant, id } = await held(true);
  await settle(
    database.worker,
    tenant.tenantId,
    id,
    { inputTokens: 10, outputTokens: 0, cachedInputTokens: 0 },
    { providerRequestId: null, responseModel: null, finishReason: null, simulated: true },
  );
  expect(await raised(database.ops.query(WRITE_OFF, [id, "not billed", false]))).toMatchObject({
    name: "reservation_closed",
  });
});
