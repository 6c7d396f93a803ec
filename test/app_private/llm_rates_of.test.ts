// sql/app_private/llm_price_ids.sql and llm_rates_of.sql: which versions of prices apply, and what they come to.
import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { oneAs } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
let provider = "";
let tenantId = "";

beforeEach(async () => {
  provider = `p-${randomUUID()}`;
  tenantId = (await database.addTenant()).tenantId;
});

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
type Version = {
  unit?: string;
  usd?: unknown;
  lengths?: string;
  valid?: string;
  tier?: string;
  known?: string;
  corrected?: string;
};
/** Stores a version of model `m` and gives its id. */
async function price(version: Version = {}): Promise<string> {
  const { unit = "input", usd = 1, lengths = "[0,)", valid = "(,)", tier = "standard" } = version;
  const { known = "2026-01-01", corrected = "infinity" } = version;
  const [stored] = await rows(
    `insert into app.llm_prices (provider, model, unit, usd_per_million, prompt_tokens, valid, service_tier, source,
       known_at, corrected_at)
     values ($1, 'm', $2, $3, $4, $5, $6, 'test', $7, $8) returning id`,
    [provider, unit, usd, lengths, valid, tier, known, corrected],
  );
  return stored!["id"];
}
/** Stores what the tenant pays instead, and gives its id. */
async function override(of: {
  model?: string;
  unit?: string;
  usd?: unknown;
  factor?: unknown;
  whose?: string;
  valid?: string;
}) {
  const { model = "", unit = "", usd = null, factor = null, whose = tenantId, valid = "(,)" } = of;
  const [stored] = await rows(
    `insert into app.llm_price_overrides (tenant_id, provider, model, unit, usd_per_million, factor, valid)
     values ($1, $2, $3, $4, $5, $6, $7) returning id`,
    [whose, provider, model, unit, usd, factor, valid],
  );
  return stored!["id"] as string;
}
const ids = async (at = "2026-06-01", tier = "standard", model = "m") =>
  (
    await rows("select * from app_private.llm_price_ids($1, $2, $3, $4, $5)", [
      tenantId,
      provider,
      model,
      tier,
      at,
    ])
  )[0]!;
/** The rates for prompts of these lengths, as numbers. */
async function rates(lengths = "[0,)", at = "2026-06-01"): Promise<Record<string, number | null>> {
  const [found] = await rows("select * from app_private.llm_rates_of($1, $2, $3)", [
    tenantId,
    (await ids(at))["price_ids"],
    lengths,
  ]);
  return Object.fromEntries(
    Object.entries(found!).map(([unit, usd]) => [unit, usd === null ? null : Number(usd)]),
  );
}
const conflict = (called: Promise<unknown>) =>
  expect(called).rejects.toMatchObject({ code: "23P01", constraint: "llm_prices_one_at_a_time" });

describe("two versions at one time", () => {
  test.each<[string, Version]>([
    ["the same", {}],
    ["another price", { usd: 2 }],
    ["for a part of the time", { valid: "[2026-05-01,2026-05-02)" }],
    ["for a part of the lengths", { lengths: "[5,6)" }],
    ["known later", { known: "2026-04-01" }],
    ["known for a while that overlaps", { known: "2025-01-01", corrected: "2026-01-02" }],
  ])("are refused: %s", async (_, version) => {
    await price();
    await conflict(price(version));
    expect((await ids())["price_ids"]).toHaveLength(1);
  });

  test.each<[string, Version, Version]>([
    ["one that was corrected", { corrected: "2026-03-01" }, { known: "2026-03-01" }],
    ["times that meet", { valid: "(,2026-05-01)" }, { valid: "[2026-05-01,)" }],
    ["lengths that meet", { lengths: "[0,100)" }, { lengths: "[100,)" }],
    ["another unit", {}, { unit: "output" }],
    ["another service tier", {}, { tier: "flex" }],
  ])("are not: %s", async (_, one, other) => {
    await price(one);
    await price(other);
  });
});

describe("which versions apply", () => {
  test("those of the model, the tier and the moment, which nobody has corrected", async () => {
    await price({ usd: 9, corrected: "2026-03-01" });
    const before = await price({ usd: 1, known: "2026-03-01", valid: "(,2026-05-01)" });
    const after = await price({ usd: 2, known: "2026-03-01", valid: "[2026-05-01,)" });
    const flex = await price({ usd: 3, tier: "flex" });
    expect(await ids("2026-04-30")).toEqual({ price_ids: [before], tiered: false });
    expect(await ids("2026-05-01")).toEqual({ price_ids: [after], tiered: false });
    expect(await ids("2026-05-01", "flex")).toEqual({ price_ids: [flex], tiered: false });
    expect(await ids("2026-05-01", "batch")).toEqual({ price_ids: null, tiered: null });
    expect(await ids("2026-05-01", "standard", "n")).toEqual({ price_ids: null, tiered: null });
  });

  test("every tier of lengths, and what of the tenant's overrides may matter", async () => {
    const low = await price({ lengths: "[0,100)" });
    const high = await price({ lengths: "[100,)" });
    const mine = [await override({ factor: 2 }), await override({ model: "m", unit: "input", usd: 3 })];
    await override({ model: "n", factor: 4 });
    await override({ unit: "input", factor: 5, valid: "(,2026-05-01)" });
    await override({ factor: 6, whose: (await database.addTenant()).tenantId });
    const found = await ids();
    expect(found["tiered"]).toBe(true);
    expect(new Set(found["price_ids"])).toEqual(new Set([low, high, ...mine]));
  });

  test("an override alone is no price", async () => {
    await override({ model: "m", unit: "input", usd: 3 });
    expect(await ids()).toEqual({ price_ids: null, tiered: null });
  });
});

describe("what they come to", () => {
  test("kinds without a price of their own cost what input, or output, does; counts cost nothing", async () => {
    await price({ usd: 3 });
    await price({ unit: "output", usd: 7 });
    const plain = { input: 3, output: 7, request: 0, image: 0, tool_call: 0 };
    expect(await rates()).toEqual({
      ...plain,
      cached_input: 3,
      cache_write_5m: 3,
      cache_write_1h: 3,
      reasoning: 7,
    });
    await price({ unit: "cache_write_5m", usd: 4 });
    expect(await rates()).toMatchObject({ cached_input: 3, cache_write_5m: 4, cache_write_1h: 4 });
    await price({ unit: "cache_write_1h", usd: 6 });
    await price({ unit: "cached_input", usd: 0 });
    await price({ unit: "reasoning", usd: 8 });
    await price({ unit: "request", usd: 5000 });
    expect(await rates()).toEqual({
      ...plain,
      ...{ cached_input: 0, cache_write_5m: 4, cache_write_1h: 6, reasoning: 8, request: 5000 },
    });
  });

  test("without input or output there is none", async () => {
    await price({ unit: "output", usd: 7 });
    expect(await rates()).toMatchObject({ input: null, cached_input: null, output: 7 });
  });

  test("a prompt below, at and above the border; one that may cross it costs the dearer, of each unit", async () => {
    await price({ usd: 1, lengths: "[0,200001)" });
    await price({ usd: 2, lengths: "[200001,)" });
    await price({ unit: "output", usd: 9, lengths: "[0,200001)" });
    await price({ unit: "output", usd: 5, lengths: "[200001,)" });
    expect(await rates("[200000,200000]")).toMatchObject({ input: 1, output: 9 });
    expect(await rates("[200001,200001]")).toMatchObject({ input: 2, output: 5 });
    expect(await rates("[0,200000]")).toMatchObject({ input: 1, output: 9 });
    expect(await rates("[0,200001]")).toMatchObject({ input: 2, output: 9 });
    const sonnet = (bound: number, output: number) =>
      oneAs(database.service, tenantId, "select * from app.llm_quote($1, $2, $3)", [
        JSON.stringify({
          idempotency_key: "k",
          provider,
          model: "m",
          input_tokens_bound: bound,
          max_output_tokens: output,
        }),
      ]);
    expect(await sonnet(200_000, 1)).toMatchObject({ estimated_cost_nanousd: "200009000" });
    expect(await sonnet(200_001, 1)).toMatchObject({ estimated_cost_nanousd: "400011000" });
  });

  test("a hold at the dearer tier is settled at the one that the prompt came to", async () => {
    await price({ usd: 1, lengths: "[0,11)" });
    await price({ usd: 2, lengths: "[11,)" });
    await price({ unit: "output", usd: 1 });
    const settle = async (tokens: number) => {
      const ask = {
        idempotency_key: randomUUID(),
        provider,
        model: "m",
        input_tokens_bound: 20,
        max_output_tokens: 0,
      };
      const [held] = await asService("select * from app.llm_reserve_many($1, $2, $3)", [
        { ...ask, max_output_tokens: 1 },
      ]);
      expect(held!["estimated_cost_nanousd"]).toBe("41000");
      const used = { reservation_id: held!["id"], input_tokens: tokens, output_tokens: 0 };
      return (await asService("select * from app.llm_settle_many($1, $2, $3)", [used]))[0]!["cost_nanousd"];
    };
    const asService = async (text: string, asked: unknown[]): Promise<Row[]> => [
      await oneAs(database.service, tenantId, text, [JSON.stringify(asked)]),
    ];
    expect([await settle(10), await settle(11), await settle(20)]).toEqual(["10000", "22000", "40000"]);
  });
});

describe("what a tenant pays instead", () => {
  beforeEach(async () => {
    await price({ usd: 10 });
    await price({ unit: "output", usd: 100 });
  });

  test("the model before the provider, then the unit before all units", async () => {
    const steps: [Parameters<typeof override>[0], number, number][] = [
      [{ factor: 2 }, 20, 200],
      [{ unit: "input", factor: 3 }, 30, 200],
      [{ model: "m", factor: 4 }, 40, 400],
      [{ model: "m", unit: "input", factor: 5 }, 50, 400],
    ];
    for (const [made, input, output] of steps) {
      await override(made);
      expect(await rates(), JSON.stringify(made)).toMatchObject({ input, output });
    }
  });

  test("a price of its own; factors of nothing and of half", async () => {
    await override({ model: "m", unit: "input", usd: 0.123456789 });
    await override({ factor: 0 });
    expect(await rates()).toMatchObject({
      input: 0.123456789,
      output: 0,
      cached_input: 0.123456789,
      reasoning: 0,
    });
  });

  test("that of another tenant, or of a hold that was made without it, is not looked at", async () => {
    const pinned = (await ids())["price_ids"];
    await override({ factor: 0 });
    const [found] = await rows("select (app_private.llm_rates_of($1, $2, '[0,)')).input", [tenantId, pinned]);
    expect(found).toEqual({ input: "10" });
    const stranger = (await database.addTenant()).tenantId;
    const [theirs] = await rows("select (app_private.llm_rates_of($1, $2, '[0,)')).input", [
      stranger,
      (await ids())["price_ids"],
    ]);
    expect(theirs).toEqual({ input: "10" });
  });
});

test("what is held is never less than what any use within its bounds costs", async () => {
  const usd = fc.integer({ min: 0, max: 2000 }).map((cents) => cents / 100);
  const unit = fc.constantFrom("cached_input", "cache_write_5m", "cache_write_1h", "reasoning", "request");
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        border: fc.integer({ min: 1, max: 40 }),
        tiers: fc.tuple(usd, usd, usd, usd),
        more: fc.uniqueArray(fc.tuple(unit, usd), { selector: ([name]) => name, maxLength: 5 }),
        factor: fc.option(fc.constantFrom(0, 0.333, 1.5)),
        bound: fc.tuple(fc.nat(50), fc.integer({ min: 1, max: 50 })),
        shares: fc.tuple(fc.nat(100), fc.nat(100), fc.nat(100), fc.nat(100), fc.nat(100)),
      }),
      async ({ border, tiers, more, factor, bound, shares }) => {
        provider = `p-${randomUUID()}`;
        for (const [index, name] of ["input", "output"].entries()) {
          await price({ unit: name, usd: tiers[2 * index]!, lengths: `[0,${border})` });
          await price({ unit: name, usd: tiers[2 * index + 1]!, lengths: `[${border},)` });
        }
        for (const [name, cost] of more) await price({ unit: name, usd: cost });
        if (factor !== null) await override({ factor });
        const ask = { provider, model: "m", input_tokens_bound: bound[0], max_output_tokens: bound[1] };
        const held = await oneAs(
          database.service,
          tenantId,
          "select * from app.llm_reserve_many($1, $2, $3)",
          [JSON.stringify([{ ...ask, idempotency_key: randomUUID() }])],
        );
        expect(held["refusal"]).toBeNull();
        const input = Math.floor((bound[0] * shares[0]) / 100);
        const cached = Math.floor((input * shares[1]) / 100);
        const written = Math.floor(((input - cached) * shares[2]) / 100);
        const output = Math.floor((bound[1] * shares[3]) / 100);
        const used = {
          ...{
            reservation_id: held["id"],
            input_tokens: input,
            output_tokens: output,
            cached_input_tokens: cached,
          },
          ...{ cache_write_5m_tokens: written, cache_write_1h_tokens: input - cached - written },
          reasoning_tokens: Math.floor((output * shares[4]) / 100),
        };
        const settled = await oneAs(
          database.service,
          tenantId,
          "select * from app.llm_settle_many($1, $2, $3)",
          [JSON.stringify([used])],
        );
        expect(settled["refusal"]).toBeNull();
        expect(settled["over_hold_nanousd"]).toBe("0");
        expect(BigInt(settled["cost_nanousd"])).toBeLessThanOrEqual(BigInt(held["estimated_cost_nanousd"]));
      },
    ),
    { numRuns: 40 },
  );
});
