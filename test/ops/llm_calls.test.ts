// sql/ops/llm_calls.sql: every call to a model, one line each, whatever has become of it.
import { beforeAll, beforeEach, expect, test } from "vitest";
import { oneAs, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenant = { tenantId: "", name: "" };

beforeAll(() => ledger.setPrices());
beforeEach(async () => {
  tenant = await database.addTenant();
});

const calls = async (): Promise<Row[]> =>
  (await database.ops.query("select * from ops.llm_calls where tenant = $1", [tenant.name])).rows;
const hold = async (runId: string | null = null): Promise<string> =>
  (await ledger.reserve(tenant.tenantId, { runId }))["id"];
/** What a stream has used so far. */
const streamed = (id: string, input: number, output: number) =>
  oneAs(
    database.service,
    tenant.tenantId,
    "select * from app.llm_settle($1, $2, $3, input_tokens => $4, output_tokens => $5, final => false)",
    [id, input, output],
  );
const writeOff = (id: string) => database.ops.query("select ops.llm_write_off($1, 'not on the bill')", [id]);

test("what was held and what it cost, the newest first", async () => {
  const runId = await runsOf(database).add(tenant.tenantId);
  await ledger.settle(tenant.tenantId, await hold(runId), 100, 20);
  await ledger.release(tenant.tenantId, await hold());
  await ledger.presume(tenant.tenantId, await hold());
  const open = await hold();
  const unknown = { cost_usd: null, input_tokens: null, output_tokens: null };
  expect(await calls()).toMatchObject([
    { id: open, status: "RESERVED", reserved_usd: "0.001", reason: null, ...unknown },
    { status: "PRESUMED", reserved_usd: "0.001", reason: "no answer", ...unknown },
    { status: "RELEASED", reserved_usd: "0.001", reason: "never sent", run_id: null, ...unknown },
    {
      ...{ status: "APPLIED", reserved_usd: "0.001", cost_usd: "0.00014", run_id: runId },
      ...{ input_tokens: "100", output_tokens: "20" },
    },
  ]);
  expect(await calls()).toEqual(await calls());
});

test("a stream: what it has cost so far, and in the end", async () => {
  const id = await hold();
  await streamed(id, 500, 0);
  expect(await calls()).toMatchObject([
    {
      status: "RESERVED",
      reserved_usd: "0.001",
      cost_usd: "0.0005",
      input_tokens: "500",
      output_tokens: "0",
    },
  ]);
  await streamed(id, 500, 100);
  const far = { cost_usd: "0.0007", input_tokens: "500", output_tokens: "100" };
  expect(await calls()).toMatchObject([{ status: "RESERVED", ...far }]);
  await ledger.presume(tenant.tenantId, id);
  expect(await calls()).toMatchObject([{ status: "PRESUMED", ...far }]);
  await ledger.settle(tenant.tenantId, id, 500, 200);
  expect(await calls()).toMatchObject([
    { status: "APPLIED", cost_usd: "0.0009", input_tokens: "500", output_tokens: "200" },
  ]);
});

test("a stream that was written off, and what came to light after that: one line", async () => {
  const id = await hold();
  await streamed(id, 500, 100);
  await ledger.presume(tenant.tenantId, id);
  await writeOff(id);
  expect(await calls()).toMatchObject([
    { status: "WRITTEN_OFF", cost_usd: "0.0007", input_tokens: "500", output_tokens: "100" },
  ]);
  await ledger.settle(tenant.tenantId, id, 500, 200);
  expect(await calls()).toMatchObject([
    { status: "WRITTEN_OFF", cost_usd: "0.0009", input_tokens: "500", output_tokens: "200" },
  ]);
});

test("a call that was written off and cost nothing has no cost", async () => {
  const id = await hold();
  await ledger.presume(tenant.tenantId, id);
  await writeOff(id);
  expect(await calls()).toMatchObject([{ status: "WRITTEN_OFF", cost_usd: null, reason: "not on the bill" }]);
});

test("a call that was free has a cost of 0", async () => {
  const { id } = await ledger.reserve(tenant.tenantId, { provider: "free" });
  await ledger.settle(tenant.tenantId, id, 10, 10);
  expect(await calls()).toMatchObject([{ status: "APPLIED", reserved_usd: "0", cost_usd: "0" }]);
});

test("a stranger gets nothing", async () => {
  for (const { pool } of [database.service, database.worker])
    await expect(pool.query("select from ops.llm_calls")).rejects.toMatchObject({ code: "42501" });
});
