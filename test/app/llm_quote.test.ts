// sql/app/llm_quote.sql: what a hold would be answered, and nothing is held.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { type Ask, ask, askOf, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { quote, reserveMany, tenantWith, counters } = holds;

beforeAll(() => ledger.setPrices());

describe("it works", () => {
  test("it says the most that the call can cost, and that it fits", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const { idempotency_key: _none, ...asked } = ask();
    expect(await quote(tenantId, asked)).toEqual({
      fits: true,
      estimated_cost_nanousd: "1000000",
      estimated_cost_usd: expect.stringMatching(/^0\.0010*$/),
      granted_output_tokens: "250",
      refusal: null,
      detail: null,
      hint: null,
    });
  });

  test("it says what would be granted of a request that may be clamped", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    expect(await quote(tenantId, ask({ max_output_tokens: 9_999, min_output_tokens: 10 }))).toMatchObject({
      fits: true,
      granted_output_tokens: "250",
      estimated_cost_nanousd: "1000000",
    });
  });

  test.each<[string, Ask]>([
    ["fits", {}],
    ["is clamped", { max_output_tokens: 9_999, min_output_tokens: 1 }],
    ["is too large", { max_output_tokens: 9_999 }],
    ["does not fit its user's budget", { user_id: "u" }],
    ["has no price", { model: "unheard-of" }],
    ["is nonsense", { max_output_tokens: -1 }],
  ])("for one that %s it says what the hold is answered", async (_what, different) => {
    const { tenantId } = await tenantWith(
      { limit: 1_500_000 },
      { scope: "user", scopeId: "u", limit: 999_999 },
    );
    await holds.hold(tenantId, askOf(100));
    const asked = ask(different);
    const quoted = await quote(tenantId, asked);
    const [row] = await reserveMany(tenantId, [asked]);
    expect([quoted["refusal"], quoted["detail"], quoted["granted_output_tokens"]]).toEqual([
      row!["refusal"],
      row!["detail"],
      row!["max_output_tokens"],
    ]);
    expect(quoted["fits"]).toBe(row!["refusal"] === null);
    if (quoted["fits"]) expect(quoted["estimated_cost_nanousd"]).toBe(row!["estimated_cost_nanousd"]);
  });

  test("a tenant without a budget has no_budget", async () => {
    const { tenantId } = await tenantWith();
    expect(await quote(tenantId, ask())).toMatchObject({
      fits: false,
      refusal: "budget_exceeded",
      detail: { reason: "no_budget" },
    });
  });
});

describe("it holds nothing", () => {
  test("however often it is asked, and a key that was used stays what it is", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asked = ask({ idempotency_key: "quote" });
    for (let n = 0; n < 20; n += 1) expect(await quote(tenantId, asked)).toMatchObject({ fits: true });
    expect(await counters(tenantId)).toEqual([]);
    expect(await ledger.holdCount(tenantId)).toBe(0);
    expect((await reserveMany(tenantId, [asked]))[0]).toMatchObject({ status: "RESERVED", replayed: false });
    expect(await quote(tenantId, asked)).toMatchObject({ fits: false });
  });

  test("it waits for nobody who has the budget locked", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    await holds.hold(tenantId, askOf(1));
    const client = await database.superuser.connect();
    try {
      await client.query("begin");
      await client.query("select from app.llm_budget_periods where tenant_id = $1 for update", [tenantId]);
      expect(await quote(tenantId, askOf(1))).toMatchObject({ fits: true });
    } finally {
      await client.query("rollback");
      client.release();
    }
  });
});

describe("bad input", () => {
  test.each([["null"], ["1"], ['"x"'], ["[]"], ["{}"], ['[{"a":1}]']])(
    "%s is reservation_invalid",
    async (asked) => {
      const { tenantId } = await tenantWith({ limit: 1_000_000 });
      expect(await quote(tenantId, asked)).toMatchObject({ fits: false, refusal: "reservation_invalid" });
    },
  );

  test.each(["-1", "1e400", '"NaN"', '"Infinity"', "null"])(
    "%s tokens are reservation_invalid",
    async (value) => {
      const { tenantId } = await tenantWith({ limit: 1_000_000 });
      const asked = JSON.stringify(ask()).replace('"max_output_tokens":250', `"max_output_tokens":${value}`);
      expect(await quote(tenantId, asked)).toMatchObject({
        fits: false,
        refusal: "reservation_invalid",
        granted_output_tokens: null,
      });
    },
  );

  test("the largest request has a quote that is a number", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select 'dearest', 'm', u.unit, case u.unit when 'image' then 1000000000 else 100000 end, '[2026-01-01,)', 'test'
       from (values ('input'), ('output'), ('image')) as u (unit)`,
    );
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asked = ask({
      provider: "dearest",
      input_tokens_bound: 100_000_000,
      max_output_tokens: 100_000_000,
      images: 10_000,
    });
    expect(await quote(tenantId, asked)).toMatchObject({
      fits: false,
      refusal: "budget_exceeded",
      estimated_cost_nanousd: "30000000000000000",
    });
  });
});

describe("a stranger gets nothing", () => {
  test("with another ticket; a foreign run changes no answer", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const text = "select * from app.llm_quote($1, $2, $3::jsonb)";
    const stranger = await strangerIsRefused(database, database.service, tenantId, text, [
      JSON.stringify(ask()),
    ]);
    const theirs = await runsOf(database).add(stranger.tenantId);
    const asked = ask();
    const [foreign, absent] = [
      await quote(tenantId, { ...asked, run_id: theirs }),
      await quote(tenantId, { ...asked, run_id: randomUUID() }),
    ];
    expect(foreign).toEqual(absent);
  });
});
