// sql/ops/llm_prices.sql: what models cost now, at a glance.
import { readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { projectFile } from "../../src/migrate.ts";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const WIDEST = 110;
/** Hosts or models with names that take most of a line by themselves. */
const LONG_NAMES = [
  "api.perplexity.ai",
  "bedrock-runtime.amazonaws.com",
  "generativelanguage.googleapis.com",
];

const shown = async (where: string, values: unknown[] = []): Promise<Row[]> =>
  (await database.ops.query(`select * from ops.llm_prices where ${where}`, values)).rows;

beforeAll(async () => {
  await database.ops.query(readFileSync(projectFile("sql/prices/genai_prices.sql"), "utf8"));
});

test("one line for each model, what is rare in words", async () => {
  const set = (args: string) =>
    database.ops.query(`select ops.llm_price_set('x', 'm', ${args}, reason => 'test')`);
  await set("1, 2");
  await set("10.50, 20, cache_write_5m_usd_per_million => 12.5, prompt_tokens_from => 200001");
  await set(
    "3, 4, service_tier => 'priority', cached_input_usd_per_million => 0.30, request_usd_per_million => 5000, reasoning_usd_per_million => 9",
  );
  const none = { cached: null, write: null, more: "" };
  expect(await shown("provider = 'x'")).toEqual([
    {
      provider: "x",
      model: "m",
      tier: "priority",
      ...none,
      input: "3",
      cached: "0.3",
      output: "4",
      more: "reasoning 9, request 5000",
    },
    { provider: "x", model: "m", tier: "<200001", ...none, input: "1", output: "2" },
    { provider: "x", model: "m", tier: ">=200001", ...none, input: "10.5", write: "12.5", output: "20" },
  ]);
});

test("what is over, corrected or to come is not there, but the day of it is", async () => {
  await database.ops.query("select ops.llm_price_set('y', 'm', 1, 2, reason => 'test')");
  await database.ops.query("select ops.llm_price_set('y', 'm', 3, 4, reason => 'test')");
  await database.ops.query("select ops.llm_price_set('y', 'm', 5, 6, reason => 'test', correct => true)");
  expect(await shown("provider = 'y'")).toMatchObject([{ input: "5", output: "6", more: "" }]);
  await database.ops.query(
    `select * from ops.llm_prices_load('[
       {"provider": "y", "model": "n", "unit": "input", "usd_per_million": 1, "valid_until": "2100-03-01T00:00Z"},
       {"provider": "y", "model": "n", "unit": "input", "usd_per_million": 2, "valid_from": "2100-03-01T00:00Z"}]',
       source => 'list', reason => 'test')`,
  );
  expect(await shown("provider = 'y' and model = 'n'")).toMatchObject([
    { input: "1", output: null, more: expect.stringMatching(/^until 2100-0(2-28|3-01)$/) },
  ]);
});

test(`is at most ${WIDEST} columns wide for the models of a provider`, async () => {
  const { rows } = await database.ops.query(
    `select w.provider, sum(greatest(length(w.key), w.width) + 3) - 1 as width
     from (select p.provider, e.key, max(coalesce(length(e.value), 0)) as width from ops.llm_prices as p
           cross join jsonb_each_text(to_jsonb(p)) as e group by p.provider, e.key) as w
     group by w.provider order by 2 desc`,
  );
  expect(rows.length).toBeGreaterThan(8);
  expect(
    rows.filter((row) => Number(row.width) > (LONG_NAMES.includes(row.provider) ? 145 : WIDEST)),
  ).toEqual([]);
});

test("a stranger gets nothing", async () => {
  for (const { pool } of [database.service, database.worker])
    await expect(pool.query("select * from ops.llm_prices")).rejects.toMatchObject({ code: "42501" });
});
