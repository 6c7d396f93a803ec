// sql/ops/llm_prices_load.sql: a list of prices is taken, again and again.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import type pg from "pg";
import { beforeEach, describe, expect, test } from "vitest";
import { projectFile } from "../../src/migrate.ts";
import { jsonOf, modelsOf, rowsOfSql } from "../../src/prices.ts";
import { type Row, raised, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let provider = "";

beforeEach(() => {
  provider = `p-${randomUUID()}`;
});

type Listed = Record<string, unknown>;
type Options = { source?: unknown; reason?: unknown; dryRun?: boolean; overwrite?: boolean };

/** A row of a list for model `m`. */
const row = (unit: string, usd: unknown, more: Listed = {}): Listed => ({
  provider,
  model: "m",
  unit,
  usd_per_million: usd,
  ...more,
});
const load = async (list: unknown, options: Options = {}): Promise<Row[]> => {
  const {
    source = `list-of-${provider} 1`,
    reason = "price list",
    dryRun = false,
    overwrite = false,
  } = options;
  const text = "select * from ops.llm_prices_load($1, $2, $3, dry_run => $4, overwrite => $5)";
  const json = typeof list === "string" ? list : JSON.stringify(list);
  return (await database.ops.query(text, [json, source, reason, dryRun, overwrite])).rows;
};
/** `[change, unit, lengths, before, after]` of each. */
const said = (changes: Row[]) =>
  changes.map((each) => [
    each["change"],
    each["unit"],
    each["prompt_tokens"],
    each["before_usd_per_million"],
    each["after_usd_per_million"],
  ]);
const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
/** Every version of the provider, as it is stored. */
const stored = () => rows("select * from app.llm_prices where provider = $1 order by id", [provider]);
/** `[unit, lengths, price]` of what is believed of a moment, counted from now. */
const believed = async (offset = "0") =>
  (
    await rows(
      `select unit, prompt_tokens::text as lengths, usd_per_million as usd from app.llm_prices
       where provider = $1 and valid @> now() + $2::interval and corrected_at = 'infinity'
       order by unit, prompt_tokens`,
      [provider, offset],
    )
  ).map((each) => [each["unit"], each["lengths"], each["usd"]]);
const audits = () =>
  rows("select actor, reason, before, after from ops.audit_log where subject = $1 order by id", [
    `list-of-${provider} 1`,
  ]);
const day = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString();

describe("it works", () => {
  test("models that had no price have one, for ever; one log line says so", async () => {
    const { tenantId } = await database.addTenant();
    await refusal(ledger.reserve(tenantId, { provider }), "no_price");
    expect(said(await load([row("output", 2), row("input", "1.000000001")]))).toEqual([
      ["new", "input", "[0,)", null, "1.000000001"],
      ["new", "output", "[0,)", null, "2"],
    ]);
    expect(await ledger.reserve(tenantId, { provider })).toMatchObject({ estimated_cost_nanousd: "1000001" });
    expect(await stored()).toMatchObject(
      ["input", "output"].map((unit) => ({
        unit: expect.stringMatching(/^(in|out)put$/),
        valid: "(,)",
        service_tier: "standard",
        simulated: false,
        source: unit && `list-of-${provider} 1`,
      })),
    );
    expect(await believed("-10 years")).toEqual(await believed("10 years"));
    expect(await audits()).toEqual([
      {
        actor: "holdfast_ops",
        reason: "price list",
        before: null,
        after: { new: [`${provider} m input [0,) -> 1.000000001`, `${provider} m output [0,) -> 2`] },
      },
    ]);
  });

  test("the same list again changes nothing, not even the log; nor does its newer version", async () => {
    const list = [row("input", 1), row("output", 2), row("output", 3, { model: "n", valid_from: day(-3) })];
    await load(list);
    const before = [await stored(), await audits()];
    expect(await load(list)).toEqual([]);
    expect(await load(list, { source: `list-of-${provider} 2` })).toEqual([]);
    expect([await stored(), await audits()]).toEqual(before);
  });

  test("a price that differs holds from now on, where the one before ends; what is equal stays", async () => {
    const { tenantId } = await database.addTenant();
    await load([row("input", 1), row("output", 2)]);
    const [, output] = await stored();
    const held = await ledger.reserve(tenantId, { provider });
    expect(said(await load([row("input", 10), row("output", 2)]))).toEqual([
      ["changed", "input", "[0,)", "1", "10"],
    ]);
    expect(await load([row("input", 10), row("output", 2)])).toEqual([]);
    expect(await stored()).toContainEqual(output);
    const [versions] = await rows(
      `select count(*)::int as n, count(*) filter (where corrected_at <> 'infinity')::int as corrected,
              max(upper(valid)) = max(lower(valid)) as meet
       from app.llm_prices where provider = $1 and unit = 'input'`,
      [provider],
    );
    expect(versions).toEqual({ n: 2, corrected: 0, meet: true });
    // 500 x 1,000 + 250 x 2,000, as it was held; then as it costs now.
    expect(await ledger.settle(tenantId, held["id"], 500, 250)).toMatchObject({ cost_nanousd: "1000000" });
    expect(await ledger.reserve(tenantId, { provider })).toMatchObject({ estimated_cost_nanousd: "5500000" });
    expect((await audits()).at(-1)?.["after"]).toEqual({ changed: [`${provider} m input [0,) 1 -> 10`] });
  });

  test("a change that is announced holds from its day on", async () => {
    const [soon, later] = [day(2), day(5)];
    const list = [
      row("input", 1, { valid_until: soon }),
      row("input", 2, { valid_from: soon, valid_until: later }),
      row("input", 1, { valid_from: later }),
    ];
    await load([row("input", 1)]);
    expect(said(await load(list))).toEqual([["changed", "input", "[0,)", "1", "2"]]);
    expect(await load(list)).toEqual([]);
    expect(await believed("1 day")).toEqual([["input", "[0,)", "1"]]);
    expect(await believed("3 days")).toEqual([["input", "[0,)", "2"]]);
    expect(await believed("6 days")).toEqual([["input", "[0,)", "1"]]);
    // The announcement is taken back: what was to come is no longer believed.
    await load([row("input", 1)]);
    expect(await believed("3 days")).toEqual([["input", "[0,)", "1"]]);
    expect(await load([row("input", 1)])).toEqual([]);
  });

  test("one whose day has passed corrects what was believed since; holds keep what they were made with", async () => {
    const { tenantId } = await database.addTenant();
    await load([row("input", 1), row("output", 2)]);
    const held = await ledger.reserve(tenantId, { provider });
    const list = [
      row("input", 1, { valid_until: day(-2).slice(0, 10) }),
      row("input", 4, { valid_from: day(-2).slice(0, 10) }),
      row("output", 2),
    ];
    expect(said(await load(list))).toEqual([["corrected", "input", "[0,)", "1", "4"]]);
    expect(await load(list)).toEqual([]);
    expect(await believed("-3 days")).toEqual([
      ["input", "[0,)", "1"],
      ["output", "[0,)", "2"],
    ]);
    expect(await believed("-1 day")).toEqual([
      ["input", "[0,)", "4"],
      ["output", "[0,)", "2"],
    ]);
    const [was] = await rows(
      `select valid::text, corrected_at <= clock_timestamp() as corrected from app.llm_prices
       where provider = $1 and unit = 'input' and usd_per_million = 1 and corrected_at <> 'infinity'`,
      [provider],
    );
    expect(was).toEqual({ valid: "(,)", corrected: true });
    expect(await ledger.settle(tenantId, held["id"], 500, 250)).toMatchObject({ cost_nanousd: "1000000" });
    expect(await ledger.reserve(tenantId, { provider })).toMatchObject({ estimated_cost_nanousd: "2500000" });
  });

  test("tiers come and go", async () => {
    const tiers = (low: number, high: number, border: number) => [
      row("input", low, { prompt_tokens_below: border }),
      row("input", high, { prompt_tokens_from: border }),
    ];
    await load([row("input", 1)]);
    expect(said(await load(tiers(1, 2, 200_000)))).toEqual([
      ["changed", "input", "[0,200000)", "1", "1"],
      ["changed", "input", "[200000,)", "1", "2"],
    ]);
    expect(await load(tiers(1, 2, 200_000))).toEqual([]);
    expect(said(await load(tiers(1, 3, 200_000)))).toEqual([["changed", "input", "[200000,)", "2", "3"]]);
    await load(tiers(1, 3, 272_000));
    expect(await believed()).toEqual([
      ["input", "[0,272000)", "1"],
      ["input", "[272000,)", "3"],
    ]);
    await load([row("input", 5)]);
    expect(await believed()).toEqual([["input", "[0,)", "5"]]);
  });

  test("what the list has no more is said, and stays", async () => {
    await load([row("input", 1), row("output", 2)]);
    const before = await stored();
    expect(said(await load([row("input", 1)]))).toEqual([["vanished", "output", "[0,)", "2", null]]);
    expect(await load([row("input", 1)], { source: `another-of-${provider} 1` })).toEqual([]);
    expect(await stored()).toEqual(before);
  });

  test("what a person has set stays, unless it is to be overwritten", async () => {
    await database.ops.query("select ops.llm_price_set($1, 'm', 7, 8, reason => 'our contract')", [provider]);
    const before = await stored();
    const list = [row("input", 1), row("output", 8), row("cached_input", 0.1)];
    expect(said(await load(list))).toEqual([
      ["kept", "cached_input", "[0,)", null, "0.1"],
      ["kept", "input", "[0,)", "7", "1"],
    ]);
    expect(await stored()).toEqual(before);
    expect(await audits()).toEqual([]);
    expect(said(await load(list, { overwrite: true }))).toEqual([
      ["new", "cached_input", "[0,)", null, "0.1"],
      ["changed", "input", "[0,)", "7", "1"],
      ["changed", "output", "[0,)", "8", "8"], // it is the list's now
    ]);
    expect((await believed()).map(([unit, , usd]) => [unit, usd])).toEqual([
      ["cached_input", "0.1"],
      ["input", "1"],
      ["output", "8"],
    ]);
    expect(await load(list, { overwrite: true })).toEqual([]);
    // What the person had set is over: the next list needs no leave.
    list[0] = row("input", 2);
    expect(said(await load(list))).toEqual([["changed", "input", "[0,)", "1", "2"]]);
  });

  test("a dry run shows the same and changes nothing", async () => {
    await load([row("input", 1)]);
    const before = [await stored(), await audits()];
    const list = [row("input", 3), row("output", 2)];
    const dry = await load(list, { dryRun: true });
    expect([await stored(), await audits()]).toEqual(before);
    expect(said(await load(list))).toEqual(said(dry));
    expect(said(dry)).toHaveLength(2);
  });
});

test("whatever lists come after each other, the last one is believed of what is to come, and taken again it is equal", async () => {
  const days = [-20, -10, 10, 20].map(day);
  const period = fc.record({ border: fc.constantFrom(null, 100, 200), usd: fc.tuple(fc.nat(3), fc.nat(3)) });
  const list = fc.record({
    starts: fc.subarray([0, 1, 2, 3]),
    periods: fc.array(period, { minLength: 5, maxLength: 5 }),
  });
  const rowsOf = ({
    starts,
    periods,
  }: {
    starts: number[];
    periods: { border: number | null; usd: number[] }[];
  }) =>
    [null, ...starts].flatMap((start, index) => {
      const { border, usd } = periods[index]!;
      const end = starts[index];
      const valid = {
        valid_from: start === null ? null : days[start],
        valid_until: end === undefined ? null : days[end],
      };
      const lengths =
        border === null
          ? [[0, null]]
          : [
              [0, border],
              [border, null],
            ];
      return lengths.map(([from, below], tier) =>
        row("input", usd[tier], { prompt_tokens_from: from, prompt_tokens_below: below, ...valid }),
      );
    });
  await fc.assert(
    fc.asyncProperty(fc.array(list, { minLength: 1, maxLength: 4 }), async (lists) => {
      provider = `p-${randomUUID()}`;
      for (const each of lists) await load(rowsOf(each));
      const last = rowsOf(lists.at(-1)!);
      expect(await load(last)).toEqual([]);
      for (const [offset, at] of [
        ["0", 0],
        ["15 days", 15],
        ["25 days", 25],
      ] as const) {
        const moment = Date.now() + at * 86_400_000;
        const expected = last.filter(
          ({ valid_from: from, valid_until: until }) =>
            (from === null || Date.parse(String(from)) <= moment) &&
            (until === null || moment < Date.parse(String(until))),
        );
        expect((await believed(offset)).map(([, lengths, usd]) => [lengths, usd])).toEqual(
          expected.map((each) => [
            `[${each["prompt_tokens_from"]},${each["prompt_tokens_below"] ?? ""})`,
            String(each["usd_per_million"]),
          ]),
        );
      }
    }),
    { numRuns: 40 },
  );
});

describe("sql/prices/genai_prices.sql", () => {
  const sql = readFileSync(projectFile("sql/prices/genai_prices.sql"), "utf8");

  /** Runs the file with the settings of a person's session. */
  async function run(settings: string[] = []): Promise<Row[]> {
    const client: pg.PoolClient = await database.ops.connect();
    try {
      for (const each of settings) await client.query(each);
      return (await client.query(sql)).rows;
    } finally {
      client.release(true);
    }
  }
  const count = async () => Number((await rows("select count(*) as n from app.llm_prices"))[0]!["n"]);

  test("is taken whole, once; a dry run shows it", async () => {
    const listed = rowsOfSql(sql);
    const before = await count();
    const dry = await run(["set holdfast.dry_run = 'on'"]);
    expect(await count()).toBe(before);
    expect(said(await run())).toEqual(said(dry));
    expect(dry.map((each) => each["change"])).toEqual(listed.map(() => "new"));
    expect(await count()).toBe(before + listed.length);
    expect(await run()).toEqual([]);
    expect(await count()).toBe(before + listed.length);
  });

  test("its rows are those that a program reads from it, to the last digit", async () => {
    await run();
    expect(await load(jsonOf(rowsOfSql(sql)), { source: "again 1" })).toEqual([]);
  });

  test("every model of it can be held for and settled, at any length of prompt", async () => {
    await run();
    const { rows: unpriced } = await database.superuser.query(
      `select m.provider, m.model, l.tokens from (
         select distinct provider, model from app.llm_prices where source like '@pydantic/%') as m
       cross join (values (0), (127999), (200001), (5000000)) as l (tokens)
       cross join app_private.llm_price_ids($1, m.provider, m.model, 'standard', now()) as i
       cross join app_private.llm_rates_of($1, i.price_ids, int8range(l.tokens, l.tokens, '[]')) as r
       where r.input is null or r.output is null or not r.input + r.output > 0`,
      [randomUUID()],
    );
    expect(unpriced).toEqual([]);
    const [models] = await rows(
      "select count(distinct (provider, model))::int as n from app.llm_prices where source like '@pydantic/%'",
    );
    expect(models!["n"]).toBe(modelsOf(rowsOfSql(sql)));
  });
});

describe("it refuses, by name, and changes nothing", () => {
  const bad: [string, () => unknown][] = [
    ["no list", () => "null"],
    ["an empty list", () => []],
    ["an object", () => ({})],
    ["a number", () => "1"],
    ["a list of numbers", () => [1]],
    ["no provider", () => [row("input", 1, { provider: null })]],
    ["an empty model", () => [row("input", 1, { model: "" })]],
    ["a unit that is not known", () => [row("inputs", 1)]],
    ["a service tier that is not known", () => [row("input", 1, { service_tier: "fast" })]],
    ["no price", () => [row("input", null)]],
    ["a price in words", () => [row("input", "one")]],
    ["a negative price", () => [row("input", -1)]],
    ["a price that is NaN", () => [row("input", "NaN")]],
    ["an endless price", () => [row("input", "Infinity")]],
    ["a price that is too dear", () => [row("input", 100_001)]],
    ["a request that is too dear", () => [row("request", 1_000_000_001)]],
    ["a day that is none", () => [row("input", 1, { valid_from: "soon" })]],
    [
      "a time that ends before it begins",
      () => [row("input", 1, { valid_from: day(2), valid_until: day(1) })],
    ],
    [
      "a time that is empty",
      () => [row("input", 1, { valid_from: "2026-01-01", valid_until: "2026-01-01" })],
    ],
    ["lengths that are negative", () => [row("input", 1, { prompt_tokens_from: -1 })]],
    ["short prompts without a price", () => [row("input", 1, { prompt_tokens_from: 1 })]],
    ["long prompts without a price", () => [row("input", 1, { prompt_tokens_below: 9 })]],
    [
      "a length without a price",
      () => [row("input", 1, { prompt_tokens_below: 9 }), row("input", 2, { prompt_tokens_from: 10 })],
    ],
    [
      "a length with two prices",
      () => [row("input", 1, { prompt_tokens_below: 10 }), row("input", 2, { prompt_tokens_from: 9 })],
    ],
    ["a price that is there twice", () => [row("input", 1), row("input", 1)]],
  ];
  test.each(bad)("%s", async (_, list) => {
    await load([row("input", 5)]);
    const before = [await stored(), await audits()];
    expect(await raised(load(list()))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect([await stored(), await audits()]).toEqual(before);
  });

  test.each([null, ""])("the source %j", async (source) => {
    expect(await raised(load([row("input", 1)], { source }))).toMatchObject({ name: "argument_invalid" });
  });

  test.each([null, "", "ab"])("the reason %j", async (reason) => {
    expect(await raised(load([row("input", 1)], { reason }))).toMatchObject({ name: "reason_required" });
    expect(await stored()).toEqual([]);
  });
});

test("two lists at once come one after the other", async () => {
  const outcomes = await Promise.allSettled(
    Array.from({ length: 6 }, (_, i) => load([row("input", i + 1), row("output", i + 1)])),
  );
  expect(outcomes.map(({ status }) => status)).toEqual(Array(6).fill("fulfilled"));
  const now = await believed();
  expect(now).toHaveLength(2);
  expect(now[0]![2]).toBe(now[1]![2]);
});

test("a stranger gets nothing: neither the service nor the worker loads prices", async () => {
  for (const { pool } of [database.service, database.worker]) {
    const called = pool.query("select ops.llm_prices_load('[]', 'mine', 'free for all')");
    await expect(called).rejects.toMatchObject({ code: "42501" });
  }
});
