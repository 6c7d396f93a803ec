// sql/app_private/llm_cost.sql: every unit is counted once, at its own rate, exactly, and the sum is rounded up once.
import fc from "fast-check";
import { expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const UNITS = [
  ...["input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning", "request"],
  ...["image", "tool_call"],
];

/** Nano-USD of each use `[units, rates]`, both in the order of `UNITS`; rates are decimals in words. */
async function cost(uses: [number[], string[]][]): Promise<bigint[]> {
  const tuple = (values: unknown[]) => `(${values.join(",")})`;
  const { rows } = await database.superuser.query<{ cost: string }>(
    `select app_private.llm_cost(u.used::app_private.llm_units, u.rates::app_private.llm_rates)::text as cost
     from unnest($1::text[], $2::text[]) with ordinality as u (used, rates) order by u.ordinality`,
    [uses.map(([used]) => tuple(used)), uses.map(([, rates]) => tuple(rates))],
  );
  return rows.map((row) => BigInt(row.cost));
}

test("the types have the units in this order", async () => {
  const { rows } = await database.superuser.query(
    `select attrelid::regclass::text as type, array_agg(attname::text order by attnum) as units from pg_attribute
     where attrelid in ('app_private.llm_units'::regclass, 'app_private.llm_rates'::regclass) group by attrelid`,
  );
  expect(rows).toHaveLength(2);
  for (const { units } of rows) expect(units).toEqual(UNITS);
});

test.each(UNITS.map((unit, index) => [unit, index] as const))(
  "a million of %s costs its rate",
  async (unit, index) => {
    const used = UNITS.map((each, i) => (i === index ? 1_000_000 : each === partOf(unit) ? 1_000_000 : 0));
    const rates = UNITS.map((_, i) => (i === index ? "1.25" : "0"));
    expect(await cost([[used, rates]])).toEqual([1_250_000_000n]);
    // And no other rate has a part in it, if all of the input or output is of that kind.
    const others = UNITS.map((_, i) => (i === index ? "0" : "7"));
    expect(await cost([[used, others]])).toEqual([0n]);
  },
);

/** What a kind of tokens is a part of. */
function partOf(unit: string): string | undefined {
  if (unit === "reasoning") return "output";
  return unit.startsWith("cache") ? "input" : undefined;
}

test("the sum is rounded up, once: a part of a nano-USD is one", async () => {
  const zero = UNITS.map(() => "0");
  const one = (unit: string, rate: string) => UNITS.map((each) => (each === unit ? rate : "0"));
  const input = [1, 0, 0, 0, 0, 0, 0, 0, 0];
  expect(
    await cost([
      [input, zero],
      [input, one("input", "0.000000001")],
      [input, one("input", "0.001")],
    ]),
  ).toEqual([0n, 1n, 1n]);
  const both = [1, 0, 0, 0, 1, 0, 0, 0, 0];
  const halves = UNITS.map((each) => (["input", "output"].includes(each) ? "0.0005" : "0"));
  expect(await cost([[both, halves]])).toEqual([1n]);
});

test("as exact rationals say, for any use at any rates", async () => {
  const places = 12;
  const amount = fc.oneof(fc.nat(100), fc.nat(100_000_000));
  const use = fc
    .record({
      tokens: fc.tuple(amount, amount, amount, amount, amount, amount),
      counts: fc.tuple(fc.nat(1), fc.nat(10_000), fc.nat(10_000)),
      rates: fc.array(fc.bigInt({ min: 0n, max: 100_000n * 10n ** BigInt(places) }), {
        minLength: 9,
        maxLength: 9,
      }),
    })
    .map(({ tokens: [plain, cached, short, long, output, reasoning], counts, rates }) => {
      const kinds = [plain, cached, short, long, output, reasoning, ...counts]; // each counted once
      const used = [
        plain + cached + short + long,
        cached,
        short,
        long,
        output + reasoning,
        reasoning,
        ...counts,
      ];
      return { kinds, used, rates };
    });
  const text = (rate: bigint) => {
    const digits = String(rate).padStart(places + 1, "0");
    return `${digits.slice(0, -places)}.${digits.slice(-places)}`;
  };
  await fc.assert(
    fc.asyncProperty(fc.array(use, { minLength: 1, maxLength: 200 }), async (uses) => {
      const expected = uses.map(({ kinds, rates }) => {
        // Units x rate / 10^12 dollars a million = nano-USD x 10^9 / 10^6 / 10^12; up to a whole one.
        const sum = kinds.reduce((total, kind, i) => total + BigInt(kind) * rates[i]! * 1000n, 0n);
        const one = 10n ** BigInt(places);
        return (sum + one - 1n) / one;
      });
      expect(await cost(uses.map(({ used, rates }) => [used, rates.map(text)]))).toEqual(expected);
    }),
    { numRuns: 50 },
  );
});
