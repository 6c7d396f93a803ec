// sql/app/llm_settle_many.sql: what calls did cost, in parts, late, and more than was held.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ask, askOf, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { settleMany, settle, tenantWith, counters, sound } = holds;

beforeAll(() => ledger.setPrices());

const column = (rows: Record<string, unknown>[], name: string) => rows.map((row) => row[name]);

/** A tenant of 10,000,000 nano-USD a month with a hold of 1,000,000 of them. */
async function held(): Promise<{ tenantId: string; id: string }> {
  const { tenantId } = await tenantWith({ limit: 10_000_000 });
  return { tenantId, id: await holds.hold(tenantId) };
}

/** Input tokens alone: so many thousand nano-USD. */
const input = (tokens: number, rest: object = {}) => ({ input_tokens: tokens, output_tokens: 0, ...rest });
const part = (tokens: number) => input(tokens, { final: false });
const one = async (tenantId: string) => (await counters(tenantId))[0];
const usage = async (id: string) =>
  (await ledger.usage(id)).map((row) => [row["status"], Number(row["cost_nanousd"])]).sort();

describe("it works", () => {
  test("each hold is settled, and one that is refused fails no other", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const ids = [await holds.hold(tenantId), await holds.hold(tenantId), await holds.hold(tenantId)];
    await holds.release(tenantId, ids[1]!);
    const rows = await settleMany(tenantId, [
      { reservation_id: ids[0], ...input(100) },
      { reservation_id: ids[1], ...input(100) },
      { reservation_id: randomUUID(), ...input(100) },
      { reservation_id: ids[2], ...input(-1) },
      { reservation_id: ids[2], ...input(200) },
    ]);
    expect(column(rows, "n")).toEqual([1, 2, 3, 4, 5]);
    expect(column(rows, "refusal")).toEqual([
      null,
      "reservation_closed",
      "reservation_not_found",
      "reservation_invalid",
      null,
    ]);
    expect(column(rows, "cost_nanousd")).toEqual(["100000", null, null, null, "200000"]);
    expect(column(rows, "hint").map((hint) => hint === null)).toEqual([true, false, false, false, true]);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 300_000 });
    await sound();
  });

  test("every kind has its price, and what has none costs what input or output does", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select 'kinds', 'm', u.unit, u.rate, '[2026-01-01,)', 'test'
       from (values ('input', 1), ('cached_input', 0.1), ('cache_write_5m', 1.25), ('cache_write_1h', 2), ('output', 5),
         ('reasoning', 7), ('request', 100), ('image', 1000), ('tool_call', 10000)) as u (unit, rate)`,
    );
    const { tenantId } = await tenantWith({ limit: 10_000_000_000 });
    const id = await holds.hold(tenantId, {
      provider: "kinds",
      input_tokens_bound: 1_000,
      max_output_tokens: 100,
      images: 2,
      tool_calls: 3,
    });
    // Every input token as one that is written for an hour, every output token as reasoning.
    const most = 1_000 * 2_000 + 100 * 7_000 + 100_000 + 2 * 1_000_000 + 3 * 10_000_000;
    expect(await one(tenantId)).toMatchObject({ reserved: most });
    const used = {
      input_tokens: 1_000,
      cached_input_tokens: 500,
      cache_write_5m_tokens: 200,
      cache_write_1h_tokens: 100,
      output_tokens: 100,
      reasoning_tokens: 60,
      images: 2,
      tool_calls: 1,
      source: "estimated",
      provider_request_id: "req",
      response_model: "m-1",
      finish_reason: "stop",
      simulated: true,
    };
    const cost =
      200 * 1_000 +
      500 * 100 +
      200 * 1_250 +
      100 * 2_000 +
      40 * 5_000 +
      60 * 7_000 +
      100_000 +
      2_000_000 +
      10_000_000;
    expect(await settle(tenantId, id, used)).toMatchObject({
      cost_nanousd: String(cost),
      over_hold_nanousd: "0",
    });
    const [row] = await ledger.usage(id);
    expect(row).toMatchObject({
      status: "SETTLED",
      input_tokens: "1000",
      cache_write_5m_tokens: "200",
      cache_write_1h_tokens: "100",
      reasoning_tokens: "60",
      images: 2,
      tool_calls: 1,
      source: "estimated",
      provider_request_id: "req",
      simulated: true,
    });
    await sound();
  });

  test("a cost above the hold is recorded whole, and no later call is admitted over it", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const id = await holds.hold(tenantId);
    expect(await settle(tenantId, id, input(2_500))).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "2500000",
      over_hold_nanousd: "1500000",
    });
    const [row] = await holds.reserveMany(tenantId, [ask({ provider: "free" })]);
    expect(row).toMatchObject({ refusal: "budget_exceeded", detail: { reason: "exhausted" } });
    expect(await one(tenantId)).toMatchObject({ spent: 2_500_000, reserved: 0 });
    await sound();
  });

  test("a hold of several budgets is settled in each", async () => {
    const { tenantId } = await tenantWith(
      { limit: 10_000_000 },
      { scope: "user", scopeId: "u", limit: 5_000_000, period: "total" },
      { scope: "tag", scopeId: "t", limit: 5_000_000, period: "day" },
    );
    await settle(tenantId, await holds.hold(tenantId, { user_id: "u", tags: ["t"] }), input(300));
    expect((await counters(tenantId)).map(({ spent, reserved }) => [spent, reserved])).toEqual(
      Array(3).fill([300_000, 0]),
    );
    await sound();
  });

  test("a hold of a past month is settled there", async () => {
    const { tenantId, id } = await held();
    await holds.monthsPass(tenantId);
    const fresh = await holds.hold(tenantId);
    await settleMany(tenantId, [
      { reservation_id: fresh, ...input(1) },
      { reservation_id: id, ...input(2) },
    ]);
    expect((await counters(tenantId)).map(({ spent }) => spent)).toEqual([2_000, 1_000]);
    await sound();
  });
});

describe("in parts", () => {
  test("what a stream has used is spent, the rest stays held, and the last part closes it", async () => {
    const { tenantId, id } = await held();
    for (const tokens of [100, 250, 250, 900]) {
      expect(await settle(tenantId, id, part(tokens))).toMatchObject({ status: "RESERVED", refusal: null });
      expect(await one(tenantId)).toMatchObject({
        reserved: 1_000_000 - tokens * 1_000,
        spent: tokens * 1_000,
      });
      await sound();
    }
    expect(await usage(id)).toEqual([]);
    expect(await settle(tenantId, id, input(950))).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "950000",
    });
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 950_000 });
    expect(await usage(id)).toEqual([["SETTLED", 950_000]]);
    await sound();
  });

  test("a part that is lower than the one before takes nothing back", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(500));
    expect(await settle(tenantId, id, part(200))).toMatchObject({ status: "RESERVED" });
    expect(await one(tenantId)).toMatchObject({ reserved: 500_000, spent: 500_000 });
    await sound();
  });

  test("a final that is lower than a part is what it did cost", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(500));
    expect(await settle(tenantId, id, input(200))).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "200000",
    });
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 200_000 });
    await sound();
  });

  test("a part above the hold is spent, and nothing is held below zero", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(1_700));
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 1_700_000 });
    await sound();
    await settle(tenantId, id, input(1_800));
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 1_800_000 });
    await sound();
  });

  test("two of one hold in one batch are taken in their order", async () => {
    const { tenantId, id } = await held();
    const other = await holds.hold(tenantId);
    const rows = await settleMany(tenantId, [
      { reservation_id: id, ...part(100) },
      { reservation_id: other, ...input(1) },
      { reservation_id: id, ...part(300) },
      { reservation_id: id, ...input(400) },
      { reservation_id: id, ...input(400) },
      { reservation_id: id, ...part(500) },
      { reservation_id: id, ...input(401) },
    ]);
    expect(column(rows, "n")).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(column(rows, "status").slice(0, 5)).toEqual([
      "RESERVED",
      "APPLIED",
      "RESERVED",
      "APPLIED",
      "APPLIED",
    ]);
    expect(column(rows, "refusal").slice(5)).toEqual(["reservation_closed", "reservation_closed"]);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 401_000 });
    expect(await usage(id)).toEqual([["SETTLED", 400_000]]);
    await sound();
  });

  test("a stream that breaks off is presumed for the rest, and settled late", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(300));
    await holds.presume(tenantId, id);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 700_000, spent: 300_000 });
    await settle(tenantId, id, part(400));
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 600_000, spent: 400_000 });
    await sound();
    expect(await settle(tenantId, id, input(450))).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "450000",
    });
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 450_000 });
    await sound();
  });

  test("what a stream has settled is not given back: it cannot be released", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(0));
    await settle(tenantId, id, part(1));
    await refusal(holds.release(tenantId, id), "reservation_closed");
    expect(await one(tenantId)).toMatchObject({ reserved: 999_000, spent: 1_000 });
    await sound();
  });

  test("a part of nothing leaves it releasable", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, part(0));
    await holds.release(tenantId, id);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, spent: 0 });
    await sound();
  });
});

describe("late", () => {
  async function writtenOff(parts: number[] = []): Promise<{ tenantId: string; id: string }> {
    const one = await held();
    for (const tokens of parts) await settle(one.tenantId, one.id, part(tokens));
    await holds.presume(one.tenantId, one.id);
    await holds.writeOff(one.id);
    await sound();
    return one;
  }

  test("after it has expired, swept or not", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const [swept, unswept] = [await holds.hold(tenantId, { ttl_ms: 0 }), ""];
    expect(await holds.expire()).toEqual([swept]);
    const other = unswept || (await holds.hold(tenantId, { ttl_ms: 0 }));
    const rows = await settleMany(
      tenantId,
      [swept, other].map((id) => ({ reservation_id: id, ...input(10) })),
    );
    expect(column(rows, "status")).toEqual(["APPLIED", "APPLIED"]);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 20_000 });
    await sound();
  });

  test("after it was written off it is an adjustment, once, and the same again answers the same", async () => {
    const { tenantId, id } = await writtenOff();
    const first = await settle(tenantId, id, input(400));
    expect(first).toMatchObject({ status: "WRITTEN_OFF", cost_nanousd: "400000", refusal: null });
    expect(await settle(tenantId, id, input(400))).toEqual(first);
    expect(await settle(tenantId, id, input(401))).toMatchObject({ refusal: "reservation_closed" });
    expect(await usage(id)).toEqual([["ADJUSTED", 400_000]]);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 400_000 });
    await sound();
  });

  test.each([
    ["more than its parts", 400, 400_000],
    ["less than its parts", 100, 300_000],
    ["more than the hold", 1_500, 1_500_000],
  ])("of a stream, %s: what was spent stays spent", async (_what, tokens, spent) => {
    const { tenantId, id } = await writtenOff([200, 300]);
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 300_000 });
    const first = await settle(tenantId, id, input(tokens));
    expect(first).toMatchObject({ status: "WRITTEN_OFF", refusal: null });
    expect(await settle(tenantId, id, input(tokens))).toEqual(first);
    expect(await usage(id)).toEqual([
      ["ADJUSTED", spent - 300_000],
      ["PARTIAL", 300_000],
    ]);
    expect(await one(tenantId)).toMatchObject({ spent });
    await sound();
  });

  test("a part after it was written off leaves the books sound, now and after the last one", async () => {
    const { tenantId, id } = await writtenOff([100]);
    await settle(tenantId, id, part(200));
    await sound();
    await settle(tenantId, id, input(300));
    await sound();
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 300_000 });
  });

  test("an adjustment can pass the limit and is recorded all the same; then nothing is admitted", async () => {
    const { tenantId, id } = await writtenOff();
    for (let n = 0; n < 10; n += 1) await holds.hold(tenantId);
    await settle(tenantId, id, input(900));
    expect(await one(tenantId)).toMatchObject({ reserved: 10_000_000, spent: 900_000 });
    await sound();
    expect((await holds.reserveMany(tenantId, [askOf(0)]))[0]).toMatchObject({ refusal: "budget_exceeded" });
  });
});

describe("prices", () => {
  test("are those of the moment of the hold: changed, corrected or ended since", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select 'moving', 'm', u.unit, u.rate, '[2026-01-01,)', 'test' from (values ('input', 1), ('output', 2)) as u (unit, rate)`,
    );
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const id = await holds.hold(tenantId, { provider: "moving" });
    await database.superuser.query(
      "update app.llm_prices set corrected_at = clock_timestamp() where provider = 'moving'",
    );
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, known_at, source)
       select 'moving', 'm', u.unit, u.rate, '[2026-01-01,)', clock_timestamp(), 'test' from (values ('input', 3), ('output', 4)) as u (unit, rate)`,
    );
    const after = await holds.hold(tenantId, { provider: "moving" });
    expect(await settle(tenantId, id, input(100))).toMatchObject({ cost_nanousd: "100000" });
    expect(await settle(tenantId, after, input(100))).toMatchObject({ cost_nanousd: "300000" });
    await sound();
  });

  test("of a longer prompt are held at the dearest tier, and settled at that of the prompt, whole", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, prompt_tokens, valid, source)
       select 'tiers', 'm', t.unit, t.rate, t.tokens::int8range, '[2026-01-01,)', 'test'
       from (values ('input', 1, '[0,1001)'), ('input', 2, '[1001,)'), ('output', 3, '[0,1001)'), ('output', 4, '[1001,)'))
         as t (unit, rate, tokens)`,
    );
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    const [below, above] = [
      await holds.hold(tenantId, { provider: "tiers", input_tokens_bound: 1_000, max_output_tokens: 10 }),
      await holds.hold(tenantId, { provider: "tiers", input_tokens_bound: 1_001, max_output_tokens: 10 }),
    ];
    expect(await one(tenantId)).toMatchObject({ reserved: 1_030_000 + 2_042_000 });
    expect(await settle(tenantId, above, input(1_000))).toMatchObject({ cost_nanousd: "1000000" });
    // The bound was wrong: the dearer tier is what it costs.
    expect(await settle(tenantId, below, input(1_001))).toMatchObject({
      cost_nanousd: "2002000",
      over_hold_nanousd: "972000",
    });
    await sound();
  });

  test("that end at a length settle a longer prompt too: what was billed is recorded", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, prompt_tokens, valid, source)
       select 'short', 'm', t.unit, t.rate, t.tokens::int8range, '[2026-01-01,)', 'test'
       from (values ('input', 1, '[0,100]'), ('output', 3, '[0,100]')) as t (unit, rate, tokens)`,
    );
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    const id = await holds.hold(tenantId, {
      provider: "short",
      input_tokens_bound: 100,
      max_output_tokens: 10,
    });
    expect(await settle(tenantId, id, input(101))).toMatchObject({
      cost_nanousd: "101000",
      status: "APPLIED",
    });
    await sound();
  });

  test("of a tenant's own go before: of the model before the provider, a price before a factor", async () => {
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    const other = await tenantWith({ limit: 100_000_000 });
    const costs = async (of: string) =>
      Number(
        (await settle(of, await holds.hold(of), { input_tokens: 100, output_tokens: 10 }))["cost_nanousd"],
      );
    const add = (model: string, unit: string, price: number | null, factor: number | null) =>
      database.superuser.query(
        `insert into app.llm_price_overrides (tenant_id, provider, model, unit, usd_per_million, factor, valid)
         values ($1, 'p', $2, $3, $4, $5, '[2026-01-01,)')`,
        [tenantId, model, unit, price, factor],
      );
    expect(await costs(tenantId)).toBe(120_000);
    await add("", "", null, 0.5);
    expect(await costs(tenantId)).toBe(60_000);
    await add("", "input", null, 2);
    expect(await costs(tenantId)).toBe(200_000 + 10_000);
    await add("m", "", null, 3);
    expect(await costs(tenantId)).toBe(300_000 + 60_000);
    await add("m", "output", 7, null);
    expect(await costs(tenantId)).toBe(300_000 + 70_000);
    expect(await costs(other.tenantId)).toBe(120_000);
    await sound();
  });

  test("of a tenant's own are pinned like any other", async () => {
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    const set = (factor: number, valid: string) =>
      database.superuser.query(
        "insert into app.llm_price_overrides (tenant_id, provider, factor, valid) values ($1, 'p', $2, $3)",
        [tenantId, factor, valid],
      );
    await set(0.5, "[2026-01-01,)");
    const id = await holds.hold(tenantId);
    await database.superuser.query(
      "update app.llm_price_overrides set valid = tstzrange(lower(valid), clock_timestamp()) where tenant_id = $1",
      [tenantId],
    );
    expect(await settle(tenantId, id, input(100))).toMatchObject({ cost_nanousd: "50000" });
    expect(await settle(tenantId, await holds.hold(tenantId), input(100))).toMatchObject({
      cost_nanousd: "100000",
    });
  });
});

describe("bad input", () => {
  test.each([
    ["null", "null"],
    ["no list", "{}"],
    ["an empty list", "[]"],
    ["1,001", JSON.stringify(Array(1_001).fill({}))],
  ])("%s is reservation_invalid", async (_what, settles) => {
    const { tenantId } = await held();
    await refusal(settleMany(tenantId, settles), "reservation_invalid");
  });

  const kinds = [
    ...["input_tokens", "output_tokens", "cached_input_tokens", "cache_write_5m_tokens"],
    ...["cache_write_1h_tokens", "reasoning_tokens", "images", "tool_calls"],
  ];
  const hostile = ["-1", "1e400", "-1e400", '"NaN"', '"Infinity"', "9223372036854775808", '"many"', "{}"];
  test.each(kinds.flatMap((kind) => hostile.map((value) => [kind, value])))(
    "%s of %s is reservation_invalid by itself, and nothing has changed",
    async (kind, value) => {
      const { tenantId, id } = await held();
      const other = await holds.hold(tenantId);
      const bad = `{"reservation_id":"${id}","input_tokens":1,"output_tokens":1,"${kind}":${value}}`;
      const good = JSON.stringify({ reservation_id: other, ...input(1) });
      const rows = await settleMany(tenantId, `[${bad},${good}]`);
      expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
      expect(await holds.status(id)).toBe("RESERVED");
      expect(await one(tenantId)).toMatchObject({ reserved: 1_000_000, spent: 1_000 });
    },
  );

  test.each<[string, object]>([
    ["no input", { input_tokens: null }],
    ["no output", { output_tokens: null }],
    ["more cached than there are", { cached_input_tokens: 60, cache_write_1h_tokens: 41 }],
    ["more reasoning than output", { reasoning_tokens: 21 }],
    ["another source", { source: "guessed" }],
    ["a final that is none", { final: "perhaps" }],
    ["an id that is none", { reservation_id: "x" }],
  ])("%s is reservation_invalid by itself", async (_what, different) => {
    const { tenantId, id } = await held();
    const rows = await settleMany(tenantId, [
      { reservation_id: id, input_tokens: 100, output_tokens: 20, ...different },
      { reservation_id: id, ...part(1) },
    ]);
    expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
    expect(await one(tenantId)).toMatchObject({ reserved: 999_000, spent: 1_000 });
    await sound();
  });

  test.each([["1"], ["null"], ["[]"], ['"x"']])("%s in the list is too", async (bad) => {
    const { tenantId, id } = await held();
    const rows = await settleMany(
      tenantId,
      `[${bad},${JSON.stringify({ reservation_id: id, ...input(1) })}]`,
    );
    expect(column(rows, "refusal")).toEqual(["reservation_invalid", null]);
  });

  test("no id is not found", async () => {
    const { tenantId } = await held();
    const rows = await settleMany(tenantId, [input(1), { reservation_id: null, ...input(1) }]);
    expect(column(rows, "refusal")).toEqual(["reservation_not_found", "reservation_not_found"]);
  });

  test("the dearest call that can be told is a number", async () => {
    await database.superuser.query(
      `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
       select 'dearest', 'm', u.unit, 100000, '[2026-01-01,)', 'test' from (values ('input'), ('output')) as u (unit)`,
    );
    const { tenantId } = await tenantWith({ limit: null });
    const id = await holds.hold(tenantId, {
      provider: "dearest",
      input_tokens_bound: 1,
      max_output_tokens: 1,
    });
    expect(
      await settle(tenantId, id, { input_tokens: 100_000_000, output_tokens: 100_000_000 }),
    ).toMatchObject({ cost_nanousd: "20000000000000000" });
    await sound();
  });

  test("an override that no call could pay cannot be made", async () => {
    const { tenantId } = await held();
    const made = database.superuser.query(
      `insert into app.llm_price_overrides (tenant_id, provider, model, unit, usd_per_million, valid)
       values ($1, 'p', 'm', 'input', 1000000000, '[2026-01-01,)')`,
      [tenantId],
    );
    await expect(made).rejects.toMatchObject({ code: "23514" });
  });
});

describe("a stranger gets nothing", () => {
  test("with another ticket, or none; a foreign id in the same bytes as an absent one", async () => {
    const { tenantId, id } = await held();
    const settles = JSON.stringify([{ reservation_id: id, ...input(1) }]);
    const stranger = await strangerIsRefused(
      database,
      database.service,
      tenantId,
      "select * from app.llm_settle_many($1, $2, $3::jsonb)",
      [settles],
    );
    const said = async (given: string) =>
      JSON.stringify(await settle(stranger.tenantId, given, input(1))).replaceAll(given, "");
    expect(await said(id)).toBe(await said(randomUUID()));
    expect(await holds.status(id)).toBe("RESERVED");
    expect(await one(tenantId)).toMatchObject({ reserved: 1_000_000 });
  });
});

describe("an estimate is no last word", () => {
  test("what the provider says after two estimates is recorded, once, upward", async () => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, input(100, { source: "estimated" }));
    await settle(tenantId, id, input(200, { source: "estimated" }));
    const true_ = await settle(tenantId, id, input(300));
    expect(true_).toMatchObject({ status: "APPLIED", cost_nanousd: "300000", refusal: null });
    expect(await settle(tenantId, id, input(300))).toMatchObject({ cost_nanousd: "300000", refusal: null });
    expect(await settle(tenantId, id, input(400))).toMatchObject({ refusal: "reservation_closed" });
    expect(await one(tenantId)).toMatchObject({ reserved: 0, presumed: 0, spent: 300_000 });
    await sound();
  });

  test("a stream that settles in parts while it is presumed is not old", async () => {
    const { tenantId, id } = await held();
    await ledger.presume(tenantId, id);
    await database.superuser.query(
      "update app.llm_reservations set presumed_at = now() - interval '1 day' where id = $1",
      [id],
    );
    await settle(tenantId, id, part(100));
    expect(Date.now() - (await ledger.hold(id))["presumed_at"].getTime()).toBeLessThan(60_000);
    await sound();
  });
});
