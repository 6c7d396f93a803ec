// What reserve, settle and sweep read they find by an index, also when the plan is of a time when the tables were empty.
import type pg from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenantId = "";
let client: pg.PoolClient;
let plans: string[] = [];

beforeAll(async () => {
  await ledger.setPrices();
  tenantId = (await database.addTenant({ limitUsd: "1000" })).tenantId;
  client = await database.superuser.connect();
  client.on("notice", (notice) => plans.push(notice.message ?? ""));
  await client.query(`load 'auto_explain'; set auto_explain.log_min_duration = 0;
    set auto_explain.log_nested_statements = on; set client_min_messages = log; set jit = off`);
});
afterAll(() => client.release(true));

/** Rows of a statement whose `$1` and `$2` are the tenant and a ticket; its plans are in `plans`. */
async function ask(text: string, values: unknown[] = []): Promise<Row[]> {
  plans = [];
  return (await client.query(text, [tenantId, database.ticket(tenantId), ...values])).rows;
}
const reserve = (count: number, prefix: string, ttlMs = 60_000) =>
  ask("select id, refusal from app.llm_reserve_many($1, $2, $3)", [
    JSON.stringify(
      Array.from({ length: count }, (_, n) => ({
        ...{ idempotency_key: `${prefix}${n}`, provider: "p", model: "m", ttl_ms: ttlMs },
        ...{ input_tokens_bound: 10, max_output_tokens: 10 },
      })),
    ),
  ]);
const settle = (ids: string[]) =>
  ask("select refusal from app.llm_settle_many($1, $2, $3)", [
    JSON.stringify(ids.map((id) => ({ reservation_id: id, input_tokens: 1, output_tokens: 1 }))),
  ]);
const scans = () =>
  plans.join("\n").match(/Seq Scan on (app\.)?llm_(reservations|reservation_\w+|budget_periods|usage)\w*/g);

test.each(["a table that is empty", "two thousand holds"])(
  "by an index, with a plan of %s",
  async (which) => {
    if (which !== "a table that is empty") {
      for (let batch = 0; batch < 4; batch += 1) await reserve(500, `${batch}:`);
      await database.superuser.query("analyze app.llm_reservations, app.llm_reservation_budgets");
    }
    const held = await reserve(20, `${which}:`);
    expect(held.filter((row) => row["refusal"] !== null)).toEqual([]);
    expect(scans()).toBeNull();
    expect(plans.join("\n")).toMatch(/llm_reservation_keys_pkey/);
    expect(plans.join("\n")).toMatch(/llm_budget_periods_pkey/);
    expect(plans.join("\n")).toMatch(/Insert on llm_reservations/);

    await settle(held.map((row) => row["id"]));
    expect(scans()).toBeNull();
    expect(plans.join("\n")).toMatch(/Index Scan using llm_reservations_\w*pkey|llm_reservations_p\w+_pkey/);
    expect(plans.join("\n")).toMatch(/llm_reservation_budgets_\w*pkey/);

    await reserve(5, `late ${which}:`, 0);
    plans = [];
    const { rows } = await client.query("select * from app.llm_expire()");
    expect(rows).toHaveLength(5);
    expect(scans()).toBeNull();
    expect(plans.join("\n")).toMatch(/expires_at_idx/);
  },
);
